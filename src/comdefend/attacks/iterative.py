"""BIM, PGD and MI-FGSM: many small steps along the sign of the gradient, each projected to the budget."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from comdefend.attacks.adaptive import one_draw
from comdefend.attacks.base import OF_THE_EVALUATION, Attack, Goal, LossName, Norm, Protocol, search_smallest
from comdefend.errors import RequestError

DEFAULT_BUDGET = 0.3
"""What an iterative attack without a budget gets, as in Foolbox 1.x."""

SETTLED = 3
"""Where attacks may stop early: steps in a row that must reach the goal, and then the image must still reach
it when it is stored in 8 bits, so that the result lies beyond the boundary and not on it.
"""

EARLY = 2
"""Raised when a change of when attacks stop changes what they find."""


@dataclass(frozen=True)
class BIM(Attack):
    """The basic iterative method, or IFGSM (Kurakin et al., 2017), from the image itself.

    `step` is a fraction of epsilon; ten steps of a fifth reach any corner of the budget twice.
    """

    name = "bim"
    norm = "linf"
    protocol: ClassVar[Protocol] = "fixed"

    steps: int = 10
    step: float = 0.2
    early: bool = field(default=False, repr=False)

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        budget = DEFAULT_BUDGET if epsilon is None else epsilon
        return ascend(model, images, goal, budget, steps=self.steps, step=self.step, early=self.early)


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al., 2018): BIM from a random point of the budget.

    With `restarts` above 1, images that are not fooled are tried again from another point, and what comes
    nearer to the goal is kept; the restarts take turns with the `losses` (see `Goal.loss`). Random numbers
    are those of torch's global generator. `sure`: of a model that answers at random, in how many single
    answers an image must fool it to be left alone, and over how many the nearness is a mean.
    """

    name = "pgd"
    version = 2
    norm: ClassVar[Norm] = "linf"
    protocol: ClassVar[Protocol] = "fixed"

    steps: int = 20
    step: float = 0.125
    restarts: int = 1
    losses: tuple[LossName, ...] = ("cross-entropy",)
    early: bool = field(default=False, repr=False)
    sure: int = field(default=1, repr=False, metadata=OF_THE_EVALUATION)

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        budget = DEFAULT_BUDGET if epsilon is None else epsilon

        def attempt(rows: Tensor, loss: LossName) -> Tensor:
            return ascend(
                model, images[rows], goal.rows(rows), budget,
                steps=self.steps, step=self.step, norm=self.norm, loss=loss, early=self.early,
                start=random_start(images[rows], budget, self.norm),
            )  # fmt: skip

        result = attempt(torch.arange(len(images), device=images.device), self.losses[0])
        for restart in range(1, self.restarts):
            unsolved = torch.nonzero(~self._solved(model, result, goal))[:, 0]
            if len(unsolved) == 0:
                break
            found = attempt(unsolved, self.losses[restart % len(self.losses)])
            left = goal.rows(unsolved)
            nearer = self._nearness(model, found, left) >= self._nearness(model, result[unsolved], left)
            result[unsolved[nearer]] = found[nearer]
        return result

    def _solved(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        """Which images reach their goal whenever they are looked at, N booleans."""
        if self.sure == 1:
            return goal.reached(model, images)
        once = one_draw(model)
        return torch.stack([goal.reached(once, images) for _ in range(self.sure)]).all(0)

    def _nearness(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        """How near images are to their goal, or beyond it: the mean margin of their logits, N."""
        with torch.no_grad():
            if self.sure == 1:
                return goal.loss(model(images), "margin")
            once = one_draw(model)
            return torch.stack([goal.loss(once(images), "margin") for _ in range(self.sure)]).mean(0)


@dataclass(frozen=True)
class PGDL2(PGD):
    """PGD under L2: steps along the gradient, from a random point of the ball."""

    name = "pgd-l2"
    norm = "l2"


@dataclass(frozen=True)
class MIFGSM(Attack):
    """The momentum iterative method (Dong et al., 2018): the winner of the NIPS 2017 contest.

    Each gradient is divided by its L1 norm before it is added to the momentum (their Eq. 6); the
    steps of `epsilon / steps` are along the sign of the momentum (Eq. 7), which decays by `decay`.
    """

    name = "mi-fgsm"
    norm = "linf"
    protocol: ClassVar[Protocol] = "fixed"

    steps: int = 10
    decay: float = 1.0
    early: bool = field(default=False, repr=False)

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        budget = DEFAULT_BUDGET if epsilon is None else epsilon
        return ascend(
            model, images, goal, budget,
            steps=self.steps, step=1 / self.steps, momentum=self.decay, early=self.early,
        )  # fmt: skip


@dataclass(frozen=True)
class MinimalBIM(BIM):
    """BIM at `budgets` rising budgets; the first that fools the model counts."""

    protocol = "minimal"

    budgets: int = 12

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        return rising(super().run, self.budgets, model, images, goal, epsilon)


@dataclass(frozen=True)
class MinimalPGD(PGD):
    """PGD at `budgets` rising budgets; the first that fools the model counts."""

    protocol = "minimal"

    budgets: int = 12

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        return rising(super().run, self.budgets, model, images, goal, epsilon)


@dataclass(frozen=True)
class MinimalMIFGSM(MIFGSM):
    """MI-FGSM at `budgets` rising budgets; the first that fools the model counts."""

    protocol = "minimal"

    budgets: int = 12

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        return rising(super().run, self.budgets, model, images, goal, epsilon)


def gradient(
    model: nn.Module, images: Tensor, goal: Goal, loss: LossName = "cross-entropy"
) -> tuple[Tensor, Tensor]:
    """The gradient of the goal's loss at the images, the direction in which each nears its goal; and the
    logits there. Where it is no number it counts as zero: there is nothing to follow. Raises
    `RequestError` for a model that hands none back to its images.
    """
    at = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        logits = model(at)
        total = goal.loss(logits, loss).sum()
    found = torch.autograd.grad(total, at, allow_unused=True)[0] if total.requires_grad else None
    if found is None:
        raise RequestError(
            "the model hands no gradient back to its images (under no_grad, or not in PyTorch?), which this "
            "attack follows; square and hopskipjump, with knowledge black-box, ask for answers alone"
        )
    return torch.where(torch.isfinite(found), found, 0), logits.detach()


def ascend(
    model: nn.Module,
    images: Tensor,
    goal: Goal,
    epsilon: float,
    *,
    steps: int,
    step: float,
    norm: Norm = "linf",
    loss: LossName = "cross-entropy",
    momentum: float | None = None,
    start: Tensor | None = None,
    early: bool = False,
) -> Tensor:
    """`steps` steps of `step * epsilon` along the gradient, from `start` or the images.

    After each the result is within `epsilon` of the images and in [0, 1]. L-infinity steps are along
    the gradient's sign, L2 steps along the gradient itself. With `momentum` the direction is
    a sum of gradients, each of L1 norm 1, the sum multiplied by `momentum` at each step. With `early`
    an image stops once it has reached the goal for `SETTLED` steps in a row and does so in 8 bits as well,
    and one that reached it and was moved away again goes back to where it was; one that was there from the
    start stays as it is.
    """
    result = (images if start is None else start).clone()
    direction = torch.zeros_like(images)
    open_ = torch.arange(len(images), device=images.device)
    there, streak = result.clone(), torch.zeros_like(open_)
    ever = torch.zeros_like(open_, dtype=torch.bool)
    for number in range(steps):
        found, logits = gradient(model, result[open_], goal.rows(open_), loss)
        if early:
            reached = goal.rows(open_).reached_by(logits)
            there[open_[reached]], ever[open_[reached]] = result[open_[reached]], True
            streak[open_] = torch.where(reached, streak[open_] + 1, 0)
            # An attack from the image itself has nothing to do where the image is wrong already.
            going = ~reached if number == 0 and start is None else streak[open_] < SETTLED
            if number > 0 and not bool(going.all()):
                settled = open_[~going]
                lost = ~goal.rows(settled).reached(model, stored(result[settled]))
                streak[settled[lost]] = 0
                going = streak[open_] < SETTLED
            open_, found = open_[going], found[going]
            if len(open_) == 0:
                break
        if momentum is not None:
            length = found.abs().sum((1, 2, 3), keepdim=True)
            found = momentum * direction[open_] + torch.where(length > 0, found / length, 0)
            direction[open_] = found
        move = found.sign() if norm == "linf" else found / _lengths(found).clamp_min(1e-12)
        result[open_] = project(result[open_] + step * epsilon * move, images[open_], epsilon, norm)
    return torch.where(ever[:, None, None, None], there, result)


def project(at: Tensor, images: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """The nearest point that is within epsilon of the images, and of that the nearest in [0, 1]."""
    if norm == "linf":
        return torch.clamp(at, (images - epsilon).clamp_min(0), (images + epsilon).clamp_max(1))
    away = at - images
    return (images + away * (epsilon / _lengths(away).clamp_min(1e-12)).clamp_max(1)).clamp(0, 1)


def random_start(images: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """A random point of the budget and of [0, 1] for each image, from torch's global generator."""
    if norm == "linf":
        away = epsilon * (2 * torch.rand_like(images) - 1)
    else:
        away = torch.randn_like(images)
        radius = epsilon * torch.rand(len(images), 1, 1, 1, device=images.device)
        away = radius.to(images.dtype) * away / _lengths(away)
    return (images + away).clamp(0, 1)


def stored(images: Tensor) -> Tensor:
    """Images as a file of 8 bits a channel gives them back."""
    return (images * 255).round() / 255


def _lengths(images: Tensor) -> Tensor:
    """The Euclidean length of each image as a vector, N x 1 x 1 x 1."""
    lengths: Tensor = images.flatten(1).norm(dim=1)
    return lengths[:, None, None, None]


def rising(
    attack: Callable[[nn.Module, Tensor, Goal, float], Tensor],
    count: int,
    model: nn.Module,
    images: Tensor,
    goal: Goal,
    epsilon: float | None,
) -> Tensor:
    """A fixed attack at `count` evenly spaced budgets up to epsilon, on the images not yet fooled."""
    most = DEFAULT_BUDGET if epsilon is None else epsilon
    return search_smallest(
        lambda rows, budget: attack(model, images[rows], goal.rows(rows), budget),
        model, images, goal, [most * k / count for k in range(1, count + 1)],
    )  # fmt: skip
