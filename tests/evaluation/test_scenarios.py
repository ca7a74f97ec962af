"""Attackers who know the defence, or only its answers: what they try, and what breaks what, as published."""

import sys
from collections.abc import Callable
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import comdefend
from comdefend.attacks import Square, SquareOfMeans
from comdefend.attacks.adaptive import gradient_modes
from comdefend.data import ImageSet
from comdefend.errors import MissingExtraError, RequestError
from comdefend.evaluation import Report, ThreatModel, evaluate
from comdefend.evaluation.modes import MAX_MODES, best_together, choose_modes
from comdefend.evaluation.scenarios import Scenario, scenarios
from comdefend.evaluation.spec import EvaluationSpec
from comdefend.evaluation.worst_case import WORST
from comdefend.purifiers import Chain, ComDefendPurifier, Identity, Purifier
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


def tried_modes(
    purifier: nn.Module, survive: Callable[[Scenario], Tensor]
) -> tuple[list[str], tuple[str, ...]]:
    """The modes that a trial on 200 images tries, and those that go on, where so many survive each."""
    seen: list[str] = []

    def scan(scenario: Scenario) -> Tensor:
        assert scenario.trial
        seen.append(scenario.mode)
        return survive(scenario)

    spec = EvaluationSpec(attacks=("pgd",), knowledge=("white-box",))
    found = choose_modes(spec, {"tiny": purifier}, images=200, image=torch.rand(1, 3, 8, 8), scan=scan)
    return seen, found["tiny", "linf"]


def test_every_mode_of_a_purifier_is_shown(adaptive_report: Report) -> None:
    shown = {r.via for r in adaptive_report.results if r.defence == "tiny" and r.attack == "pgd" and r.via}
    assert {"autograd", "straight-through", "tempered-50", "surrogate", "identity", "spsa"} <= shown
    assert "transfer from its surrogate" in shown
    white = [r for r in adaptive_report.results if r.attack == "pgd" and r.via == "identity"]
    assert all(r.settings["restarts"] == 3 and "dlr" in r.settings["losses"] for r in white)
    killed = {r.via for r in adaptive_report.results if r.defence == "killer" and r.attack == "pgd" and r.via}
    assert killed == {"autograd", "identity", "spsa"}


@pytest.mark.slow
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


@pytest.mark.slow
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
        knowledge=["white-box"], modes=[mode], eot_samples=3, protocol=["fixed"], checks=False,
    )  # fmt: skip
    clean = next(r for r in made.results if r.defence == defence and r.threat_model is None)
    assert clean.accuracy > 0.7
    through = [r for r in made.results if r.defence == defence and r.attack == "pgd" and r.mode == mode]
    assert len(through) == 1
    assert through[0].accuracy <= left


