"""The generated pages of measurements that may not be there yet: on results made up for the test."""

import json
import re
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from comdefend.atomic import write_json
from comdefend.attacks import Norm
from comdefend.data import ImageSet
from comdefend.evaluation import Result, read_results, wilson, write_results
from comdefend.evaluation.checks import Check
from comdefend.evaluation.checks.probe import L2
from comdefend.evaluation.results import ThreatModel, pack
from comdefend.evaluation.worst_case import worst_cases
from comdefend.purifiers import JPEG
from tests.conftest import ROOT

MADE = {
    "seed": 0, "commit": "abc", "software": {"torch": "2"}, "hardware": {"processor": "p", "cores": 2},
}  # fmt: skip
N = 8


def load(name: str, monkeypatch: pytest.MonkeyPatch, folder: str = "docs") -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / folder))
    return __import__(name)


def result(classifier: str, defence: str, right: int, attack: str = "none", **more: object) -> Result:
    mask = torch.arange(N) < right
    return Result(
        "cifar10", classifier, defence, attack, N, right, right=pack(mask), interval=wilson(right, N),
        **{**MADE, **more},  # type: ignore[arg-type]
    )  # fmt: skip


def everything(classifier: str, defence: str) -> list[Result]:
    """What benchmarks/withstood.py leaves of one classifier: fewer are right the larger the budget."""
    found = [result(classifier, defence, 7)]
    for epsilon, attack in product((2, 4, 8, 16), ("fgsm", "bim:steps=50,step=0.04")):
        threat = ThreatModel("linf", epsilon / 255, "gray-box", "untargeted")
        right = 6 - epsilon // 4
        found.append(result(classifier, defence, right, attack, threat_model=threat, protocol="fixed"))
    for knowledge, way, right in (
        ("gray-box", {"source": "another"}, 5), ("white-box", {"mode": "identity"}, 1),
    ):  # fmt: skip
        threat = ThreatModel("linf", 8 / 255, knowledge, "untargeted")  # type: ignore[arg-type]
        found.append(result(classifier, defence, right, "pgd", threat_model=threat, protocol="fixed", **way))
    return found


def test_numbers_of_several_machines_name_each(monkeypatch: pytest.MonkeyPatch) -> None:
    page = load("pages", monkeypatch)
    other = {**MADE, "commit": "def", "hardware": {"processor": "q", "cores": 4, "gpu": "G"}}
    found = page.origin(MADE, other, MADE)
    assert found == "<sub>seed 0, commit abc, def, 2 cores (p), G, 4 cores (q), torch 2</sub>"


def test_the_frontier_has_a_line_and_marks_for_each_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load("frontier_page", monkeypatch)
    assert page.table(tmp_path) == "Not run yet."
    page.draw(tmp_path)
    assert not list(tmp_path.iterdir())
    for name, dial, bits, noise, guides in (
        ("bits-3", "rate", 12, 8.0, []), ("bits-1.5", "rate", 6, 8.0, []),
        ("noise-0", "noise", 12, 0.0, []), ("guided", "loss", 12, 8.0, ["somebody"]),
    ):  # fmt: skip
        reference = f"comdefend:weights={name}.safetensors"
        facts = {
            "reference": reference, "dial": dial, "architecture": {"bits": bits, "block": 2},
            "recipe": {"purifier": {"noise": noise, "guides": guides}},
            "psnr": 27.0, "interval": [26.0, 28.0], **MADE,
        }  # fmt: skip
        (tmp_path / f"{name}.facts.json").write_text(json.dumps(facts))
        both = [*everything("path/net.py:it", reference), *everything("own.safetensors", reference)]
        write_results(tmp_path / f"{name}.json", both)
    lines = page.table(tmp_path).splitlines()
    shown = [
        line for line in lines if line.startswith("| bits-1.5 | 1.5 | 8 | pixels | 27.00 [26.00, 28.00] |")
    ]
    assert len(shown) == 2
    for line in shown:
        accuracies = [cell.split()[0] for cell in line.split("|")[6:-1]]
        assert accuracies == ["87.5", "75.0", "62.5", "50.0", "25.0", "50.0", "62.5", "12.5"]
    assert sum(line.startswith("| guided | 3 | 8 | pixels and logits |") for line in lines) == 2
    page.draw(tmp_path)
    drawn = (tmp_path / "frontier.svg").read_bytes()
    page.draw(tmp_path)
    assert (tmp_path / "frontier.svg").read_bytes() == drawn
    assert b"<svg" in drawn


