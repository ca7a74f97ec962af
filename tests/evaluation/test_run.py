"""Situations one after the other: what is kept of them, and what is run again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

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


def test_a_picture_of_few_images_does_not_meet_a_search_of_all(sample: ImageSet) -> None:
    def run(epsilons: list[float], known: list[Result]) -> Report:
        return evaluate(
            TinyClassifier(classes=10).eval(), "gaussian", data=sample, attacks=["deepfool"],
            protocols=["minimal"], epsilons=epsilons, known=known, limit=8, batch=8, examples=1,
        )  # fmt: skip

    larger = run([0.5], [])
    both = run([0.5, 1 / 255], larger.results)
    ((whole,), (few,)) = larger.examples, both.examples  # the larger budget leaves less
    assert whole.title == few.title
    assert len(few.adversarial) == 1


def test_a_cell_asked_for_twice_is_counted_once(sample: ImageSet) -> None:
    made = evaluate(
        TinyClassifier(classes=10).eval(), ["none", "none"], data=sample,
        attacks=["fgsm", "fgsm"], epsilons=[0.1, 0.1], protocols=["fixed"], limit=6,
    )  # fmt: skip
    assert [(r.attack, r.defence, r.n) for r in made.results] == [("none", "none", 6), ("fgsm", "none", 6)]


def test_an_attack_on_the_bare_classifier_is_run_once_for_all_who_know_it(sample: ImageSet) -> None:
    def run(attack: str, *knowledge: Knowledge) -> tuple[int, list[Result], list[Tensor]]:
        """How often it was made in full knowledge, its results, and the images in the picture."""
        titles: list[str] = []
        report = evaluate(
            TinyClassifier(classes=10).eval(), "none", data=sample, attacks=[attack], knowledge=knowledge,
            protocols=["fixed"], epsilons=[BUDGET / 99, BUDGET], limit=40, checks=False,
            progress=lambda _, __, text: titles.append(text),
        )  # fmt: skip
        made = [r for r in report.results if r.knowledge == "white-box" and r.attack == attack]
        return (
            sum(title.startswith(f"white-box: {attack}") for title in titles),
            [replace(r, seconds=0) for r in made],
            [e.adversarial for e in report.examples if e.title.startswith("white-box")],
        )

    times, shared, (picture,) = run("fgsm", "gray-box", "white-box")
    again, own, (same,) = run("fgsm", "white-box")
    assert (times, again) == (0, 2)
    assert shared == own
    assert len({r.right for r in own}) == 2
    assert picture.equal(same)
    # Stops early, as the gray-box attacker, who judges by another model than he attacks, does not.
    assert run("bim:steps=2", "gray-box", "white-box")[0] == 2