def test_many_images_are_attacked_in_the_best_modes_only(
    sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comdefend.evaluation.modes.TRIAL_IMAGES", 7)
    monkeypatch.setattr("comdefend.evaluation.modes.MAX_ALL_MODES", 7)
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


@pytest.mark.parametrize(
    ("best", "closer"), [(6, {20, 5, 2.5}), (200, {100, 400}), (3000, {500, 2000, 4000, 8000})]
)
def test_modes_beside_the_best_are_tried_as_long_as_they_are_better(best: float, closer: set[float]) -> None:
    purifier = ComDefendPurifier(tiny_model())

    def left(scenario: Scenario) -> Tensor:
        kind, _, temperature = scenario.mode.partition("tempered-")
        return torch.tensor([9.0 if kind else abs(log(float(temperature) / best)), 1.0])

    made, kept = tried_modes(purifier, left)
    assert len(kept) == 2
    tried = set(made) - set(gradient_modes(purifier))
    assert {float(mode.removeprefix("tempered-")) for mode in tried} == closer


def test_modes_beside_the_second_are_tried_where_it_breaks_what_the_best_leaves() -> None:
    """The surrogate is best, by one image of three; what tempered-10 breaks beside it, twice its temperature
    breaks more of.
    """
    purifier = ComDefendPurifier(tiny_model())
    left = {"surrogate": [0.0, 0.0, 1.0], "tempered-10": [1.0, 1.0, 0.0], "tempered-20": [0.0, 0.0, 0.0]}
    made, kept = tried_modes(
        purifier, lambda scenario: torch.tensor(left.get(scenario.mode, [1.0, 1.0, 1.0]))
    )
    assert set(made) - set(gradient_modes(purifier)) == {"tempered-5", "tempered-20"}
    assert "tempered-20" in kept


def test_nothing_is_looked_for_beside_a_mode_that_leaves_nothing() -> None:
    purifier = ComDefendPurifier(tiny_model())
    made, kept = tried_modes(
        purifier, lambda scenario: torch.full((2,), float(scenario.mode != "tempered-50"))
    )
    assert set(made) == set(gradient_modes(purifier))
    assert kept[0] == "tempered-50"


def test_slow_attacks_go_through_the_best_mode_alone() -> None:
    purifier = ComDefendPurifier(tiny_model())
    spec = EvaluationSpec(attacks="autoattack,autoattack-l2,pgd", knowledge="white-box")  # type: ignore[arg-type]
    modes = {("tiny", "linf"): ("surrogate", "identity"), ("tiny", "l2"): ("identity", "surrogate")}
    made = scenarios(spec, {"tiny": purifier}, images=200, modes=modes)  # type: ignore[arg-type]
    whole = [(s.attack.name, s.attack.norm, s.mode) for s in made if s.attack and s.mode]
    assert whole == [
        ("pgd", "linf", "surrogate"), ("pgd", "linf", "identity"),
        ("autoattack", "linf", "surrogate"), ("autoattack", "l2", "identity"),
    ]  # fmt: skip


def test_scenarios_are_made_without_running_anything() -> None:
    class Untouched(Purifier):
        def purify(self, images: Tensor) -> Tensor:
            raise AssertionError("a plan runs nothing")

    asked: dict[str, Any] = {"attacks": "fgsm,cw,square", "knowledge": "gray-box,white-box,black-box"}
    spec = EvaluationSpec(**asked, epsilons=(2 / 255, 8 / 255))
    made = scenarios(spec, {"none": Identity(), "it": Untouched()}, images=500)
    assert made == list(dict.fromkeys(made))
    assert made[0].title == "clean"
    gray = [s for s in made if s.threat_model and s.threat_model.knowledge == "gray-box"]
    assert all(s.defences == ("none", "it") for s in gray)
    assert [(s.attack.name, s.attack.protocol, s.limit) for s in gray if s.attack] == [
        *[("fgsm", "fixed", None)] * 2, *[("fgsm", "minimal", None)] * 2, ("cw", "minimal", 100),
    ]  # fmt: skip
    white = {(s.defences, s.mode) for s in made if s.title.startswith("white-box: fgsm")}
    assert white == {(("none",), "autograd"), (("it",), "autograd"), (("it",), "identity")}
    assert {s.limit for s in made if s.title.startswith("black-box")} == {100}


def test_a_random_defence_is_asked_by_a_square_that_no_lucky_answer_stops() -> None:
    spec = EvaluationSpec(attacks="square:queries=7", knowledge="black-box", eot_samples=3)  # type: ignore[arg-type]
    for defence, kind in ((comdefend.load("resize-pad"), SquareOfMeans), (comdefend.load("jpeg"), Square)):
        _, made = scenarios(spec, {"it": defence}, images=9)
        assert made.attack is not None
        assert type(made.attack) is kind
        assert made.attack.title == "square:queries=7"
        assert made.attack.settings() == {"queries": 7}
        assert made.target.eot_samples == (3 if kind is SquareOfMeans else 1)


def test_a_search_that_always_finds_better_ends() -> None:
    def left(scenario: Scenario) -> Tensor:
        kind, _, temperature = scenario.mode.partition("tempered-")
        return torch.tensor([9.0 if kind else float(temperature)])

    made, _ = tried_modes(ComDefendPurifier(tiny_model()), left)
    assert MAX_MODES <= len(set(made)) <= MAX_MODES + 1


def test_the_second_mode_is_the_one_that_adds_most() -> None:
    left = {
        "good": torch.tensor([0.0, 0, 0, 1, 1]), "alike": torch.tensor([0.0, 0, 1, 1, 1]),
        "other": torch.tensor([1.0, 1, 1, 1, 0]),
    }  # fmt: skip
    assert best_together(left) == ("good", "other")
    assert best_together({"only": torch.ones(2)}) == ("only",)


@pytest.mark.parametrize(
    ("knowledge", "more", "slow_limit", "seen"),
    [
        ("gray-box", "", 4, 6),
        ("gray-box,black-box", ",square:queries=2", 4, 4),
        ("gray-box,black-box", ",square:queries=2", 5, 5),
        ("gray-box,black-box", ",square:queries=2", 7, 6),
    ],
)
def test_slow_attacks_see_fewer_images_beside_attackers_who_know_more(
    knowledge: str, more: str, slow_limit: int, seen: int, sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = EvaluationSpec(attacks="fgsm,apgd:steps=2" + more, knowledge=knowledge, protocol="fixed")  # type: ignore[arg-type]
    object.__setattr__(few, "slow_limit", slow_limit)  # below what may be asked for, to be quick
    monkeypatch.setattr(EvaluationSpec, "__post_init__", lambda _: None)
    found = evaluate(
        TinyClassifier(classes=10).eval(), "feature-squeezing", sample, few, limit=6, slow_limit=slow_limit,
        examples=0,
    ).results  # fmt: skip
    slow = {r.n for r in found if r.attack in ("apgd:steps=2", more.removeprefix(","))}
    assert slow == {seen}
    gray = {r.attack: r.n for r in found if r.threat_model and r.threat_model.knowledge == "gray-box"}
    assert gray["apgd:steps=2"] == seen
    assert gray["fgsm"] == 6


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
    for purifier in (comdefend.load("gaussian"), comdefend.load("tv")):
        assert "surrogate" not in gradient_modes(purifier)
        torch.testing.assert_close(purifier.surrogate(images), purifier(images))
    mixed = comdefend.load("gaussian+feature-squeezing")
    assert isinstance(mixed, Chain)
    assert "surrogate" in gradient_modes(mixed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"knowledge": ["psychic"]}, "no knowledge 'psychic'"),
        ({"knowledge": ["white-box"], "modes": ["sideways"]}, "no gradient mode 'sideways'"),
        ({"eot_samples": 0}, "eot_samples is 0"),
        ({"attacks": ["pgd-l2"], "l2_epsilons": [0.0]}, "l2_epsilon is 0"),
        ({"surrogate_purifiers": ["comdefent"]}, "did you mean comdefend"),
        ({"surrogate_classifiers": ["cifar10-resnet8"]}, "no weights named 'cifar10-resnet8'"),
        ({"surrogate_classifiers": ["fashion-mnist-resnet9"]}, "'fashion-mnist-resnet9'"),
        (
            {"surrogate_classifiers": "cifar10-resnet9", "knowledge": "white-box"},
            "must name gray-box and is white-box",
        ),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    settings: dict[str, object], message: str, sample: ImageSet
) -> None:
    with pytest.raises(RequestError, match=message):
        evaluate(TinyClassifier(classes=10).eval(), "none", data=sample, limit=4, **settings)  # type: ignore[arg-type]


