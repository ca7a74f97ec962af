"""Scenarios one after the other: what is kept of them, and what is run again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from comdefend.attacks import FGSM, find_attack
from comdefend.attacks.adaptive import AdaptiveView
from comdefend.data import ImageSet
from comdefend.evaluation import Report, Result, Store, evaluate
from comdefend.threat import Knowledge
from tests.conftest import TinyClassifier

BUDGET = 8 / 255


def test_what_is_finished_is_not_run_again(sample: ImageSet, tmp_path: Path) -> None:
    def run(store: Store | None, **changed: object) -> tuple[Report, list[int]]:
        settings: dict[str, Any] = {
            "epsilons": [BUDGET],
            "limit": 9,
            "checks": False,
            "examples": 0,
            **changed,
        }
        attacked: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            plain = FGSM.run

            def counted(*given: Any) -> Tensor:
                attacked.append(1)
                return plain(*given)

            patch.setattr(FGSM, "run", counted)
            made = evaluate(
                TinyClassifier(classes=10).eval(), "none", data=sample, attacks=["fgsm", "square"],
                protocol="fixed", knowledge=["gray-box", "black-box"], store=store, **settings,
            )  # fmt: skip
        return made, attacked

    report, first = run(Store(tmp_path))
    repeated, again = run(Store(tmp_path))
    assert (len(first), len(again)) == (1, 0)
    assert repeated.results == report.results
    assert len(run(Store(tmp_path), epsilons=[4 / 255])[1]) == 1
    other, _ = run(Store(tmp_path), limit=8)
    assert {r.n for r in other.results} == {8}
    # Where nobody knew more than the classifier nothing was judged in 8 bits, and now it is.
    less = Store()
    less.know(replace(r, rounded=None) for r in report.results)
    assert len(run(less)[1]) == 1


def test_a_store_that_fits_nothing_is_noted(sample: ImageSet) -> None:
    store = Store()
    for seed, noted in ((0, False), (1, True)):
        made = evaluate(
            TinyClassifier(classes=10).eval(), "none", sample, attacks="fgsm", limit=5, seed=seed, store=store
        )
        assert any("all was run anew" in note for note in made.notes) == noted


def test_a_picture_of_few_images_does_not_meet_a_search_of_all(sample: ImageSet) -> None:
    def run(epsilons: list[float], store: Store) -> Report:
        return evaluate(
            TinyClassifier(classes=10).eval(), "gaussian", data=sample, attacks=["deepfool"],
            protocol=["minimal"], epsilons=epsilons, store=store, limit=8, batch=8, examples=1,
        )  # fmt: skip

    store = Store()
    larger = run([0.5], store)
    both = run([0.5, 1 / 255], store)
    ((whole,), (few,)) = larger.examples, both.examples  # the larger budget leaves less
    assert whole.title == few.title
    assert len(few.adversarial) == 1


def test_a_cell_asked_for_twice_is_counted_once(sample: ImageSet) -> None:
    made = evaluate(
        TinyClassifier(classes=10).eval(), ["none", "none"], data=sample,
        attacks=["fgsm", "fgsm"], epsilons=[0.1, 0.1], protocol=["fixed"], limit=6,
    )  # fmt: skip
    assert [(r.attack, r.defence, r.n) for r in made.results] == [("none", "none", 6), ("fgsm", "none", 6)]


def test_an_attack_on_the_bare_classifier_is_run_once_for_all_who_know_it(sample: ImageSet) -> None:
    def run(attack: str, *knowledge: Knowledge) -> tuple[int, list[Result], list[Tensor]]:
        """How often it was made in full knowledge, its results, and the images in the picture."""
        made_on: list[bool] = []
        kind: Any = type(find_attack(attack, "fixed"))
        plain, patch = kind.run, pytest.MonkeyPatch()

        def counted(*given: Any) -> Tensor:
            made_on.append(isinstance(given[1], AdaptiveView))
            return plain(*given)  # type: ignore[no-any-return]

        patch.setattr(kind, "run", counted)
        report = evaluate(
            TinyClassifier(classes=10).eval(), "none", data=sample, attacks=[attack], knowledge=knowledge,
            protocol=["fixed"], epsilons=[BUDGET / 99, BUDGET], limit=40, checks=False,
        )  # fmt: skip
        patch.undo()
        made = [r for r in report.results if r.knowledge == "white-box" and r.attack == attack]
        return (
            sum(made_on),
            [replace(r, seconds=0, fingerprint="") for r in made],
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
