"""The checks that an evaluation makes of itself: they pass where all is well, and catch what is not."""

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comdefend.attacks import FGSM, PGD, Attack, Square, SquareOfMeans
from comdefend.cli import main
from comdefend.data import ImageSet
from comdefend.errors import RequestError
from comdefend.evaluation import Report, Store, evaluate
from comdefend.evaluation.checks import Check, Probe
from comdefend.evaluation.checks import checks as registered
from comdefend.evaluation.checks.attackers import black_box, gradient_free, noise
from comdefend.evaluation.checks.gradients import (
    budgets,
    dropped,
    modes,
    one_step,
    restarts,
    saturated,
    steps,
)
from comdefend.evaluation.checks.planted import plant
from comdefend.evaluation.checks.probe import Sizes
from comdefend.evaluation.checks.randomness import expectation, frozen, redrawn
from comdefend.evaluation.checks.record import clean_accuracy, precision, rounding, warnings
from comdefend.evaluation.judge import Judge
from comdefend.evaluation.report import write_report
from comdefend.evaluation.results import Repeats, Result, pack, read_checks
from comdefend.purifiers import ComDefendPurifier, Identity, Purifier, ResizePad
from comdefend.threat import Knowledge, ThreatModel
from tests.conftest import tiny_model
from tests.evaluation.killer import (
    Averaging,
    Decoy,
    FalselyRandom,
    GradientKiller,
    HardlyRandom,
    Misleading,
    NoNumber,
    NumpyRandom,
    RandomOffTheGrid,
    Remembering,
    SecretlyRandom,
    SeededRandom,
    Turned,
    WrongBehind,
)

ALWAYS = {
    "clean accuracy", "images", "gradient health", "many steps against one", "other budgets",
    "twice the steps", "twice the restarts", "attackers who know less", "random noise", "randomness",
    "planted example", "an image alone", "budget, range, logits", "stored as 8 bits", "attacks asked for",
    "gradient-free attack", "warnings of the attacks",
}  # fmt: skip