def test_parts_of_the_training_are_shown_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load("untouched_page", monkeypatch)
    assert page.parts(tmp_path) == "Not run yet."
    for name, defence, facts in (("pixels", "none", {}), ("whole", "comdefend", {"psnr": 24.04})):
        (tmp_path / f"{name}.facts.json").write_text(json.dumps({**facts, **MADE}))
        write_results(tmp_path / f"{name}.json", everything("own.safetensors", defence))
    _, _, whole, alone, *_ = page.parts(tmp_path).splitlines()
    assert whole.startswith("| nothing | 24.0 | 87.5 ")
    assert alone.startswith("| no guides")
    assert alone.split("|")[2].strip() == "-"
    assert alone.split("|")[3].split()[:2] == ["87.5,", "+0.0"]  # the difference from the whole


def test_parts_of_the_training_have_the_columns_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load("untouched_page", monkeypatch)
    results = [
        r for r in everything("own.safetensors", "comdefend")
        if r.threat_model is None or r.threat_model.epsilon == 8 / 255
    ]  # fmt: skip
    (tmp_path / "whole.facts.json").write_text(json.dumps(MADE))
    write_results(tmp_path / "whole.json", results)
    heads = [head.strip() for head in page.parts(tmp_path).splitlines()[0].split("|")[1:-1]]
    wanted = ["clean", "8/255", "BIM-50, 8/255", "other networks', 8/255", "white-box, 8/255"]
    assert heads == ["changed", "PSNR", *wanted]


