"""Attackers who know the defence: what breaks what, as published, and the worst case over all of them."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comdefend.attacks import AutoAttack
from comdefend.attacks.adaptive import gradient_modes
from comdefend.attacks.autoattack import LOGGER
from comdefend.data import ImageSet
from comdefend.errors import MissingExtraError, RequestError
from comdefend.evaluation import Report, Result, ThreatModel, evaluate, read_results, wilson, write_results
from comdefend.evaluation.report import write_report
from comdefend.evaluation.results import KNOWLEDGE, Knowledge, pack, unpack
from comdefend.evaluation.situations import best_together
from comdefend.evaluation.tables import counted, headlines
from comdefend.evaluation.worst_case import WORST, worst_cases
from comdefend.purifiers import Chain, ComDefendPurifier, Purifier, load_purifier
from tests.conftest import TinyClassifier, tiny_model
from tests.evaluation.killer import GradientKiller, Misleading

BUDGET = 8 / 255


def accuracy(report: Report, *, defence: str, knowledge: str, attack: str = WORST) -> float:
    return next(
        r.accuracy
        for r in report.results
        if r.defence == defence and r.attack == attack and r.threat_model
        and r.threat_model.knowledge == knowledge
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(sample: ImageSet) -> Report:
    return evaluate(
        TinyClassifier(classes=10).eval(),
        {"tiny": ComDefendPurifier(tiny_model()), "killer": GradientKiller()},
        data=sample, attacks=["fgsm", "pgd", "pgd-l2", "square"], epsilons=[2 / 255, 16 / 255],
        knowledge=["gray-box", "white-box", "black-box"], limit=12, batch=8, checks=False,
    )  # fmt: skip


def test_every_mode_of_a_purifier_is_shown(report: Report) -> None:
    shown = {r.via for r in report.results if r.defence == "tiny" and r.attack == "pgd" and r.via}
    assert {"autograd", "straight-through", "tempered-50", "surrogate", "identity", "spsa"} <= shown
    assert "transfer from its surrogate" in shown
    white = [r for r in report.results if r.attack == "pgd" and r.via == "identity"]
    assert all(r.settings["restarts"] == 3 and "dlr" in r.settings["losses"] for r in white)
    killed = {r.via for r in report.results if r.defence == "killer" and r.attack == "pgd" and r.via}
    assert killed == {"autograd", "identity", "spsa"}


def test_the_worst_case_is_no_better_than_any_attack(report: Report) -> None:
    for worst in (r for r in report.results if r.attack == WORST):
        assert worst.threat_model
        for result in report.results:
            if result.defence == worst.defence and result.n == worst.n:
                threat = result.threat_model
                if threat is None or (
                    threat.knowledge in ("gray-box", worst.threat_model.knowledge)
                    and (threat.norm, threat.epsilon) == (worst.threat_model.norm, worst.threat_model.epsilon)
                ):
                    assert worst.correct <= result.correct


def test_headlines_hold_both_attackers_side_by_side(report: Report) -> None:
    lines = {(h.budget, h.defence): h for h in headlines(report.results)}
    line = lines["16/255 linf", "tiny"]
    assert line.worst["white-box"].correct <= line.worst["gray-box"].correct <= line.clean.correct
    assert ("0.5 l2", "tiny") in lines


def test_results_say_what_became_of_stored_images(report: Report, tmp_path: Path) -> None:
    attacked = [r for r in report.results if r.threat_model and r.attack != WORST]
    assert {r.threat_model.knowledge for r in attacked if r.threat_model} == set(KNOWLEDGE)
    assert all(r.rounded is not None and len(r.rounded_shares) == r.n for r in attacked)
    one = next(r for r in attacked if r.n == 12)
    made = [replace(one, correct=9, interval=wilson(9, 12), rounded=rounded) for rounded in (9, 6)]
    pages = [write_report(Report([r]), tmp_path / str(k))["page"].read_text() for k, r in enumerate(made)]
    assert ["(50.0 in 8 bits)" in page for page in pages] == [False, True]
    assert all(r.rounded is None for r in report.results if r.threat_model is None)


@pytest.mark.parametrize("defence", [GradientKiller(), Misleading()], ids=["killer", "misleading"])
def test_a_defence_that_only_hides_gradients_is_driven_to_zero(defence: Purifier, sample: ImageSet) -> None:
    made = evaluate(
        "cifar10-resnet9-plain", {"it": defence}, data=sample, attacks=["pgd"], epsilons=[BUDGET], limit=8,
        knowledge=["white-box"], checks=False,
    )  # fmt: skip
    of = {r.attack: r for r in made.results if r.defence == "it"}
    assert of["none"].accuracy > 0.7
    assert of[WORST].accuracy == 0
    plain = next(r for r in made.results if r.defence == "it" and r.via == "autograd")
    assert plain.accuracy > 0.3  # by its own gradient it would look robust


def test_what_autoattack_warns_of_is_in_the_report(
    sample: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(_: AutoAttack, __: nn.Module, images: Tensor, *___: object) -> Tensor:
        logging.getLogger(LOGGER).warning("the gradients are zero")
        return images

    monkeypatch.setattr(AutoAttack, "run", warn)
    made = evaluate(
        TinyClassifier(classes=10).eval(), {"it": GradientKiller()}, data=sample, attacks=["autoattack"],
        limit=4, knowledge=["white-box"], checks=False, examples=0,
    )  # fmt: skip
    flags = {r.flags for r in made.results if r.attack == "autoattack"}
    assert flags == {("the gradients are zero",)}
    page = write_report(made, tmp_path)["page"].read_text()
    assert "autoattack on it: the gradients are zero" in page


@pytest.mark.parametrize("draws", [1, 2, 20, 35])
def test_shares_survive_their_file(draws: int) -> None:
    for n in (1, 3, 8, 37):
        shares = torch.randint(0, draws + 1, (n,)) / draws
        torch.testing.assert_close(unpack(pack(shares, draws), n), shares)


def test_the_worst_case_counts_images_and_not_averages() -> None:
    def result(right: list[bool], attack: str, **threat: object) -> Result:
        model = ThreatModel("linf", BUDGET, **threat) if threat else None  # type: ignore[arg-type]
        mask = torch.tensor(right)
        return Result("d", "c", "p", attack, len(right), sum(right), model, right=pack(mask))

    clean = result([True, True, True, False], "none")
    gray = result([True, True, False, False], "a", knowledge="gray-box")
    white = result([False, True, True, False], "b", knowledge="white-box")
    few = result([True, False], "c", knowledge="white-box")
    found = {r.threat_model.knowledge: r for r in worst_cases([clean, gray, white, few]) if r.threat_model}
    assert unpack(found["gray-box"].right, 4).tolist() == [1, 1, 0, 0]
    assert found["white-box"].correct == 0
    smaller = replace(white, threat_model=ThreatModel("linf", BUDGET / 2, "white-box"))
    larger = replace(white, threat_model=ThreatModel("linf", BUDGET * 2, "white-box"))
    at = {r.threat_model.epsilon: r.correct for r in worst_cases([clean, smaller, larger]) if r.threat_model}
    assert at == {BUDGET / 2: 2, BUDGET * 2: 2}
    (only,) = worst_cases([clean, few])  # two images were never attacked: nothing is said of them
    assert (only.n, only.correct) == (2, 1)


@pytest.mark.parametrize(
    ("defence", "mode", "left"),
    [
        ("feature-squeezing:bits=4,window=1", "identity", 0.1),
        ("feature-squeezing:bits=4,window=1", "surrogate", 0.1),
        ("jpeg:quality=75", "identity", 0.2),
        ("jpeg:quality=75", "surrogate", 0.1),
        ("resize-pad", "autograd", 0.1),
    ],
)
def test_bpda_and_eot_break_what_they_are_published_to_break(
    defence: str, mode: str, left: float, sample: ImageSet
) -> None:
    """Athalye et al., 2018: bit-depth reduction and JPEG by BPDA, random resizing by EOT."""
    made = evaluate(
        "cifar10-resnet9-plain", defence, data=sample, attacks=["pgd"], epsilons=[BUDGET], limit=10,
        knowledge=["white-box"], modes=[mode], draws=3, protocols=["fixed"], checks=False,
    )  # fmt: skip
    clean = next(r for r in made.results if r.defence == defence and r.threat_model is None)
    assert clean.accuracy > 0.7
    through = [r for r in made.results if r.defence == defence and r.attack == "pgd" and r.mode == mode]
    assert len(through) == 1
    assert through[0].accuracy <= left


def test_a_random_defence_is_judged_by_many_draws(sample: ImageSet) -> None:
    made = evaluate(
        TinyClassifier(classes=10).eval(), "resize-pad", data=sample, attacks=["pgd"], epsilons=[BUDGET],
        limit=8, knowledge=["white-box"], draws=2, modes=["autograd"], checks=False,
    )  # fmt: skip
    result = next(r for r in made.results if r.attack == "pgd" and r.defence == "resize-pad")
    assert result.via == "autograd, 2 draws"
    assert result.repeats is not None
    assert result.repeats.draws == 20
    assert result.repeats.worst <= result.repeats.mean
    assert result.accuracy == pytest.approx(result.repeats.mean)
    clean, worst = (
        next(r for r in made.results if r.attack == attack and r.defence == "resize-pad")
        for attack in ("none", WORST)
    )
    assert clean.repeats is not None
    assert worst.repeats is not None
    assert worst.accuracy == pytest.approx(float(torch.minimum(clean.shares, result.shares).mean()))


def test_many_images_are_attacked_in_the_best_modes_only(
    sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comdefend.evaluation.situations.SCAN", 7)
    monkeypatch.setattr("comdefend.evaluation.situations.ALL_MODES", 7)
    made = evaluate(
        TinyClassifier(classes=10).eval(), {"tiny": ComDefendPurifier(tiny_model())}, data=sample,
        attacks=["pgd"], epsilons=[BUDGET], limit=14, knowledge=["white-box"], checks=False,
    )  # fmt: skip
    own = [r for r in made.results if r.defence == "tiny" and r.threat_model and "transfer" not in r.via]
    own = [r for r in own if r.via != "spsa" and r.attack != WORST]
    shares = {r.via: r.shares for r in own if r.n == 7}
    assert {(r.attack, r.n) for r in own} == {("pgd:steps=10,step=0.25", 7), ("pgd", 14)}
    scanned, kept = ({r.via for r in own if r.n == n} for n in (7, 14))
    assert len(scanned) > 5
    assert len(kept) == 2
    assert kept == set(best_together(shares))


def test_the_second_mode_is_the_one_that_adds_most() -> None:
    left = {
        "good": torch.tensor([0.0, 0, 0, 1, 1]), "alike": torch.tensor([0.0, 0, 1, 1, 1]),
        "other": torch.tensor([1.0, 1, 1, 1, 0]),
    }  # fmt: skip
    assert best_together(left) == ("good", "other")
    assert best_together({"only": torch.ones(2)}) == ("only",)


@pytest.mark.parametrize(
    ("knowledge", "more", "seen"), [("gray-box", "", 6), ("gray-box,black-box", ",square:asked=2", 4)]
)
def test_slow_attacks_see_fewer_images_beside_attackers_who_know_more(
    knowledge: str, more: str, seen: int, sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("situations", "worst_case"):
        monkeypatch.setattr(f"comdefend.evaluation.{module}.FEW", 4)
    found = evaluate(
        TinyClassifier(classes=10).eval(), "feature-squeezing", data=sample,
        attacks="fgsm,apgd:steps=2" + more, knowledge=knowledge, limit=6, protocols="fixed", examples=0,
    ).results  # fmt: skip
    gray = {r.attack: r.n for r in found if r.threat_model and r.threat_model.knowledge == "gray-box"}
    assert gray["apgd:steps=2"] == seen
    assert gray["fgsm"] == 6


def test_what_slow_attacks_saw_is_told_apart_from_the_rest() -> None:
    def result(right: Sequence[int], attack: str, knowledge: Knowledge | None) -> Result:
        model = ThreatModel("linf", BUDGET, knowledge) if knowledge else None
        shares = torch.tensor(right).float()
        return Result("d", "c", "p", attack, len(right), sum(right), model, right=pack(shares))

    clean = result([1] * 200, "none", None)
    quick = result([0] * 50 + [1] * 150, "pgd", "white-box")
    slow = result([0] * 80 + [1] * 20, "autoattack", "white-box")
    estimate = result([0] * 16, "pgd", "white-box")
    trial = replace(slow, trial=True)
    (worst,) = worst_cases([clean, quick, slow, estimate])
    assert (worst.n, worst.correct, worst.every) == (200, 120, (100, 20))
    assert counted(worst, [clean]).endswith("; 20.0 [13.3, 28.9] n=100")
    (alone,) = worst_cases([clean, quick, estimate, trial])
    assert alone.every is None


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
    other: list[str] = []
    run(read_results(file), other, epsilons=[4 / 255])
    assert any("fgsm" in title for title in other)
    # Where nobody knew more than the classifier nothing was judged in 8 bits, and now it is.
    write_results(file, [replace(r, rounded=None) for r in report.results if r.fingerprint])
    less: list[str] = []
    run(read_results(file), less)
    assert any("fgsm" in title for title in less)
    assert "clean" not in other


def test_a_mode_is_for_those_defences_that_know_it(sample: ImageSet) -> None:
    network = TinyClassifier(classes=10).eval()
    defences: dict[str, nn.Module | str] = {"code": ComDefendPurifier(tiny_model()), "jpeg": "jpeg"}
    modes = ["tempered-50", "surrogate"]
    made = evaluate(
        network, defences, data=sample, attacks=["pgd:steps=2"], epsilons=[BUDGET], limit=4,
        knowledge=["white-box"], modes=modes, checks=False,
    )  # fmt: skip
    found = {(r.defence, r.attack, r.via) for r in made.results if r.threat_model and r.attack != WORST}
    assert {via for name, _, via in found if name == "code"} >= set(modes)
    assert "surrogate" in {via for name, _, via in found if name == "jpeg"}
    assert not any(name == "jpeg" and "tempered" in via for name, _, via in found)
    assert ("none", "pgd:steps=2", "autograd") in found
    assert not any(name == "none" and via == "surrogate" for name, _, via in found)
    with pytest.raises(RequestError, match=r"'jpeg' has no gradient mode tempered-50 .known: surr"):
        evaluate(
            network, defences, data=sample, attacks=["pgd"], limit=4, knowledge=["white-box"],
            modes=["tempered-50"],
        )  # fmt: skip


def test_a_package_that_a_mode_needs_is_named(sample: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    with pytest.raises(MissingExtraError, match=r'"kornia".*comdefend\[defences\]'):
        evaluate(
            TinyClassifier(classes=10).eval(), "jpeg", data=sample, attacks=["pgd"], limit=4,
            knowledge=["white-box"], modes=["surrogate"],
        )  # fmt: skip


def test_what_is_differentiable_is_not_attacked_through_a_copy_of_itself(sample: ImageSet) -> None:
    images = sample.images([0, 1])
    for purifier in (load_purifier("gaussian"), load_purifier("tv")):
        assert "surrogate" not in gradient_modes(purifier)
        torch.testing.assert_close(purifier.surrogate(images), purifier(images))
    mixed = load_purifier("gaussian+feature-squeezing")
    assert isinstance(mixed, Chain)
    assert "surrogate" in gradient_modes(mixed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"knowledge": ["psychic"]}, "no knowledge 'psychic'"),
        ({"knowledge": ["white-box"], "modes": ["sideways"]}, "no gradient mode 'sideways'"),
        ({"draws": 0}, "draws is 0"),
        ({"attacks": ["pgd-l2"], "l2_epsilons": [0.0]}, "l2_epsilon is 0"),
        ({"stand_ins": ["comdefent"]}, "did you mean comdefend"),
        ({"sources": ["cifar10-resnet8"]}, "no weights named 'cifar10-resnet8'"),
        ({"sources": ["fashion-mnist-resnet9"]}, "'fashion-mnist-resnet9'"),
        ({"sources": "cifar10-resnet9", "knowledge": "white-box"}, "must name gray-box and is white-box"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    settings: dict[str, object], message: str, sample: ImageSet
) -> None:
    with pytest.raises(RequestError, match=message):
        evaluate(TinyClassifier(classes=10).eval(), "none", data=sample, limit=4, **settings)  # type: ignore[arg-type]


def test_images_made_on_another_classifier_are_tried_too(sample: ImageSet) -> None:
    class Turned(nn.Module):
        """Sees the negative: what fools it does something else to the one that is attacked."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = TinyClassifier(classes=10).eval()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(1 - images)
            return logits

    made = evaluate(
        Turned(), "none", data=sample, attacks=["pgd"], protocols=["fixed"], epsilons=[BUDGET], limit=50,
        sources=["cifar10-resnet9-plain"],
    )  # fmt: skip
    (moved,) = [r for r in made.results if r.via == "transfer from cifar10-resnet9-plain"]
    (own,) = [r for r in made.results if r.attack == "pgd" and not r.via]
    assert moved.threat_model == own.threat_model == ThreatModel("linf", BUDGET)
    assert moved.n == own.n == 50
    assert moved.accuracy >= own.accuracy
    assert moved.fingerprint != own.fingerprint