class Linear(nn.Module):
    """A linear classifier of ten classes on pooled pixels, right on the labels it is made for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        features = nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)
        self.head = nn.Linear(features.shape[1], 10)
        wanted = nn.functional.one_hot(labels, 10).float()
        with torch.no_grad():
            ridge = features.T @ features + 0.01 * torch.eye(features.shape[1])
            self.head.weight.copy_(torch.linalg.solve(ridge, features.T @ (wanted - 0.1)).T * 20)
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(nn.functional.adaptive_avg_pool2d(images, 8).flatten(1))
        return logits


@pytest.fixture(scope="module")
def classifier(sample: ImageSet) -> nn.Module:
    rows = sample.pick(24, seed=0)
    return Linear(sample.images(rows), sample.labels(rows)).eval()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes(images=12, fewest=6, drawn=6, few=6, noise=100, queries=200, draws=(1, 2, 4))
    monkeypatch.setattr("comdefend.evaluation.checks.probe.SIZES", sizes)


def checks(
    classifier: nn.Module, defence: nn.Module, sample: ImageSet, **settings: object
) -> dict[str, Check]:
    chosen = {
        "attacks": ["fgsm", "pgd"], "epsilons": [8 / 255], "limit": 24, "eot_samples": 2,
        "knowledge": ["gray-box", "white-box"], **settings,
    }  # fmt: skip
    report = evaluate(
        classifier,
        {"it": defence},
        data=sample,
        protocol=["fixed"],
        examples=0,
        **chosen,  # type: ignore[arg-type]
    )
    assert {c.defence for c in report.checks} == {"it"}
    return {c.title: c for c in report.checks}


def test_an_honest_evaluation_of_comdefend_passes(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, ComDefendPurifier(tiny_model()), sample)
    assert set(found) == ALWAYS
    failed = [c for c in found.values() if c.status == "fail"]
    assert not failed, failed


def test_a_gradient_killer_is_flagged(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, GradientKiller(), sample)
    assert found["gradient health"].status == "fail"
    assert "hides its gradient" in found["gradient health"].meaning
    assert "100%" in found["gradient health"].figure


def test_following_masked_gradients_only_is_flagged(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, ComDefendPurifier(tiny_model()), sample, modes=["autograd"])
    assert found["gradient health"].status == "fail"
    assert "nothing was measured" in found["gradient health"].meaning
    # An attack that moves nowhere is caught from other sides too.
    for name in ("planted example", "attackers who know less"):
        assert found[name].status == "fail"


@pytest.mark.slow
@pytest.mark.parametrize("defence", [SecretlyRandom(), RandomOffTheGrid()], ids=["always", "under attack"])
def test_hidden_randomness_is_detected(defence: Purifier, classifier: nn.Module, sample: ImageSet) -> None:
    assert checks(classifier, defence, sample)["randomness"].status == "fail"


@pytest.mark.slow
@pytest.mark.parametrize("defence", [FalselyRandom(), HardlyRandom()], ids=["none", "next to none"])
def test_randomness_that_is_none_is_detected(
    defence: Purifier, classifier: nn.Module, sample: ImageSet
) -> None:
    assert checks(classifier, defence, sample)["randomness"].status == "fail"


def test_a_defence_that_seeds_the_generator_disarms_no_attack(
    classifier: nn.Module, sample: ImageSet
) -> None:
    """Attacks draw from the same generator: as against one that does not, image for image."""
    plain, seeding = (
        evaluate(
            classifier, {"it": Turned(seed)}, data=sample, attacks=["pgd:steps=3", "square:queries=50"],
            modes=["spsa", "identity"], knowledge=["white-box", "black-box"], limit=12, checks=False,
            examples=0,
        ).results
        for seed in (None, 0)
    )  # fmt: skip
    assert [(r.attack, r.via, r.right) for r in plain] == [(r.attack, r.via, r.right) for r in seeding]


@pytest.mark.slow
def test_a_random_defence_that_seeds_the_generator_is_detected(
    classifier: nn.Module, sample: ImageSet
) -> None:
    found = checks(classifier, SeededRandom(), sample)["randomness"]
    assert found.status == "fail"
    assert "seeds torch's generator" in found.meaning


@pytest.mark.slow
def test_randomness_of_numpy_is_seen_through_and_one_of_its_own_is_noticed(
    classifier: nn.Module, sample: ImageSet
) -> None:
    found = checks(classifier, NumpyRandom(), sample)
    assert found["budget, range, logits"].status == "pass"
    assert "frozen" in found["without its randomness"].figure
    own = checks(classifier, NumpyRandom(own=True), sample)
    assert own["without its randomness"].status == own["budget, range, logits"].status == "warn"
    assert "could not be fixed" in own["without its randomness"].meaning


@pytest.mark.slow
@pytest.mark.parametrize("defence", [Remembering(), Averaging()], ids=["remembers", "averages"])
def test_an_answer_that_depends_on_other_images_is_detected(
    defence: Purifier, classifier: nn.Module, sample: ImageSet
) -> None:
    assert checks(classifier, defence, sample)["an image alone"].status == "fail"


def test_what_cannot_be_copied_is_noticed(classifier: nn.Module, sample: ImageSet) -> None:
    class Locked(Purifier):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

        def purify(self, images: Tensor) -> Tensor:
            return images

    found = checks(classifier, Locked(), sample)["an image alone"]
    assert found.status == "warn"
    assert "cannot be copied" in found.figure


def test_gradients_that_are_no_numbers_are_detected(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, NoNumber(), sample, modes=["autograd"])["gradient health"]
    assert found.status == "fail"


def test_a_gradient_that_leads_elsewhere_is_detected(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, Misleading(), sample, modes=["autograd"])
    assert found["planted example"].status == found["other budgets"].status == "fail"


def test_probabilities_by_another_scale_are_noticed(classifier: nn.Module, sample: ImageSet) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier

        def forward(self, images: Tensor) -> Tensor:
            scaled: Tensor = 10 * self.inner(images).softmax(1)
            return scaled

    found = checks(Scaled(), Identity(), sample)["budget, range, logits"]
    assert found.status == "warn"
    assert "sum to 10" in found.figure


def test_a_mode_of_something_else_is_attacked_where_it_is(classifier: nn.Module, sample: ImageSet) -> None:
    """`Decoy.through` gives other images than the purifier: attackers get the purifier's own."""
    found = checks(classifier, Decoy(), sample)
    assert found["budget, range, logits"].status == "pass"
    assert not [c for c in found.values() if c.status == "fail"]


def test_a_defence_that_behaves_otherwise_under_gradients_is_detected(
    classifier: nn.Module, sample: ImageSet
) -> None:
    class Watching(Purifier):
        gradient_modes = ("autograd",)

        def purify(self, images: Tensor) -> Tensor:
            return images.flip(3) if torch.is_grad_enabled() else images

    found = checks(classifier, Watching(), sample)["budget, range, logits"]
    assert found.status == "fail"
    assert "not the defence itself: autograd" in found.figure


