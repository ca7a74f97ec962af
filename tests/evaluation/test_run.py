"""Situations one after the other: what is kept of them, and what is run again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from comdefend.data import ImageSet
from comdefend.evaluation import Report, Result, evaluate, read_results, write_results
from comdefend.evaluation.results import Knowledge
from tests.conftest import TinyClassifier

BUDGET = 8 / 255


def test_what_is_kept_is_not_run_again(sample: ImageSet, tmp_path: Path) -> None:
    file = tmp_path / "parts.json"

    def run(known: list[Result], titles: list[str], **changed: object) -> Report:
        settings: dict[str, Any] = {"epsilons": [BUDGET], "limit": 9, **changed}
        return evaluate(
            TinyClassifier(classes=10).eval(), "none", data=sample, attacks=["fgsm", "square"],
            knowledge=["gray-box", "black-box"], known=known, keep=lambda r: write_results(file, r),
            progress=lambda _, __, text: titles.append(text), **settings,
        )  # fmt: skip

    first: list[str] = []
    report = run([], first)
    again: list[str] = []
    repeated = run(read_results(file), again)
    assert set(again) == {"done"} != set(first)
    assert [r.correct for r in repeated.results] == [r.correct for r in report.results]
    elsewhere = [replace(r, device="cuda") for r in read_results(file)]
    assert {r.device for r in run(elsewhere, again).results} == {"cuda"}
    other: list[str] = []
    run(read_results(file), other, epsilons=[4 / 255])
    assert any("fgsm" in title for title in other)
    # Where nobody knew more than the classifier nothing was judged in 8 bits, and now it is.
    write_results(file, [replace(r, rounded=None) for r in report.results if r.fingerprint])
    less: list[str] = []
    run(read_results(file), less)
    assert any("fgsm" in title for title in less)
    assert "clean" not in other


def test_a_cell_asked_for_twice_is_counted_once(sample: ImageSet) -> None:
    made = evaluate(
        TinyClassifier(classes=10).eval(), ["none", "none"], data=sample,
        attacks=["fgsm", "fgsm"], epsilons=[0.1, 0.1], protocols=["fixed"], limit=6,
    )  # fmt: skip
    assert [(r.attack, r.defence, r.n) for r in made.results] == [("none", "none", 6), ("fgsm", "none", 6)]


def test_an_attack_on_the_bare_classifier_is_run_once_for_all_who_know_it(sample: ImageSet) -> None:
    def run(*knowledge: Knowledge) -> tuple[list[str], list[Result]]:
        titles: list[str] = []
        report = evaluate(
            TinyClassifier(classes=10).eval(), "feature-squeezing", data=sample, attacks=["fgsm", "pgd"],
            knowledge=knowledge, protocols=["fixed"], epsilons=[BUDGET], limit=12, checks=False, examples=0,
            progress=lambda _, __, text: titles.append(text),
        )  # fmt: skip
        bare = [r for r in report.results if r.defence == "none" and r.knowledge == "white-box"]
        return titles, [r for r in bare if r.attack == "fgsm"]

    both, (shared,) = run("gray-box", "white-box")
    alone, (own,) = run("white-box")
    assert (shared.right, shared.rounded_right, shared.mode) == (own.right, own.rounded_right, own.mode)
    assert (shared.settings, shared.fingerprint) == (own.settings, own.fingerprint)

    def of(titles: list[str], attack: str) -> int:
        return sum(title.startswith(f"white-box: {attack}") and "autograd" in title for title in titles)

    assert of(alone, "fgsm") > of(both, "fgsm")
    assert of(alone, "pgd") == of(both, "pgd")  # with more losses, which the gray-box attacker did not try