def test_images_made_behind_a_stand_in_are_tried_with_each_budget(sample: ImageSet) -> None:
    made = evaluate(
        TinyClassifier(classes=10).eval(), "feature-squeezing", data=sample,
        attacks=["pgd-l2:steps=2", "fgsm"], protocol=["fixed"], epsilons=[BUDGET], limit=4,
        surrogate_purifiers=["gaussian"],
    )  # fmt: skip
    moved = [r for r in made.results if r.via == "transfer from gaussian"]
    assert {(r.attack, r.defence, r.threat_model) for r in moved} == {
        (attack, defence, threat)
        for attack, threat in (("pgd", ThreatModel("linf", BUDGET)), ("pgd", ThreatModel("l2", 0.5)))
        for defence in ("none", "feature-squeezing")
    }


@pytest.mark.slow
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
        Turned(), "none", data=sample, attacks=["pgd", "pgd-l2"], protocol=["fixed"], epsilons=[BUDGET],
        limit=50, surrogate_classifiers=["cifar10-resnet9-plain"],
    )  # fmt: skip
    moved, also = [r for r in made.results if r.via == "transfer from cifar10-resnet9-plain"]
    (own,) = [r for r in made.results if r.norm == "linf" and not r.via]
    assert moved.threat_model == own.threat_model == ThreatModel("linf", BUDGET)
    assert also.threat_model == ThreatModel("l2", 0.5)
    assert moved.n == also.n == own.n == 50
    assert moved.accuracy >= own.accuracy
    assert moved.fingerprint != own.fingerprint