def test_a_wrong_gradient_behind_the_classifier_is_detected(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(WrongBehind(classifier), Identity(), sample, knowledge=["white-box"], epsilons=[0.2])
    assert found["gradient-free attack"].status == "fail"
    assert found["planted example"].status == "fail"


def test_too_few_images_are_noticed(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, Identity(), sample)["images"]
    assert found.status == "warn"
    assert found.figure == "24 attacked, 12 of them by the checks, which let differences up to 12.5% pass"


def test_hardly_any_images_fail(classifier: nn.Module, sample: ImageSet) -> None:
    """A gate that a handful of images opens would be none."""
    assert checks(classifier, Identity(), sample, limit=5)["images"].status == "fail"
    assert Sizes().fewest == 30


def test_what_cannot_be_tested_is_skipped(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, Identity(), sample, epsilons=[0.5])
    for name in ("gradient-free attack", "random noise", "attacks asked for"):
        assert found[name].status == "skip"
        assert "nothing to test" in found[name].figure


def test_l2_is_checked_too(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, ComDefendPurifier(tiny_model()), sample, attacks=["pgd", "pgd-l2:steps=1"])
    assert {name for name in found if name.endswith("(L2)")} == {
        f"{name} (L2)" for name in (
            "attacks asked for", "other budgets", "twice the steps", "twice the restarts",
            "attackers who know less", "random noise", "stored as 8 bits",
        )
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defence", "more"),
    [
        (ResizePad(), {"draws for the gradient (EOT)", "without its randomness", "judged again"}),
        (ComDefendPurifier(tiny_model(), dtype=torch.bfloat16), {"computed in half precision"}),
    ],
    ids=["random", "half precision"],
)
def test_what_some_defences_are_asked_is_asked_under_l2_too(
    defence: Purifier, more: set[str], classifier: nn.Module, sample: ImageSet
) -> None:
    found = checks(classifier, defence, sample, attacks=["pgd:steps=2", "pgd-l2:steps=2"], limit=12)
    for ending in ("", " (L2)"):
        assert {f"{name}{ending}" for name in more} <= found.keys()
    assert all("0.5 l2" in found[f"{name} (L2)"].budget for name in more)


def result(shares: Sequence[float], attack: str, knowledge: Knowledge, mode: str = "autograd") -> Result:
    threat = ThreatModel("linf", 8 / 255, knowledge)
    kept = torch.tensor(shares)
    return Result("d", "c", "it", attack, len(shares), sum(shares), threat, mode=mode, right=pack(kept))


@pytest.fixture
def made_of(classifier: nn.Module, sample: ImageSet) -> Callable[..., dict[str, Check]]:
    """Checks of results that no attack made."""

    def made(*results: Result, defence: str = "it", right: int = 1) -> dict[str, Check]:
        chosen = sample.pick(200, seed=0)
        judge = Judge(classifier, {"it": Identity()}, sample, chosen, seed=0, batch=100, device="cpu")
        count = max(r.n for r in results)
        clean = [
            Result(
                "d", "c", name, "none", count, right * count, right=pack(torch.full([count], float(right)))
            )
            for name in dict.fromkeys(["it", *(r.defence for r in results)])
        ]
        probe = Probe(judge, defence, [*clean, *results], epsilon=8 / 255, draws=1)
        return {c.name: c for check in (modes, black_box, warnings) for c in check(probe)}

    return made


def test_modes_that_were_left_out_wrongly_are_noticed(made_of: Callable[..., dict[str, Check]]) -> None:
    full = result([0] * 60 + [1] * 140, "pgd", "white-box", "one")
    one = replace(result([0] * 60 + [1] * 40, "pgd", "white-box", "one"), trial=True)
    two = replace(result([1] * 60 + [0] * 40, "pgd", "white-box", "two"), trial=True)
    assert made_of(full, one, two)["gradient modes left out"].status == "warn"
    assert made_of(full, one)["gradient modes left out"].status == "pass"


def test_modes_that_were_left_out_are_tried_on_what_withstood(
    classifier: nn.Module, sample: ImageSet
) -> None:
    """All of 24 images withstood a mode that finds nothing; one that a few were tried on finds most."""
    judge = Judge(
        classifier, {"it": GradientKiller()}, sample, sample.pick(24, seed=0), seed=0, batch=24, device="cpu"
    )  # fmt: skip

    def found(*others: Result) -> list[Check]:
        clean = replace(result([1] * 24, "none", "white-box"), threat_model=None)
        threat = ThreatModel("linf", 0.1, "white-box")
        made = [result([1] * 24, "pgd", "white-box", "autograd"), *others]
        of = [clean, *(replace(r, threat_model=threat) for r in made)]
        return list(dropped(Probe(judge, "it", of, epsilon=0.1, draws=1)))

    assert registered["dropped"].run is dropped
    assert registered["dropped"].both_norms
    (line,) = found(replace(result([1] * 12, "pgd", "white-box", "identity"), trial=True))
    assert line.status == "fail"
    assert re.search(r"identity breaks [3-6] of 6 looked at .* too much: identity", line.figure)
    assert not found()
    assert not found(result([1] * 24, "pgd", "white-box", "identity"))
    fallen = result([0] * 24, "pgd", "white-box", "autograd")
    (line,) = found(fallen, replace(result([1] * 12, "pgd", "white-box", "identity"), trial=True))
    assert line.status == "skip"


@pytest.mark.parametrize(("defence", "kind"), [(Identity(), Square), (ResizePad(), SquareOfMeans)])
def test_the_search_without_gradients_suits_the_defence(
    defence: Purifier, kind: type, classifier: nn.Module, sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Attack] = []

    def spied(self: Probe, attack: Attack, mode: str, rows: list[int], **_: int) -> Tensor:
        tried.append(attack)
        return torch.ones(len(rows))

    monkeypatch.setattr(Probe, "retry", spied)
    judge = Judge(classifier, {"it": defence}, sample, sample.pick(9, seed=0), seed=0, batch=9, device="cpu")
    clean = replace(result([1] * 9, "none", "white-box"), threat_model=None)
    probe = Probe(judge, "it", [clean, result([1] * 9, "pgd", "white-box")], epsilon=8 / 255, draws=2)
    (line,) = gradient_free(probe)
    assert line.status == "pass"
    assert [type(attack) for attack in tried] == [kind]


def test_weak_black_box_attacks_are_noticed(made_of: Callable[..., dict[str, Check]]) -> None:
    own = result([1] * 40, "hopskipjump", "black-box", "")
    bare = replace(result([0] * 10 + [1] * 30, "hopskipjump", "black-box", ""), defence="none")
    found = made_of(own, bare)["black-box attacks"]
    assert found.status == "warn"
    assert "hopskipjump leaves 75% of what the classifier without a purifier" in found.figure
    assert (
        made_of(own, replace(bare, right=pack(torch.zeros(40)), correct=0))["black-box attacks"].status
        == "pass"
    )


def test_black_box_attacks_on_what_is_never_right_say_nothing(
    made_of: Callable[..., dict[str, Check]],
) -> None:
    own = result([1] * 40, "square", "black-box", "")
    bare = replace(own, defence="none", right=pack(torch.zeros(40)), correct=0)
    assert "black-box attacks" not in made_of(own, bare, right=0)


def test_what_attacks_warn_of_is_a_check(made_of: Callable[..., dict[str, Check]]) -> None:
    flagged = replace(result([1] * 4, "autoattack", "white-box"), flags=("the gradients are zero",))
    found = made_of(flagged)["warnings of the attacks"]
    assert (found.status, found.figure) == ("warn", "the gradients are zero")


def test_attacks_that_plain_pgd_surpasses_are_flagged(classifier: nn.Module, sample: ImageSet) -> None:
    weak = checks(classifier, Identity(), sample, attacks=["bim:steps=1,step=0.01"], epsilons=[0.1])
    assert weak["attacks asked for"].status == "fail"
    assert "more broken by PGD (autograd)" in weak["attacks asked for"].figure


def test_the_steps_that_were_asked_for_are_doubled(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, Identity(), sample, attacks=["pgd:steps=1"], epsilons=[64 / 255])
    line = found["twice the steps"]
    assert line.status == "fail"
    assert re.fullmatch("[0-9.]+% after 1, [0-9.]+% after 2", line.figure)


def test_modes_that_were_left_out_are_tried(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(
        classifier, GradientKiller(), sample, modes=["autograd"], knowledge=["white-box"], epsilons=[0.1]
    )
    assert found["attacks asked for"].status == "fail"
    assert "PGD (identity), which was not tried" in found["attacks asked for"].figure


@pytest.mark.parametrize(("attacks", "status"), [(["pgd-l2"], "warn"), (["none"], "fail")])
def test_what_was_not_attacked_was_not_checked(
    attacks: list[str], status: str, classifier: nn.Module, sample: ImageSet
) -> None:
    assert checks(classifier, GradientKiller(), sample, attacks=attacks)["attacks asked for"].status == status


def test_less_knowing_attackers_that_are_missing_are_missed(classifier: nn.Module, sample: ImageSet) -> None:
    report = evaluate(
        classifier, {"it": Identity()}, data=sample, attacks=["pgd"], knowledge=["white-box"], limit=12,
        examples=0,
    )  # fmt: skip
    found = {c.name: c for c in report.checks}["attackers who know less"]
    assert found.status == "warn"


def test_the_callers_random_numbers_are_left_alone(classifier: nn.Module, sample: ImageSet) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    checks(classifier, SecretlyRandom(), sample)
    assert torch.equal(torch.rand(3), wanted)


@pytest.fixture
def probe_of(
    classifier: nn.Module, sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Probe]:
    """A probe of an evaluation that no attack made, whose own attacks leave what `left` says of an attack and
    the draws behind its gradients.
    """

    def made(
        *results: Result,
        defence: nn.Module | None = None,
        behind: nn.Module = classifier,
        left: Callable[[Attack, int], float] | None = None,
    ) -> Probe:
        if left is not None:
            monkeypatch.setattr(
                Probe, "accuracy",
                lambda _, attack, __, draws=None, limit=None: left(attack, draws or 0),
            )  # fmt: skip
        it = {"it": defence or Identity()}
        judge = Judge(behind, it, sample, sample.pick(24, seed=0), seed=0, batch=24, device="cpu")
        clean = Result("d", "c", "it", "none", 24, 24, right=pack(torch.ones(24)))
        return Probe(judge, "it", [clean, *results], epsilon=8 / 255, draws=2)

    return made


@pytest.mark.parametrize(("many", "status"), [(0.5, "fail"), (0.2, "pass")])
def test_many_steps_that_find_less_than_one_are_flagged(
    many: float, status: str, probe_of: Callable[..., Probe]
) -> None:
    probe = probe_of(left=lambda attack, _: 0.2 if isinstance(attack, FGSM) else many)
    (line,) = one_step(probe)
    assert line.status == status


def test_many_steps_that_were_reported_to_find_less_are_flagged(probe_of: Callable[..., Probe]) -> None:
    single = result([0] * 24, "fgsm", "white-box")
    several = replace(result([1] * 24, "pgd", "white-box"), settings={"steps": 20, "step": 0.125})
    (line,) = one_step(probe_of(single, several, left=lambda *_: 0.2))
    assert line.status == "fail"
    assert line.figure.endswith("reported: 100.0% after many, 0.0% after one")


@pytest.mark.parametrize(("broken", "status"), [(6, "fail"), (0, "pass")])
def test_restarts_that_find_more_are_flagged(
    broken: int, status: str, probe_of: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "shares", lambda *_, **__: torch.tensor([1.0] * 12 + [0.0] * 12))

    def retry(_: Probe, attack: Attack, __: str, rows: list[int], *, again: int) -> Tensor:
        assert isinstance(attack, PGD)
        assert again > 0  # with other random numbers than theirs
        assert rows == list(range(12))  # what the first three left
        return torch.tensor([0.0] * broken + [1.0] * (12 - broken))

    monkeypatch.setattr(Probe, "retry", retry)
    (line,) = restarts(probe_of())
    assert line.status == status


def test_what_is_known_is_not_tried(probe_of: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing survives there is nothing to be found by more steps, more restarts or larger budgets."""
    tried: list[tuple[str, float]] = []

    def shares(_: Probe, attack: Attack, epsilon: float, **__: object) -> Tensor:
        tried.append((attack.name, epsilon))
        return torch.zeros(24)

    monkeypatch.setattr(Probe, "shares", shares)
    probe = probe_of()
    found = [line for check in (one_step, steps, restarts, budgets) for line in check(probe)]
    assert {line.status for line in found} == {"pass"}
    assert "fgsm" not in {name for name, _ in tried}
    assert max(epsilon for _, epsilon in tried) == 8 / 255


@pytest.mark.parametrize(("more", "status"), [(0.2, "fail"), (0.5, "pass")])
def test_draws_that_find_more_are_flagged(more: float, status: str, probe_of: Callable[..., Probe]) -> None:
    probe = probe_of(defence=ResizePad(), left=lambda _, draws: more if draws == 4 else 0.5)
    (line,) = expectation(probe)
    assert (line.status, line.figure[-10:]) == (status, f"{more:.0%} with 4")


def test_an_attack_that_fails_without_randomness_is_flagged(
    probe_of: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    still = "comdefend.evaluation.checks.randomness.follow_gradient"
    monkeypatch.setattr(still, lambda _, images, *__, **___: images)  # finds nothing with the draw fixed
    (line,) = frozen(probe_of(defence=ResizePad(), left=lambda *_: 0.0))
    assert line.status == "fail"
    (line,) = frozen(probe_of(defence=ResizePad(), left=lambda *_: 1.0))
    assert line.status == "pass"


@pytest.mark.parametrize(("always", "status"), [(0.5, "warn"), (0.75, "pass")])
def test_luck_in_single_draws_is_noticed(
    always: float, status: str, probe_of: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = replace(result([1] * 24, "pgd", "white-box"), repeats=Repeats(20, 0.8, 0.8, always))
    monkeypatch.setattr(Probe, "worst", lambda _: worst)
    (line,) = redrawn(probe_of(defence=ResizePad()))
    assert line.status == status


def test_noise_that_breaks_what_withstood_is_flagged(probe_of: Callable[..., Probe]) -> None:
    class Elsewhere(Linear):
        """Right on nothing."""

        def forward(self, images: Tensor) -> Tensor:
            return -super().forward(images)

    withstood = result([1] * 24, "pgd", "white-box")
    probe = probe_of(withstood)
    (line,) = noise(probe)
    assert line.status == "pass"
    (line,) = noise(probe_of(withstood, behind=Elsewhere(probe.images, probe.labels)))
    assert line.status == "fail"


@pytest.mark.parametrize(("stored", "status"), [(1.0, "warn"), (0.0, "pass")])
def test_attacks_that_storing_undoes_are_noticed(
    stored: float, status: str, probe_of: Callable[..., Probe]
) -> None:
    broken = result([0] * 24, "pgd", "white-box")
    (line,) = rounding(
        probe_of(replace(broken, rounded=24 * stored, rounded_right=pack(torch.full([24], stored))))
    )
    assert line.status == status


@pytest.mark.parametrize(("otherwise", "status"), [(True, "warn"), (False, "pass")])
def test_answers_that_half_precision_changes_are_noticed(
    otherwise: bool, status: str, probe_of: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = probe_of(defence=ComDefendPurifier(tiny_model(), dtype=torch.bfloat16))
    answers = iter([probe.labels, probe.labels + int(otherwise)])
    monkeypatch.setattr(Judge, "attack", lambda _, __, images, *___: images)
    monkeypatch.setattr(Judge, "predict", lambda *_: next(answers))
    (line,) = precision(probe)
    assert line.status == status


@pytest.mark.parametrize(("lost", "status"), [(3, "warn"), (1, "pass")])
def test_a_costly_defence_is_noticed(lost: int, status: str, probe_of: Callable[..., Probe]) -> None:
    probe = probe_of()
    own = probe.clean
    probe.bare = [replace(own, defence="none")]
    probe.results = [replace(own, correct=24.0 - lost)]
    (line,) = clean_accuracy(probe)
    assert line.status == status


@pytest.mark.slow
def test_a_random_defence_has_three_checks_more(classifier: nn.Module, sample: ImageSet) -> None:
    found = checks(classifier, ResizePad(), sample)
    more = {"draws for the gradient (EOT)", "without its randomness", "judged again"}
    assert set(found) == (ALWAYS | more) - {"an image alone"}
    assert found["randomness"].status == "pass"
    assert "worst" in found["judged again"].figure


def test_more_draws_are_compared_with_twice_as_many_at_least(classifier: nn.Module, sample: ImageSet) -> None:
    rows = sample.pick(24, seed=0)
    judge = Judge(classifier, {"it": ResizePad()}, sample, rows, seed=0, batch=24, device="cpu")
    clean = Result("d", "c", "it", "none", 24, 24, right=pack(torch.ones(24)))
    (line,) = expectation(Probe(judge, "it", [clean], epsilon=8 / 255, draws=5))
    assert [part.rsplit(" ", 1)[1] for part in line.figure.split(", ")] == ["1", "2", "4", "5", "10"]


@pytest.mark.slow
def test_a_weak_attack_is_caught_by_a_planted_example(
    classifier: nn.Module, sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "comdefend.evaluation.checks.gradients.follow_gradient", lambda _, images, *__, **___: images
    )  # an attack that does nothing
    found = checks(classifier, ComDefendPurifier(tiny_model()), sample)
    assert found["planted example"].status == "fail"


def test_few_places_to_plant_one_are_noticed(
    classifier: nn.Module, sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(range(100))
    monkeypatch.setattr(
        "comdefend.evaluation.checks.gradients.plant",
        lambda *given: plant(*given) if next(turns) < 2 else None,
    )
    found = checks(classifier, ComDefendPurifier(tiny_model()), sample)["planted example"]
    assert found.status == "warn"
    assert found.figure == "2 of 2 found; none could be planted at 4 others"


def test_half_precision_is_compared(classifier: nn.Module, sample: ImageSet) -> None:
    purifier = ComDefendPurifier(tiny_model(), dtype=torch.bfloat16)
    found = checks(classifier, purifier, sample)
    assert "end otherwise in float32" in found["computed in half precision"].figure


def test_the_saturated_share_of_a_code() -> None:
    purifier = ComDefendPurifier(tiny_model())
    images = torch.rand(2, 3, 16, 16)
    assert saturated(purifier, images) < 0.2
    purifier.model.com.gain *= 1e6
    assert saturated(purifier, images) > 0.99


def test_the_report_holds_the_checks(classifier: nn.Module, sample: ImageSet, tmp_path: Path) -> None:
    report = evaluate(
        classifier, {"it": GradientKiller()}, data=sample, attacks=["pgd"], limit=12,
        knowledge=["gray-box", "white-box"], protocol=["fixed"],
    )  # fmt: skip
    paths = write_report(report, tmp_path)
    page = paths["page"].read_text()
    curve = next(c for c in report.checks if c.name == "other budgets")
    assert [round(255 * epsilon) for epsilon, _ in curve.curve] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert curve.images == 12
    assert (tmp_path / "curves.png").is_file()
    for text in (
        "Checks of the evaluation", "Worst case over all attacks", "What the defence adds", 'class="fail"',
        "white-box",
    ):  # fmt: skip
        assert text in page
    assert "Not tried" not in page
    assert {c["name"] for c in json.loads(paths["checks"].read_text())} == ALWAYS


def test_the_report_says_what_was_broken_of_each_defence_and_how(
    classifier: nn.Module, sample: ImageSet, tmp_path: Path
) -> None:
    report = evaluate(
        classifier, {"one": GradientKiller(), "two": Identity()}, data=sample, attacks=["pgd"], limit=12,
        epsilons=[0.1], knowledge=["gray-box", "white-box"], protocol=["fixed"], checks=False, examples=0,
    )  # fmt: skip
    page = write_report(report, tmp_path)["page"].read_text()
    broken = {
        r.defence: r.fooled for r in report.results
        if r.via == "autograd" and r.threat_model and r.threat_model.knowledge == "white-box"
    }  # fmt: skip
    assert broken["one"] == 0
    assert (broken["two"] or 0) > 6
    assert f"one 0, two {broken['two']}" in page
    assert "<dt>pgd, fixed</dt>" in page
    assert "<dt>pgd, fixed, white-box autograd</dt>" in page  # with more restarts and losses than gray-box


@pytest.mark.slow
@pytest.mark.parametrize(("made", "modes"), [("kill", []), ("code", ["--modes", "autograd"])])
def test_strict_fails_where_the_gradient_is_hidden(
    made: str, modes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.py"
    net.write_text(
        "from comdefend.purifiers import ComDefendPurifier\n"
        "from tests.conftest import TinyClassifier, tiny_model\n"
        "from tests.evaluation.killer import GradientKiller as kill\n"
        "def make():\n    return TinyClassifier(classes=10)\n"
        "def code():\n    return ComDefendPurifier(tiny_model())\n"
    )
    words = [
        "evaluate", "--classifier", f"{net}:make", "--data", "sample:cifar10", "--limit", "12",
        "--attacks", "pgd", "--epsilons", "8", "--knowledge", "white-box", "--output", str(tmp_path / "r"),
        "--defences", f"{net}:{made}", *modes,
    ]  # fmt: skip
    assert main([*words, "--strict"]) == 1
    assert "gradient health" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert (tmp_path / "r" / "checks.json").is_file()
    page = (tmp_path / "r" / "report.html").read_text()
    assert f"comdefend evaluate --classifier {net}:make --data sample:cifar10" in page
    assert ("Gradient modes were chosen: autograd." in page) == bool(modes)
    assert "Not checked" not in page
    assert main([*words, "--overwrite", "--no-checks"]) == 0
    assert not (tmp_path / "r" / "checks.json").exists()
    assert "Not checked" in (tmp_path / "r" / "report.html").read_text()
    assert not (tmp_path / "r" / "curves.png").exists()


def test_checks_that_were_made_are_not_made_again(
    classifier: nn.Module, sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an evaluation that goes on later: as long as what they are about is the same."""
    made: list[str] = []
    for name, check in registered.items():

        def noted(probe: Probe, name: str = name, check: Any = check) -> Any:
            made.append(name)
            return check.run(probe)

        monkeypatch.setitem(registered._things, name, replace(check, run=noted))

    def judged(defence: nn.Module, store: Store) -> Report:
        made.clear()
        return evaluate(
            classifier, {"own": defence}, data=sample, limit=6, attacks=["pgd:steps=3"],
            knowledge=["white-box"], examples=0, store=store,
        )  # fmt: skip

    store = Store()
    first = judged(ComDefendPurifier(tiny_model()), store)
    everything = set(made)
    assert len(everything) >= len(ALWAYS)
    assert judged(ComDefendPurifier(tiny_model()), store).checks == first.checks
    nothing_to_say = set(made)
    assert len(everything - nothing_to_say) >= len(ALWAYS) - 1
    some = Store()
    some.keep([*first.results, *(line for line in first.checks if line.name != "other budgets")])
    assert judged(ComDefendPurifier(tiny_model()), some).checks == first.checks
    assert set(made) - nothing_to_say == {"budgets"}
    judged(Averaging(), store)
    assert everything <= set(made)


def test_cheap_checks_come_first(classifier: nn.Module, sample: ImageSet) -> None:
    told: list[str] = []
    evaluate(
        classifier, {"own": Identity()}, data=sample, limit=6, attacks=["fgsm"], knowledge=["white-box"],
        examples=0, progress=lambda done, total, text: told.append(f"{text}: {done} of {total}"),
    )  # fmt: skip
    checked = [text.split(": ")[1].replace(" ", "_") for text in told if text.startswith("check of own: ")]
    costs = [registered[name].gradients for name in checked]
    assert len(costs) > 10
    assert costs == sorted(costs)
    assert told[-1].startswith("done")


@pytest.mark.parametrize("content", ["", "1", "[1]", '[{"defence": "a"}]', '[{"curve": 1}]'])
def test_files_that_hold_no_checks_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "checks.json"
    file.write_text(content)
    with pytest.raises(RequestError, match=r"checks\.json"):
        read_checks(file)


def test_a_checks_key_is_of_all_that_it_depends_on(
    classifier: nn.Module, sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(
        classifier, {"none": Identity(), "it": ResizePad()}, sample, range(6), seed=0, batch=6, device="cpu"
    )
    threat = ThreatModel("linf", 8 / 255, "white-box")
    clean = Result("s", "c", "it", "none", 6, 6, right=pack(torch.ones(6)), fingerprint="a")
    attacked = replace(clean, attack="pgd", threat_model=threat, mode="autograd", fingerprint="b")
    bare = replace(clean, defence="none", fingerprint="c")

    def mark(results: Sequence[Result], check: str = "steps", **other: Any) -> str:
        settings: dict[str, Any] = {"epsilon": 8 / 255, "draws": 2, **other}
        return Probe(judge, "it", results, **settings).key(check)

    everything = [clean, attacked, bare]
    marks = [
        mark(everything),
        mark(everything, "budgets"),
        mark(everything, epsilon=4 / 255),
        mark(everything, norm="l2"),
        mark(everything, draws=3),
        mark([clean, bare]),
        mark([clean, attacked]),
        mark([clean, replace(attacked, fingerprint="d"), bare]),
        mark([clean, replace(attacked, right=pack(torch.zeros(6))), bare]),
        mark([clean, replace(attacked, rounded_right=pack(torch.zeros(6))), bare]),
        mark([clean, replace(attacked, flags=("a",)), bare]),
    ]
    monkeypatch.setattr("comdefend.evaluation.store.FORMAT", -1)
    marks.append(mark(everything))
    monkeypatch.undo()
    monkeypatch.setattr("comdefend.evaluation.checks.probe.SIZES", Sizes(images=5))
    marks.append(mark(everything))
    assert len(set(marks)) == len(marks)
