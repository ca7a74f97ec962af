"""The judge: what a scenario comes to, in how many draws, and what is not computed twice."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from comdefend.attacks import DeepFool, Goal
from comdefend.data import ImageSet
from comdefend.evaluation import Report, ThreatModel, evaluate, wilson
from comdefend.evaluation.judge import REPEATS, Judge
from comdefend.evaluation.report import write_report
from comdefend.evaluation.scenarios import Scenario
from comdefend.evaluation.worst_case import WORST
from comdefend.purifiers import ComDefendPurifier, Identity, Purifier
from comdefend.threat import KNOWLEDGE
from tests.conftest import TinyClassifier, tiny_model

BUDGET = 8 / 255


def test_a_random_defence_is_judged_by_many_draws(sample: ImageSet) -> None:
    made = evaluate(
        TinyClassifier(classes=10).eval(), "resize-pad", data=sample, attacks=["pgd"], epsilons=[BUDGET],
        limit=8, knowledge=["white-box"], eot_samples=2, modes=["autograd"], checks=False,
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


def test_results_say_what_became_of_stored_images(adaptive_report: Report, tmp_path: Path) -> None:
    attacked = [r for r in adaptive_report.results if r.threat_model and r.attack != WORST]
    assert {r.threat_model.knowledge for r in attacked if r.threat_model} == set(KNOWLEDGE)
    assert all(r.rounded is not None and len(r.rounded_shares) == r.n for r in attacked)
    one = next(r for r in attacked if r.n == 12)
    made = [replace(one, correct=9, interval=wilson(9, 12), rounded=rounded) for rounded in (9, 6)]
    pages = [write_report(Report([r]), tmp_path / str(k))["page"].read_text() for k, r in enumerate(made)]
    assert ["(50.0 in 8 bits)" in page for page in pages] == [False, True]
    assert all(r.rounded is None for r in adaptive_report.results if r.threat_model is None)


class OnTheGrid(Purifier):
    """Hands on what a file of 8 bits can hold, and of anything else nothing."""

    def purify(self, images: Tensor) -> Tensor:
        held = ((images * 255 - (images * 255).round()).abs() < 1e-3).flatten(1).all(1)
        return images * held[:, None, None, None]


def test_images_are_stored_in_eight_bits_before_they_are_judged_again(sample: ImageSet) -> None:
    """A perturbation of less than half a step is gone then."""
    found = evaluate(
        "cifar10-resnet9-plain", {"grid": OnTheGrid()}, data=sample, attacks=["pgd:steps=2"],
        epsilons=[0.4 / 255], limit=12, knowledge=["white-box"], modes=["identity"], protocol=["fixed"],
        checks=False,
    ).results  # fmt: skip
    own = [r for r in found if r.defence == "grid"]
    clean = next(r for r in own if r.threat_model is None)
    attacked = next(r for r in own if r.attack.startswith("pgd"))
    assert clean.correct > attacked.correct
    assert attacked.rounded == clean.correct


class Counting(Purifier):
    """Hands images on, and counts them."""

    def __init__(self, *, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic, self.seen = stochastic, 0

    def purify(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images * 0.99


def test_what_an_attack_left_as_it_was_is_not_purified_again(sample: ImageSet) -> None:
    once, again = Counting(), Counting(stochastic=True)
    report = evaluate(
        TinyClassifier(classes=10).eval(), {"once": once, "again": again}, data=sample, attacks=["deepfool"],
        epsilons=[64 / 255, 128 / 255], limit=20, batch=7, examples=0,
    )  # fmt: skip
    of = {(r.defence, r.threat_model and r.threat_model.epsilon): r for r in report.results}
    assert of["none", 64 / 255].correct == 0  # all were fooled within the smaller budget
    # And every image in so many draws, but for two that show that the code runs, and two what it answers.
    assert again.seen == 2 + 2 + 3 * 20 * (1 + REPEATS)
    assert 24 < once.seen <= 44
    assert of["once", 64 / 255].right == of["once", 128 / 255].right
    assert torch.equal(of["once", 64 / 255].shares, of["again", 128 / 255].shares)


def test_images_in_eight_bits_do_not_displace_those_that_were_purified(sample: ImageSet) -> None:
    once, network = Counting(), TinyClassifier(classes=10).eval()
    judge = Judge(
        network, {"once": once}, sample, sample.pick(20, seed=0), seed=0, batch=7, device="cpu",
        in_eight_bits=True,
    )  # fmt: skip
    for epsilon in (64 / 255, 128 / 255):
        found = judge.run(Scenario(("once",), DeepFool(), ThreatModel("linf", epsilon)))
        assert len(torch.cat(found.rounded["once"])) == 20
    assert once.seen == 20 + 2 * 20  # the second budget's images are those of the first


def test_a_stochastic_defence_repeats_itself_under_one_seed(sample: ImageSet) -> None:
    def run(seed: int) -> tuple[float | None, bool]:
        purifier = ComDefendPurifier(tiny_model(), noise=30.0)
        made = evaluate(
            TinyClassifier(classes=10), {"noisy": purifier}, data=sample, attacks=[], limit=100, seed=seed
        )
        return made.results[1].psnr, made.results[1].stochastic

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(1)[1]


def test_modules_are_left_as_they_were(sample: ImageSet) -> None:
    network = TinyClassifier(classes=10).train()
    frozen = network.extra = nn.BatchNorm2d(3).eval()
    state = torch.random.get_rng_state()
    evaluate(network, Identity(), data=sample, attacks=["pgd"], protocol=["fixed"], limit=4)
    assert network.training
    assert not frozen.training
    assert network.weights.requires_grad
    assert network.weights.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_search_serves_all_budgets_of_deepfool(sample: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    search = DeepFool.search

    def counted(self: DeepFool, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        searches.append(len(images))
        return search(self, model, images, goal)

    monkeypatch.setattr(DeepFool, "search", counted)

    def correct(*epsilons: float) -> list[float]:
        made = evaluate(
            "cifar10-resnet9-plain", Identity(), data=sample, attacks=["deepfool"],
            epsilons=epsilons, limit=12, batch=7,
        )  # fmt: skip
        return [r.correct for r in made.results if r.threat_model]

    together = correct(0.25 / 255, 1 / 255, 8 / 255)
    assert searches == [7, 5]
    assert together == [n for e in (0.25, 1, 8) for n in correct(e / 255)]
    assert together[0] > together[-1]