def test_classifiers_that_stay_as_they_are_have_a_line_for_each_purifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load("untouched_page", monkeypatch)
    assert page.table(tmp_path) == "Not run yet."
    shown = [result("net", "none", 8), *everything("net", "jpeg"), *everything("net", "p/own.safetensors")]
    write_results(tmp_path / "resnet32.json", shown)
    assert page.table(tmp_path) == "Not run yet."  # not measured to its end
    write_json(tmp_path / "resnet32.facts.json", {})
    _, _, *lines, _, made = page.table(tmp_path).splitlines()
    cells = [[cell.split() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[1] for row in cells] == [["none"], ["`jpeg`"], ["`own.safetensors`"]]
    assert [cell[0] if cell else "" for cell in cells[0][2:]] == ["100.0"] + [""] * 10
    # clean, all of gray-box, FGSM, BIM (not made here), then what the other pages have
    expected = ["87.5", "50.0", "50.0", "", "75.0", "62.5", "50.0", "25.0", "50.0", "62.5", "12.5"]
    assert [cell[0] if cell else "" for cell in cells[2][2:]] == expected
    assert "commit abc" in made


def test_what_the_benchmark_of_untouched_classifiers_measures_is_on_its_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    benchmark, page = load("untouched", monkeypatch, "benchmarks"), load("untouched_page", monkeypatch)
    assert list(benchmark.JUDGES) == list(page.JUDGES)
    assert list(benchmark.PARTS) == list(page.CHANGED)
    recipes = {name: benchmark.recipe_of(name).to_dict() for name in benchmark.PARTS}
    assert len({json.dumps(recipe) for recipe in recipes.values()}) == len(recipes)


def test_the_parts_of_the_guided_training_meet_one_attack_and_have_a_file_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = load("untouched", monkeypatch, "benchmarks")
    calls: list[tuple[str, ...]] = []

    def withstood(network: str, *purifiers: str, **_: Any) -> list[Result]:
        calls.append(purifiers)
        return [replace(result("net", name, 4), fingerprint=name) for name in ("none", *purifiers)]

    for name, stand_in in (
        ("RESULTS", tmp_path), ("withstood", withstood), ("unseen", lambda: None),
        ("trained", lambda recipe, stem: stem), ("facts_of", lambda purifier, data: {"of": purifier}),
    ):  # fmt: skip
        monkeypatch.setattr(benchmark, name, stand_in)
    assert not benchmark.done("parts")
    benchmark.measure("parts")
    assert benchmark.done("parts")
    assert [len(purifiers) for purifiers in calls] == [len(benchmark.PARTS)]
    for name in benchmark.PARTS:
        facts = json.loads((tmp_path / f"{name}.facts.json").read_text())
        own = [r.defence for r in read_results(tmp_path / f"{name}.json")]
        assert own == ["none", facts["of"]]
        assert facts["of"].endswith(f"/{name}")


def test_the_parts_of_an_evaluation_make_its_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load("robustness", monkeypatch, "benchmarks")

    def made(one: Any) -> set[tuple[str, str, str]]:
        """Every attack that follows gradients of an attacker, and every one that asks of the last."""
        asking = ("square", "hopskipjump")
        return {
            (level, attack, defence)
            for level in one.knowledge.split(",") for attack in one.attacks.split(",")
            for defence in one.defences if attack.startswith(asking) == (level == "black-box")
        }  # fmt: skip

    assert list(benchmark.EVALUATIONS) == list(load("robustness_page", monkeypatch).EVALUATIONS)
    for evaluation in benchmark.EVALUATIONS.values():
        parts = [made(part) for part in evaluation.parts().values()]
        assert set().union(*parts) == made(evaluation)
        assert sum(map(len, parts)) == len(made(evaluation))  # each once
        for part in evaluation.parts().values():
            norms = {"-l2" in attack for attack in part.attacks.split(",")}
            assert part.knowledge != "white-box" or len(norms) == 1


def test_a_shifted_jpeg_compresses_on_another_grid(sample: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted, usual = load("shifted_jpeg", monkeypatch, "benchmarks").ShiftedJPEG(), JPEG()
    images = usual(sample.images([0, 1, 2, 3]))  # JPEGs already, as those of CIFAR-10
    assert (usual(images) - images).abs().mean() < 0.1 * (shifted(images) - images).abs().mean()
    assert shifted(images[..., :20, :27]).shape == (4, 3, 20, 27)
    at = images.clone().requires_grad_(True)
    shifted.surrogate(at).sum().backward()
    assert at.grad is not None
    assert (at.grad != 0).flatten(1).any(1).all()


def test_an_evaluation_goes_on_as_it_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benchmark = load("robustness", monkeypatch, "benchmarks")
    assert benchmark.begun_with(tmp_path) == {}
    in_half = {"dtype": "bfloat16"}
    kept = [result("n", "c", 3, batch=500, fingerprint="1", defence_settings=in_half)]
    write_results(tmp_path / "parts.json", [*kept, result("n", "c", 3, attack="worst case")])
    assert benchmark.made_so_far(tmp_path) == kept
    assert benchmark.begun_with(tmp_path) == {"batch": "500", "dtype": "bfloat16"}


def test_an_evaluations_page_names_the_checks_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load("robustness_page", monkeypatch)
    assert page.evaluation(tmp_path, "mine") == "Not run yet."
    (tmp_path / "mine").mkdir()
    write_results(tmp_path / "mine" / "results.json", everything("own.safetensors", "it"))
    failing = Check("it", "twice the steps", "fail", "9% after 20, 2% after 40", "weak", budget="8/255 linf")
    for checks, strict in (([failing], "exits with 1 (it: twice the steps)"), ([], "exits with 0")):
        write_json(tmp_path / "mine" / "checks.json", [asdict(check) for check in checks])
        text = page.evaluation(tmp_path, "mine")
        assert f"With `--strict` this evaluation {strict}" in text
        assert ("| defence | check at 8/255 linf |  | found |" in text) == bool(checks)


def test_what_purifiers_add_has_a_line_for_each_and_each_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load("robustness_page", monkeypatch)
    monkeypatch.setattr(page, "EVALUATIONS", {"mine": "Mine", "not-run": "Not run"})
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
    _, _, line = page.gains(tmp_path).splitlines()
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:3] == ["Mine", "it", "8/255 linf"]
    assert [cell.split(" ")[0] for cell in cells[3:]] == ["+0.0", "", "-12.5"]
    assert cells[-1].endswith(" † ‡")


def test_the_summary_marks_what_checks_doubt_and_what_autoattack_did_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load("robustness_page", monkeypatch)
    monkeypatch.setattr(page, "EVALUATIONS", {"mine": "Mine", "mine-rivals": "Mine"})

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
            [Check("it", f"twice the steps{L2}", "fail", "", "")],
        ),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        write_results(tmp_path / name / "results.json", results)
        write_json(tmp_path / name / "checks.json", [asdict(check) for check in failing])
    bare, rival, _, *meant = page.summary(tmp_path).splitlines()[2:]
    assert "50.0" in bare.split("|")[-2]  # what AutoAttack left of it for the sake of the rival
    assert "†" not in bare
    assert "‡" not in bare
    assert rival.split("|")[-2].endswith("† ‡ ")
    assert [line[2] for line in meant] == ["†", "‡"]
    write_json(tmp_path / "mine-rivals" / "checks.json", [])
    assert [line[2] for line in page.summary(tmp_path).splitlines()[5:]] == ["‡"]


