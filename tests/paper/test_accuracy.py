"""Tables of accuracy: cells, what is run again and what is not, what is said when rows are missing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comdefend.attacks import FGSM
from comdefend.cli import main
from comdefend.errors import RequestError, WorkError
from comdefend.evaluation import Result, Store, read_results
from comdefend.evaluation.judge import Judge
from comdefend.paper import EXPERIMENTS, accuracy, check_experiment
from comdefend.paper.accuracy import Outcome, cells_of, run_table
from comdefend.paper.numbers import ACCURACY_TABLES, TABLE5, AccuracyTable, Row
from comdefend.paper.pages import differences, from_file, grids, notes, shown
from comdefend.paper.settings import Settings
from tests.conftest import ROOT

NET = f"{ROOT}/tests/paper/net.py"

TINY = AccuracyTable(
    name="tiny",
    title="A small table",
    data="sample:cifar10",
    classifier=f"{NET}:make",
    epsilons=(2, 8),
    attacks=("fgsm", "cw"),
    rows=(
        Row("-", "none", "", "none", {"none": (92, 92), "fgsm": (39, 20), "cw": (0, 0)}),
        Row("training", "smoothing", "_more", "none", {"none": (90, 90), "fgsm": (50, 30), "cw": (2, 4)}),
        Row("training", "gone", "_gone", "none", {"none": (90, 90)}),
        Row("test", "blur", "", "gaussian", {"none": (80, 80), "fgsm": (60, 40)}),
        Row("test", "lost", "", "comdefend:weights=lost", {}),
        Row("test", "untrained", "", "hgd:weights=imagenet-hgd", {}),
    ),
)
FEW = Settings(limit=6)


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    return run_table(TINY, FEW, output=tmp_path)


def test_every_cell_of_every_row_that_can_be_run_is_there(outcome: Outcome) -> None:
    ran = [(c.row.defence, c.attack, c.protocol, c.epsilon) for c, _ in outcome.results]
    each = [
        ("none", None, None), ("fgsm", "minimal", 2), ("fgsm", "minimal", 8), ("cw", "minimal", None),
        ("fgsm", "fixed", 2), ("fgsm", "fixed", 8),
    ]  # fmt: skip
    assert sorted(map(str, ran)) == sorted(
        str((defence, *cell)) for defence in ("none", "smoothing", "blur") for cell in each
    )
    assert all(result.n == 6 for _, result in outcome.results)
    reasons = {row.defence: reason for row, reason in outcome.missing.items()}
    assert set(reasons) == {"gone", "lost", "untrained"}
    assert "comdefend train imagenet-hgd" in reasons["untrained"]


def test_what_is_in_the_file_is_not_run_again(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "run", lambda *_, **__: pytest.fail("nothing is left to run"))
    again = run_table(TINY, FEW, output=tmp_path)
    assert again.results == outcome.results


def test_what_another_table_has_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (replace(TINY, name=name, rows=(TINY.rows[0], TINY.rows[3])) for name in ("one", "two"))
    monkeypatch.setitem(ACCURACY_TABLES, "small", (one, two))
    first = run_table(one, FEW, output=tmp_path)
    monkeypatch.setattr(Judge, "run", lambda *_, **__: pytest.fail("run again"))
    assert run_table(two, FEW, output=tmp_path).results == first.results
    assert read_results(tmp_path / "two.json") == read_results(tmp_path / "one.json")


@pytest.mark.parametrize("change", ["limit", "seed", "attack", "weights", "settings"])
def test_what_depends_on_a_change_is_run_again(
    change: str, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, settings = TINY, FEW
    if change == "limit":
        settings = replace(FEW, limit=5)
    elif change == "seed":
        settings = replace(FEW, seed=1)
    elif change == "attack":
        monkeypatch.setattr(FGSM, "settings", lambda _: {"strength": 2})
    elif change == "weights":
        monkeypatch.setenv("TEST_NET_SCALE", "0.9")
    elif change == "settings":
        monkeypatch.setattr("comdefend.purifiers.gaussian.GaussianSmoothing.settings", lambda _: {"sigma": 9})
    before = {cell: result.fingerprint for cell, result in outcome.results}
    after = run_table(table, settings, output=tmp_path)
    changed = {
        (c.row.defence, c.attack, c.protocol)
        for c, r in after.results
        if before.get(c, "of another size") != r.fingerprint
    }
    everything = {(c.row.defence, c.attack, c.protocol) for c, _ in after.results}
    expected = {
        "attack": {cell for cell in everything if cell[1] == "fgsm"},
        "settings": {cell for cell in everything if cell[0] == "blur"},
    }.get(change, everything)
    assert changed == expected
    # The file holds no cell twice, but keeps those of another length or seed.
    kept = read_results(tmp_path / "tiny.json")
    assert len(kept) == len(after.results) * (2 if change in ("limit", "seed") else 1)


def test_a_quick_look_leaves_the_long_run_which_is_shown(outcome: Outcome, tmp_path: Path) -> None:
    run_table(TINY, replace(FEW, limit=2), output=tmp_path)
    (own,) = from_file(TINY, tmp_path / "tiny.json")
    assert [result for _, result in own.results] == [result for _, result in outcome.results]


def test_other_images_under_the_same_name_are_run_again(tmp_path: Path) -> None:
    from PIL import Image

    kinds = [tmp_path / "data" / kind for kind in "ab"]
    for kind in kinds:
        kind.mkdir(parents=True)
    clean = replace(TINY, attacks=(), rows=TINY.rows[:1])
    seen = []
    for side in (32, 40):  # of one size each, then of two
        for kind in kinds:
            Image.effect_noise((side, 32), 60).convert("RGB").save(kind / f"{side}.png")
        ran = run_table(clean, replace(FEW, data=str(tmp_path / "data")), output=tmp_path)
        seen.append({(r.fingerprint, r.data, r.n) for _, r in ran.results})
    assert [data.rsplit("/")[-1] for ((_, data, _),) in seen] == ["data", "data at 224x224"]
    assert [n for ((_, _, n),) in seen] == [2, 4]


def test_a_killed_run_leaves_every_finished_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = replace(FEW, protocols=("fixed",))
    kept: list[str] = []
    keep = Store.keep

    def die(store: Store, records: Sequence[Result]) -> None:
        keep(store, records)
        kept.extend(record.attack for record in records)
        if "fgsm" in kept:
            raise WorkError("the power went out after the first budget")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "keep", die)
        with pytest.raises(WorkError):
            run_table(TINY, fixed, output=tmp_path)
    assert kept == ["none", "none", "fgsm", "fgsm"]  # of two rows with one classifier
    attacked: list[int] = []
    plain = FGSM.run

    def counted(*given: Any) -> Any:
        attacked.append(1)
        return plain(*given)

    monkeypatch.setattr(FGSM, "run", counted)
    whole = run_table(TINY, fixed, output=tmp_path)
    assert len(whole.results) == 9
    assert len(attacked) == 2 * 2 - 1  # two budgets of two classifiers, and one is there
    assert not (tmp_path / "tiny.part").exists()


def test_rows_for_training_are_left_out_with_a_classifier_of_ones_own(tmp_path: Path) -> None:
    outcome = run_table(TINY, replace(FEW, classifier=f"{NET}:other"), output=tmp_path)
    assert {cell.row.defence for cell, _ in outcome.results} == {"none", "blur"}
    assert {row.defence for row in outcome.missing} == {"smoothing", "gone", "lost", "untrained"}
    run_table(TINY, FEW, output=tmp_path)
    own, other = from_file(TINY, tmp_path / "tiny.json")
    assert {cell.classifier for cell, _ in own.results} == {f"{NET}:make", f"{NET}:make_more"}
    assert [result for _, result in other.results] == [result for _, result in outcome.results]


def test_weights_are_found_among_ones_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from comdefend import zoo
    from comdefend.classifiers import build_classifier

    network = build_classifier("resnet9", channels=3, classes=10, seed=1)
    architecture = {"architecture": "resnet9", "channels": 3, "classes": 10}
    facts = zoo.Facts("mine", "classifier", architecture, data="cifar10", made="by a test")
    zoo.write(network, facts, tmp_path / "runs" / "mine-smooth" / "weights.safetensors")
    table = replace(TINY, classifier="mine", rows=(replace(TINY.rows[1], classifier="-smooth"),))
    outcome = run_table(table, replace(FEW, trained=tmp_path / "runs", limit=2), output=tmp_path)
    assert {cell.classifier for cell, _ in outcome.results} == {"mine-smooth"}


def test_a_classifier_that_does_not_fit_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "evaluate", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(RequestError, match="does not take images of 1x28x28"):
        run_table(TINY, replace(FEW, data="sample:fashion-mnist"), output=tmp_path)
    assert not (tmp_path / "tiny.json").exists()


def test_the_page_holds_ours_and_the_papers(outcome: Outcome) -> None:
    minimal, fixed = grids(outcome)
    assert minimal.headings == ["when", "defence", "whose", "clean", "FGSM 2", "FGSM 8", "C&W"]
    assert fixed.headings == minimal.headings[:-1]
    assert [line[2] for line in minimal.lines] == ["ours", "paper"] * 3
    assert minimal.lines[1] == ["", "", "paper", "92", "39", "20", "0"]
    assert minimal.lines[3][-1] == "2/4"  # C&W has no budget here: all of the paper's columns
    assert minimal.lines[5][-1] == ""
    text = shown(outcome).markdown()
    for word in ("gray-box", "today's standard", "Not run: gone (training)", "95 % Wilson", "| paper |"):
        assert word in text
    assert all("none, clean" not in line for line in differences(outcome, above=100))
    lines = differences(outcome, above=0)
    assert len(lines) > 5
    assert any(line.startswith("undefended, minimal: FGSM 2 ") for line in lines)
    assert any("C&W" in line or "6 images" in line for line in notes(outcome))


def test_slow_attacks_and_purifiers_get_fewer_images() -> None:
    limits = {(c.row.defence, c.attack): c.limit for c in cells_of(TABLE5, Settings())}
    assert limits["none", "fgsm"] == 1000
    assert limits["none", "cw"] == limits["PixelDefend", "fgsm"] == 200
    assert {c.limit for c in cells_of(TABLE5, Settings(limit=50))} == {50}


def test_unknown_experiments_name_the_nearest() -> None:
    assert check_experiment("table5") == "table5"
    with pytest.raises(RequestError, match="did you mean table5"):
        check_experiment("tabel5")
    assert set(ACCURACY_TABLES) <= set(EXPERIMENTS)


@pytest.mark.parametrize("tables", ACCURACY_TABLES.values(), ids=lambda t: t[0].name)
def test_the_papers_rows_are_as_long_as_their_columns(tables: tuple[AccuracyTable, ...]) -> None:
    for table in tables:
        for row in table.rows:
            for attack, numbers in row.paper.items():
                assert len(numbers) == len(table.epsilons_of(attack)), (table.name, row.defence, attack)
                assert all(0 <= number <= 100 for number in numbers)


def test_the_command_prints_the_table_and_writes_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ACCURACY_TABLES, "table5", (TINY,))
    folder = tmp_path / "out"
    assert main(["reproduce", "table5", "--limit", "3", "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "paper" in out
    assert "Not run: gone (training)" in out
    assert "| blur | ours |" in (folder / "tiny.md").read_text()
    assert main(["reproduce", "table5", "--limit", "3", "--output", str(folder), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["files"] == [str(folder / "tiny.json")]
    assert main(["reproduce", "table55", "--output", str(folder)]) == 2
    assert "did you mean table5" in capsys.readouterr().err
    assert main(["reproduce", "table5", "--protocol", "free", "--output", str(folder)]) == 2
