"""What an attacker who knows the defence sees: true logits, gradients by mode, EOT, estimates."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from comdefend.attacks import BALLS, BIM, PGD, AutoAttack
from comdefend.attacks.adaptive import AdaptiveView, gradient_modes, through
from comdefend.attacks.base import Goal
from comdefend.attacks.iterative import follow_gradient
from comdefend.errors import RequestError
from comdefend.purifiers import (
    JPEG,
    Chain,
    ComDefendPurifier,
    FeatureSqueezing,
    GaussianSmoothing,
    Purifier,
    ResizePad,
    defend,
)
from tests.conftest import TinyClassifier, tiny_model

PURIFIERS: list[Purifier] = [
    ComDefendPurifier(tiny_model()),
    FeatureSqueezing(bits=3),
    JPEG(),
    GaussianSmoothing(),
    Chain([FeatureSqueezing(bits=3), ComDefendPurifier(tiny_model())]),
]


def slope(view: nn.Module, images: Tensor) -> Tensor:
    at = images.clone().requires_grad_(True)
    logits = view(at)
    return torch.autograd.grad(logits[:, 0].sum(), at)[0]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 16, 16)


@pytest.mark.parametrize("purifier", PURIFIERS, ids=lambda p: type(p).__name__)
def test_every_mode_gives_the_defences_own_logits(
    purifier: Purifier, images: Tensor, tiny_classifier: nn.Module
) -> None:
    truth = defend(tiny_classifier, purifier)(images)
    for mode in gradient_modes(purifier):
        view = AdaptiveView(tiny_classifier, purifier, mode=mode, directions=1)
        torch.testing.assert_close(view(images), truth, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("purifier", PURIFIERS, ids=lambda p: type(p).__name__)
def test_every_declared_mode_passes_gradients_back(
    purifier: Purifier, images: Tensor, tiny_classifier: nn.Module
) -> None:
    assert purifier.gradient_modes
    for mode in purifier.gradient_modes:
        if mode != "tempered-1":  # there because it is what masks gradients
            assert slope(AdaptiveView(tiny_classifier, purifier, mode=mode), images).abs().max() > 0, mode


def test_a_purifier_without_a_gradient_has_zeros_and_no_error(
    images: Tensor, tiny_classifier: nn.Module
) -> None:
    plain = slope(AdaptiveView(tiny_classifier, FeatureSqueezing(bits=3, window=1)), images)
    assert torch.equal(plain, torch.zeros_like(images))
    with torch.no_grad():
        cut_off = FeatureSqueezing(bits=3)
    assert (slope(AdaptiveView(tiny_classifier, cut_off, mode="identity"), images) != 0).any()


def test_straight_through_is_the_gradient_of_a_linear_code(images: Tensor) -> None:
    purifier = ComDefendPurifier(tiny_model())
    model = purifier.model
    weights = torch.randn_like(images)
    at = images.clone().requires_grad_(True)
    (found,) = torch.autograd.grad((purifier.through(at, "straight-through") * weights).sum(), at)
    # By hand: the reconstructor's gradient at the hard code, taken back through the logits.
    code = purifier.compress(images).float().requires_grad_(True)
    (at_code,) = torch.autograd.grad((model.rec(code) * weights).sum(), code)
    logits = model.com(at)
    (by_hand,) = torch.autograd.grad((logits * at_code).sum(), at)
    torch.testing.assert_close(found, by_hand, atol=1e-4, rtol=1e-3)
    (tempered,) = torch.autograd.grad((purifier.through(at, "tempered-1e6") * weights).sum(), at)
    torch.testing.assert_close(4e6 * tempered, by_hand, atol=1e-3, rtol=1e-2)


def test_a_chain_differentiates_each_part_as_it_can(images: Tensor) -> None:
    squeeze, code = FeatureSqueezing(bits=3), ComDefendPurifier(tiny_model())
    weights = torch.randn_like(images)

    def back(function: object) -> Tensor:
        at = images.clone().requires_grad_(True)
        assert callable(function)
        return torch.autograd.grad((function(at) * weights).sum(), at)[0]

    chain = back(lambda x: Chain([squeeze, code]).through(x, "straight-through"))
    by_hand = back(lambda x: code.through(squeeze.through(x, "surrogate"), "straight-through"))
    torch.testing.assert_close(chain, by_hand)


def test_the_estimate_points_along_the_gradient(images: Tensor, tiny_classifier: nn.Module) -> None:
    smooth = GaussianSmoothing()
    exact = slope(AdaptiveView(tiny_classifier, smooth), images)
    view = AdaptiveView(tiny_classifier, smooth, mode="spsa", directions=512)
    likeness = torch.cosine_similarity(exact.flatten(1), slope(view, images).flatten(1))
    assert (likeness > 0.3).all()  # 512 random directions of 768 dimensions: about 0.6


def test_the_mean_over_draws_has_the_mean_gradient(images: Tensor, tiny_classifier: nn.Module) -> None:
    torch.manual_seed(3)
    view = AdaptiveView(tiny_classifier, ResizePad(), eot_samples=5)
    together = slope(view, images)
    torch.manual_seed(3)
    seeds = [int(torch.randint(2**62, ())) for _ in range(5)]
    each = [slope(AdaptiveView(tiny_classifier, ResizePad(), frozen=seed), images) for seed in seeds]
    apart = torch.stack(each).mean(0)
    torch.testing.assert_close(together, apart)


def test_frozen_randomness_repeats_itself(images: Tensor, tiny_classifier: nn.Module) -> None:
    free, frozen = (AdaptiveView(tiny_classifier, ResizePad(smallest=0.5), frozen=f) for f in (None, 7))
    assert not torch.equal(free(images), free(images))
    state = torch.get_rng_state()
    assert torch.equal(frozen(images), frozen(images))
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_that_are_no_purifiers_have_two_modes(images: Tensor, tiny_classifier: nn.Module) -> None:
    module = nn.AvgPool2d(3, stride=1, padding=1)
    assert gradient_modes(module) == ("autograd", "identity", "spsa")
    torch.testing.assert_close(through(module, images, "identity"), module(images))
    with pytest.raises(RequestError, match="no gradient mode 'surrogate'"):
        AdaptiveView(tiny_classifier, module, mode="surrogate")(images)


@pytest.mark.parametrize("mode", ["tempered-0", "tempered-x", "sideways"])
def test_unknown_modes_are_refused(mode: str, images: Tensor) -> None:
    with pytest.raises(RequestError, match="gradient mode"):
        ComDefendPurifier(tiny_model()).through(images, mode)


@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])
@pytest.mark.parametrize("targeted", [False, True])
def test_every_loss_is_largest_where_the_goal_is_reached(loss: str, targeted: bool) -> None:
    labels = torch.tensor([0, 0, 0])
    goal = Goal(labels, torch.tensor([2, 2, 2]) if targeted else None)
    logits = torch.tensor([[4.0, 1, 0, -1], [1.0, 0.9, 0.95, -1], [0.0, 1, 3, -1]])
    values = goal.loss(logits, loss)  # type: ignore[arg-type]
    assert values[0] < values[1] < values[2]
    if loss == "dlr":
        torch.testing.assert_close(values, goal.loss(10 * logits, "dlr"))
    if loss == "margin":
        assert goal.reached_by(logits).tolist() == (values > 0).tolist() == [False, False, True]


def test_somebody_elses_mode_does_not_decide_what_is_attacked(
    images: Tensor, tiny_classifier: nn.Module
) -> None:
    class Noisy(Purifier):
        stochastic = True
        gradient_modes = ("mine",)

        def purify(self, images: Tensor) -> Tensor:
            return (images + 0.1 * torch.randn_like(images)).clamp(0, 1)

        def through(self, images: Tensor, mode: str) -> Tensor:
            return 3 * self.purify(images) if mode == "mine" else super().through(images, mode)

    torch.manual_seed(0)
    truth = Noisy()(images)
    torch.manual_seed(0)
    at = images.clone().requires_grad_(True)
    seen = through(Noisy(), at, "mine")
    assert torch.equal(seen, truth)
    inside = (truth > 0) & (truth < 1)
    slopes = torch.autograd.grad(seen.sum(), at)[0]
    assert (slopes[inside] == 3).all()


def test_restarts_keep_what_came_nearest(tiny_classifier: nn.Module) -> None:
    images = torch.rand(8, 3, 16, 16)
    labels = tiny_classifier(images).argmax(1)
    found = []
    for restarts in (1, 2, 4):
        torch.manual_seed(0)
        made = PGD(steps=1, restarts=restarts)(tiny_classifier, images, labels, epsilon=0.002)
        found.append(Goal(labels).loss(tiny_classifier(made), "margin"))
    assert (found[0] <= found[1]).all()
    assert (found[1] <= found[2]).all()
    assert (found[0] < found[2]).any()


def test_stopping_early_goes_beyond_the_boundary() -> None:
    class Sum(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            level = images.flatten(1).mean(1) - 0.5
            return torch.stack([-level, level], 1)

    images = torch.full((1, 1, 2, 2), 0.495)
    labels = torch.tensor([0])
    levels = [
        float(
            follow_gradient(
                Sum(), images, Goal(labels), 0.1, BALLS["linf"], steps=steps, step=0.1, early=True
            ).mean()
        )
        for steps in (1, 2, 3, 9)
    ]
    # The first step of 0.01 reaches it, two more settle it; where the last one leads was not looked at.
    assert levels == pytest.approx([0.505, 0.505, 0.515, 0.525])


def test_stopping_early_stops_where_a_file_of_8_bits_is_wrong_too() -> None:
    class Above(nn.Module):
        """Wrong above a level between two of 8 bits, nearer to the upper one."""

        def forward(self, images: Tensor) -> Tensor:
            level = 255 * images.flatten(1).mean(1) - 100.1
            return torch.stack([-level, level], 1)

    images = torch.full((1, 1, 2, 2), 100 / 255)
    goal = Goal(torch.tensor([0]))
    made = follow_gradient(Above(), images, goal, 8 / 255, BALLS["linf"], steps=20, step=0.01, early=True)
    # In steps of 0.08 levels it is wrong from 100.16 on, and stored from 100.56 on.
    assert goal.reached(Above(), (made * 255).round() / 255).all()
    assert 100.5 < 255 * made.mean().item() < 101


def test_an_image_that_fools_a_random_defence_now_and_then_is_tried_again() -> None:
    class Coin(nn.Module):
        """Right in half of its answers, whatever it is asked."""

        def __init__(self) -> None:
            super().__init__()
            self.followed = 0

        def forward(self, images: Tensor) -> Tensor:
            self.followed += len(images) * images.requires_grad
            level = torch.where(torch.rand(len(images)) < 0.5, 1.0, -1.0) + 0 * images.flatten(1).sum(1)
            return torch.stack([level, -level], 1)

    images, labels = torch.rand(16, 1, 2, 2), torch.zeros(16, dtype=torch.long)
    counts = {}
    for sure in (1, 30):
        coin = Coin()
        PGD(steps=1, restarts=4, confirmations=sure)(coin, images, labels, epsilon=0.1)
        counts[sure] = coin.followed
    assert counts[30] == 4 * 16
    assert counts[1] < 4 * 16


def test_autoattack_leaves_no_image_alone_that_a_random_defence_gets_wrong_mostly(
    tiny_classifier: TinyClassifier,
) -> None:
    images = torch.rand(6, 3, 16, 16)
    labels = tiny_classifier(images).argmax(1)
    view = AdaptiveView(tiny_classifier, ResizePad(), eot_samples=4)
    made = AutoAttack(kind="rand", draws=1)(view, images, labels, epsilon=8 / 255)
    assert (made - images).flatten(1).abs().amax(1).gt(1 / 255).all()
    goal = Goal(labels)
    before, after = (goal.loss(view(at), "margin").mean() for at in (images, made))
    assert after > before


def test_what_was_reached_and_left_again_is_kept() -> None:
    class Band(nn.Module):
        """Wrong only in a narrow band that the steps pass through."""

        def forward(self, images: Tensor) -> Tensor:
            level = images.flatten(1).mean(1)
            hit = (level > 0.505) & (level < 0.515)
            return torch.stack([torch.where(hit, -1.0, 1.0), 0.1 * level], 1)

    images = torch.full((1, 1, 2, 2), 0.5)
    made = follow_gradient(
        Band(), images, Goal(torch.tensor([0])), 0.1, BALLS["linf"], steps=5, step=0.1, early=True
    )
    assert made.mean().item() == pytest.approx(0.51)


@pytest.mark.parametrize("attack", [BIM(early=True), PGD(early=True, restarts=2), PGD(early=True, norm="l2")])
def test_stopping_early_breaks_no_fewer(attack: PGD | BIM, tiny_classifier: TinyClassifier) -> None:
    images = torch.rand(16, 3, 16, 16)
    labels = tiny_classifier(images).argmax(1)
    goal = Goal(labels)
    epsilon = 0.5 if attack.norm == "l2" else 4 / 255
    late = replace(attack, early=False)(tiny_classifier, images, labels, epsilon=epsilon)
    found = attack(tiny_classifier, images, labels, epsilon=epsilon)
    assert goal.reached(tiny_classifier, found).sum() >= goal.reached(tiny_classifier, late).sum() > 0
    # What is solved at the start is left where it is.
    wrong = (labels + 1) % tiny_classifier(images).shape[1]
    assert torch.equal(BIM(early=True)(tiny_classifier, images, wrong, epsilon=0.1), images)
