"""Tables 3 and 4, both figures and the speed: run at their smallest, resumed, drawn."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from comdefend.errors import RequestError
from comdefend.paper import experiments, figures, trainings
from comdefend.paper.accuracy import run_table
from comdefend.paper.experiments import run, show
from comdefend.paper.figures import draw_figure4
from comdefend.paper.numbers import BITS
from comdefend.paper.settings import Settings, Shown
from comdefend.paper.speed import speed
from comdefend.paper.trainings import LAMBDAS, PHIS, Point, points_of_table4
from tests.paper.test_accuracy import NET, TINY

SMALL = Settings(limit=4, steps=1, data="sample:cifar10")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(SMALL, trained=tmp_path / "runs")


def test_table3_trains_each_number_of_bits_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "BITS", {8: 31.01, 12: 31.78})
    (part,) = run("table3", settings, output=tmp_path)
    content = json.loads((tmp_path / "table3.json").read_text())
    assert [entry["bits"] for entry in content["entries"]] == [8, 12]
    assert all(entry["steps"] == 1 and entry["images"] == 4 for entry in content["entries"])
    assert [line[0] for line in part.grids[0].lines] == ["8", "12"]
    assert "shortened" in (tmp_path / "table3.md").read_text()
    monkeypatch.setattr(trainings, "trained", lambda *_, **__: pytest.fail("trained again"))
    (again,) = run("table3", settings, output=tmp_path)
    assert again.grids == part.grids
    assert show("table3", tmp_path) == [again]


def test_a_shorter_run_leaves_the_longer_one_in_the_file(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "BITS", {8: 31.01})
    (longer,) = run("table3", settings, output=tmp_path)
    (shorter,) = run("table3", replace(settings, limit=2), output=tmp_path)
    assert show("table3", tmp_path) == [shorter]
    monkeypatch.setattr(trainings, "trained", lambda *_, **__: pytest.fail("trained again"))
    assert run("table3", settings, output=tmp_path)[0].grids == longer.grids


@pytest.mark.parametrize("content", ["{broken", "[]", '{"entries": 3}'])
@pytest.mark.parametrize("name", ["table3", "table4", "figure3", "speed"])
def test_damaged_results_are_refused(name: str, content: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(RequestError, match="is no file of results"):
        show(name, tmp_path)
    if name.startswith("table"):
        with pytest.raises(RequestError, match="is no file of results"):
            run(name, settings, output=tmp_path)


def test_an_unknown_device_is_refused_before_any_work(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="device 'banana' cannot be used"):
        run("speed", replace(settings, device="banana"), output=tmp_path)


def test_table4_measures_the_classifier_on_purified_training_images(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "points_of_table4", lambda full: [Point(phi=1.0), Point(lam=0.0)])
    (part,) = run("table4", replace(settings, classifier=f"{NET}:make"), output=tmp_path)
    content = json.loads((tmp_path / "table4.json").read_text())
    assert [(e["lam"], e["phi"], e["n"]) for e in content["entries"]] == [(0.0001, 1.0, 4), (0.0, 20.0, 4)]
    assert content["unpurified"]["n"] == 4
    assert part.grids[0].headings == ["lambda", "phi 1", "phi 20"]
    assert [line[0] for line in part.grids[0].lines] == ["0.0001", "0"]
    assert part.grids[1].lines[2][2] == "91.82"
    assert part.grids[1].lines[2][-1] == "90.60"  # as the paper averages it


def test_the_grid_of_table4_holds_a_rise_and_a_fall_in_both() -> None:
    few, full = points_of_table4(full=False), points_of_table4(full=True)
    assert len(set(full)) == len(LAMBDAS) * len(PHIS)
    assert set(few) < set(full)
    assert len({p.phi for p in few if p.lam == 0.0001}) == 5
    assert {p.lam for p in few if p.phi == 20} == set(LAMBDAS)
    assert set(BITS) == {8, 10, 12, 14, 16}


def test_a_training_that_was_killed_is_gone_on_with(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = trainings.trained(trainings.Point(bits=8), settings, steps=1)
    weights.unlink()
    resumed = []

    def start(*_: object, resume: bool, **__: object) -> None:
        resumed.append(resume)

    monkeypatch.setattr(trainings, "start", start)
    assert trainings.trained(trainings.Point(bits=8), settings, steps=1) == weights
    assert resumed == [True]
    # Another recipe is another training.
    assert trainings.trained(trainings.Point(bits=9), settings, steps=1) != weights
    assert resumed == [True, False]


def test_figure3_draws_all_parts_twice(settings: Settings, tmp_path: Path) -> None:
    (part,) = run("figure3", settings, output=tmp_path)
    assert [len(line) for line in part.grids[0].lines] == [2, 2, 2, 2]  # of one step all stages are one
    assert show("figure3", tmp_path) == [part]
    root = ElementTree.parse(tmp_path / "figure3.svg").getroot()
    assert root.tag.endswith("svg")
    with Image.open(tmp_path / "figure3.png") as picture:
        assert picture.height > picture.width  # nine rows of five images


def test_figure4_is_drawn_from_table5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comdefend = replace(TINY.rows[3], defence="ComDefend")
    table = replace(TINY, rows=(TINY.rows[0], comdefend))
    monkeypatch.setattr(figures, "TABLE5", table)
    (part,) = run("figure4", Settings(limit=4), output=tmp_path)
    assert {file.name for file in part.files} == {"figure4.svg", "figure4.png"}
    first = (tmp_path / "figure4.svg").read_bytes()
    run("figure4", Settings(limit=4), output=tmp_path)
    assert (tmp_path / "figure4.svg").read_bytes() == first
    outcome = run_table(table, Settings(limit=4), output=tmp_path)
    bars = [len(axis.patches) for axis in draw_figure4(outcome).axes]
    assert bars == [3, 2]  # minimal: FGSM at two budgets and C&W; fixed: FGSM alone


def test_speed_compares_all_of_them_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(settings: Settings, **options: object) -> Shown:
        return speed(settings, sizes=((8, 2), (12, 1)), **options)  # type: ignore[arg-type]

    monkeypatch.setitem(experiments.OTHERS, "speed", small)
    (part,) = run("speed", Settings(), output=tmp_path)
    lines = part.grids[0].lines
    assert [line[0] for line in lines] == ["comdefend", "comdefend bfloat16", "hgd", "pixeldefend"]
    assert lines[0][1].endswith("(1 x)")
    assert lines[0][3] == "1200"


def test_unknown_experiments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no experiment 'table1'"):
        run("table1", Settings(), output=tmp_path)