@pytest.mark.parametrize(
    ("failing", "norm", "mark"),
    [
        ("twice the steps", "linf", "†"), ("twice the steps", "l2", ""),
        (f"twice the steps{L2}", "linf", ""), (f"twice the steps{L2}", "l2", "†"),
        ("randomness", "linf", "†"), ("randomness", "l2", "†"),
    ],
)  # fmt: skip
def test_what_is_checked_under_linf_alone_speaks_against_both_norms(
    failing: str, norm: Norm, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load("robustness_page", monkeypatch)
    made = result("c", "it", 4, "autoattack", threat_model=ThreatModel(norm, 0.5, "white-box"))
    checks = [Check("it", failing, "fail", "", ""), Check("it", "images", "pass", "", "")]
    assert page._marks(result("c", "it", N), [made], checks, norm, {"twice the steps"}).strip() == mark


@pytest.mark.parametrize(("found", "mark"), [(7, ""), (3, "†")])
def test_what_autoattack_finds_more_of_an_undefended_classifier_is_marked(
    found: int, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = load("robustness_page", monkeypatch)

    def left(attack: str, right: int, count: int) -> Result:
        shares = torch.zeros(count)
        shares[:right] = 1
        made = result("c", "none", 0, attack, threat_model=ThreatModel("l2", 0.5, "white-box"))
        return replace(made, n=count, correct=right, right=pack(shares))

    clean = replace(left("none", 200, 200), threat_model=None)
    made = [left("pgd-l2", 8, 200), left("autoattack-l2", found, 100)]
    assert page._marks(clean, made, [], "l2", set()).strip() == mark


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_the_words_of_the_page_on_robustness_are_what_was_found(name: str) -> None:
    """That most fall back, that next to nothing is left, nothing, a part: no table fills these in."""
    folder = ROOT / "docs" / "results" / "robustness"

    def left(evaluation: str, defence: str, knowledge: str, *protocols: str, norm: str = "linf") -> float:
        """The share that withstands every attack of an attacker; the white-box one may make those of all."""
        results = read_results(folder / evaluation / "results.json")
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


def test_storing_in_8_bits_undoes_a_part_of_the_smallest_perturbations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = load("robustness_page", monkeypatch)
    _, _, *lines = page.rounding(ROOT / "docs" / "results" / "robustness").splitlines()
    assert lines
    for line in lines:
        bare, stored, code = ([float(n) for n in re.findall(r"[\d.]+", c)] for c in line.split("|")[4:7])
        assert bare[2] < stored[1]  # whole intervals lie apart
        assert stored[2] < code[1]
