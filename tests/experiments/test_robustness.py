"""Robustness: what is run of an evaluation, and its tables, of results made up for the test."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_group

from comdefend.atomic import write_json
from comdefend.attacks import Norm
from comdefend.cli import app
from comdefend.data import ImageSet
from comdefend.evaluation import Result, read_results, write_results
from comdefend.evaluation.checks import Check
from comdefend.evaluation.worst_case import worst_cases
from comdefend.purifiers import JPEG
from comdefend.threat import ThreatModel
from experiments.robustness import evaluations, experiment, tables
from experiments.robustness.shifted_jpeg import ShiftedJPEG
from tests.experiments.records import N, everything, result


def test_the_jobs_of_an_evaluation_make_its_attacks() -> None:
    def made(one: Any) -> set[tuple[str, str, str]]:
        """Every attack that follows gradients of an attacker, and every one that asks of the last."""
        asking = ("square", "hopskipjump")
        return {
            (level, attack, defence)
            for level in one.knowledge.split(",") for attack in one.attacks.split(",")
            for defence in one.defences if attack.startswith(asking) == (level == "black-box")
        }  # fmt: skip

    for evaluation in evaluations.EVALUATIONS.values():
        jobs = [made(job) for job in evaluation.jobs().values()]
        assert set().union(*jobs) == made(evaluation)
        assert sum(map(len, jobs)) == len(made(evaluation))  # each once
        for job in evaluation.jobs().values():
            norms = {"-l2" in attack for attack in job.attacks.split(",")}
            assert job.knowledge != "white-box" or len(norms) == 1


def test_the_command_line_knows_the_words_of_every_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluations, "official", lambda kind: f"{kind}.safetensors")
    command = get_group(app).commands["evaluate"]
    for evaluation in evaluations.EVALUATIONS.values():
        for one in (evaluation, *evaluation.jobs().values()):
            name, *words = one.words(tmp_path)
            assert name == "evaluate"
            options = command.make_context(name, words).params
            assert tuple(options["defences"]) == one.defences
            assert options["output"] == tmp_path


def test_a_shifted_jpeg_compresses_on_another_grid(sample: ImageSet) -> None:
    shifted, usual = ShiftedJPEG(), JPEG()
    images = usual(sample.images([0, 1, 2, 3]))  # JPEGs already, as those of CIFAR-10
    assert (usual(images) - images).abs().mean() < 0.1 * (shifted(images) - images).abs().mean()
    assert shifted(images[..., :20, :27]).shape == (4, 3, 20, 27)
    at = images.clone().requires_grad_(True)
    shifted.surrogate(at).sum().backward()
    assert at.grad is not None
    assert (at.grad != 0).flatten(1).any(1).all()


def test_an_evaluation_goes_on_as_it_began(tmp_path: Path) -> None:
    assert evaluations.options_so_far(tmp_path) == {}
    in_half = {"dtype": "bfloat16"}
    kept = [result("n", "c", 3, batch=500, fingerprint="1", defence_settings=in_half)]
    write_results(tmp_path / "results.json", [*kept, result("n", "c", 3, attack="worst case")])
    assert evaluations.results_so_far(tmp_path) == kept
    assert evaluations.options_so_far(tmp_path) == {"batch": "500", "dtype": "bfloat16"}


def test_an_evaluations_page_names_the_checks_that_fail(tmp_path: Path) -> None:
    assert tables.evaluation(tmp_path, "mine") == "Not run yet."
    (tmp_path / "mine").mkdir()
    write_results(tmp_path / "mine" / "results.json", everything("own.safetensors", "it"))
    failing = Check(
        "it", "twice the steps", "fail", "9% after 20, 2% after 40", "weak", norm="linf", epsilon=8 / 255
    )
    for checks, strict in (([failing], "exits with 1 (it: twice the steps)"), ([], "exits with 0")):
        write_json(tmp_path / "mine" / "checks.json", [asdict(check) for check in checks])
        text = tables.evaluation(tmp_path, "mine")
        assert f"With `--strict` this evaluation {strict}" in text
        assert ("| defence | check at 8/255 linf |  | found |" in text) == bool(checks)


def test_what_purifiers_add_has_a_line_for_each_and_each_budget(tmp_path: Path) -> None:
    made = []
    for defence, right in (("none", 4), ("it", 3)):
        threat = ThreatModel("linf", 8 / 255, "white-box")
        made += [
            result("c", defence, N),
            result("c", defence, right, "pgd", threat_model=threat, protocol="fixed"),
        ]
    (tmp_path / "mine").mkdir()
    write_results(tmp_path / "mine" / "results.json", [*made, *worst_cases(made)])
    write_json(tmp_path / "mine" / "checks.json", [asdict(Check("it", "twice the steps", "fail", "", ""))])
    _, _, line = tables.gains(tmp_path, {"mine": "Mine", "not-run": "Not run"}).splitlines()
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:3] == ["Mine", "it", "8/255 linf"]
    assert [cell.split(" ")[0] for cell in cells[3:]] == ["+0.0", "", "-12.5", ""]
    assert cells[-2].endswith(" † ‡")


def test_the_summary_marks_what_checks_doubt_and_what_autoattack_did_not_see(tmp_path: Path) -> None:
    titles = {"mine": "Mine", "mine-rivals": "Mine"}

    def left(defence: str, attack: str, norm: Norm, right: int) -> Result:
        threat = ThreatModel(norm, 0.5, "white-box")
        return result("c", defence, right, attack, threat_model=threat, protocol="fixed")

    for name, results, failing in (
        (
            "mine",
            [
                result("c", "none", N), left("none", "pgd", "l2", 6),
                left("none", "autoattack", "linf", 2),
            ],
            [],
        ),
        (
            "mine-rivals",
            [
                result("c", "none", N), left("none", "autoattack-l2", "l2", 4),
                result("c", "it", N), left("it", "pgd", "l2", 6),
            ],
            [Check("it", "twice the steps", "fail", "", "", norm="l2")],
        ),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        write_results(tmp_path / name / "results.json", results)
        write_json(tmp_path / name / "checks.json", [asdict(check) for check in failing])
    bare, rival, _, *meant = tables.summary(tmp_path, titles).splitlines()[2:]
    assert "50.0" in bare.split("|")[-2]  # what AutoAttack left of it for the sake of the rival
    assert "†" not in bare
    assert "‡" not in bare
    assert rival.split("|")[-2].endswith("† ‡ ")
    assert [line[2] for line in meant] == ["†", "‡"]
    write_json(tmp_path / "mine-rivals" / "checks.json", [])
    assert [line[2] for line in tables.summary(tmp_path, titles).splitlines()[5:]] == ["‡"]


@pytest.mark.parametrize(
    ("failing", "under", "norm", "mark"),
    [
        ("twice the steps", "linf", "linf", "†"), ("twice the steps", "linf", "l2", ""),
        ("twice the steps", "l2", "linf", ""), ("twice the steps", "l2", "l2", "†"),
        ("randomness", "linf", "linf", "†"), ("randomness", "linf", "l2", "†"),
    ],
)  # fmt: skip
def test_what_is_checked_under_linf_alone_speaks_against_both_norms(
    failing: str, under: Norm, norm: Norm, mark: str
) -> None:
    made = result("c", "it", 4, "autoattack", threat_model=ThreatModel(norm, 0.5, "white-box"))
    checks = [Check("it", failing, "fail", "", "", norm=under), Check("it", "images", "pass", "", "")]
    assert tables._marks([made], checks, norm, {"twice the steps"}).strip() == mark


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_the_words_of_the_page_on_robustness_are_what_was_found(name: str) -> None:
    """That most fall back, that next to nothing is left, nothing, a part: no table fills these in."""

    def left(evaluation: str, defence: str, knowledge: str, *protocols: str, norm: str = "linf") -> float:
        """The share that withstands every attack of an attacker; the white-box one may make those of all."""
        results = read_results(experiment.FOLDER / evaluation / "results.json")
        clean = next(r for r in results if r.defence == defence and r.threat_model is None)
        shares = clean.shares
        for r in results:
            if r.defence == defence and r.threat_model and r.threat_model.norm == norm and r.protocol in (
                protocols or ("fixed", "minimal")
            ) and knowledge in ("white-box", r.threat_model.knowledge):  # fmt: skip
                shares[: r.n] = torch.minimum(shares[: r.n], r.shares)
        return float(shares.mean())

    assert left(name, "comdefend", "gray-box", "minimal") > 0.7
    assert left(name, "comdefend", "gray-box", "fixed") < 0.05
    assert left(name, "comdefend", "white-box") < 0.01
    assert 0.1 < left(name, "comdefend", "gray-box", norm="l2") < 0.8
    assert 0.2 < left(f"{name}-adversarial", "none", "white-box") < 0.8


def test_storing_in_8_bits_undoes_a_part_of_the_smallest_perturbations() -> None:
    _, _, *lines = tables.rounding(experiment.FOLDER).splitlines()
    assert lines
    for line in lines:
        bare, stored, code = ([float(n) for n in re.findall(r"[\d.]+", c)] for c in line.split("|")[4:7])
        assert bare[2] < stored[1]  # whole intervals lie apart
        assert stored[2] < code[1]
