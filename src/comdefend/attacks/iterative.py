"""BIM, PGD and MI-FGSM: many small steps along the sign of the gradient, each projected to the budget."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from comdefend.attacks.base import Attack, Goal, Protocol, search_smallest

DEFAULT_BUDGET = 0.3
"""What an iterative attack without a budget gets, as in Foolbox 1.x."""


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

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        budget = DEFAULT_BUDGET if epsilon is None else epsilon
        return ascend(model, images, goal, budget, steps=self.steps, step=self.step)


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al., 2018): BIM from a random point of the budget.

    With `restarts` above 1, images that are not fooled are tried again from another point. Random
    numbers are those of torch's global generator.
    """

    name = "pgd"
    norm = "linf"
    protocol: ClassVar[Protocol] = "fixed"

    steps: int = 20
    step: float = 0.125
    restarts: int = 1

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        budget = DEFAULT_BUDGET if epsilon is None else epsilon

        def attempt(rows: Tensor) -> Tensor:
            start = images[rows] + budget * (2 * torch.rand_like(images[rows]) - 1)
            return ascend(
                model, images[rows], goal.rows(rows), budget,
                steps=self.steps, step=self.step, start=start.clamp(0, 1),
            )  # fmt: skip

        result = attempt(torch.arange(len(images), device=images.device))
        for _ in range(self.restarts - 1):
            unsolved = torch.nonzero(~goal.reached(model, result))[:, 0]
            if len(unsolved) == 0:
                break
            result[unsolved] = attempt(unsolved)
        return result


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

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        budget = DEFAULT_BUDGET if epsilon is None else epsilon
        return ascend(model, images, goal, budget, steps=self.steps, step=1 / self.steps, momentum=self.decay)


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


def gradient(model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
    """The gradient of the goal's loss at the images: the direction in which each nears its goal."""
    at = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        loss = goal.loss(model(at)).sum()
    found: Tensor = torch.autograd.grad(loss, at)[0]
    return found


def ascend(
    model: nn.Module,
    images: Tensor,
    goal: Goal,
    epsilon: float,
    *,
    steps: int,
    step: float,
    momentum: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """`steps` steps of `step * epsilon` along the sign of the gradient, from `start` or the images.

    After each the result is within `epsilon` of the images and in [0, 1]. With `momentum` the sign is
    that of a sum of gradients, each of L1 norm 1, the sum multiplied by `momentum` at each step.
    """
    low, high = (images - epsilon).clamp_min(0), (images + epsilon).clamp_max(1)
    at = images if start is None else start
    direction = torch.zeros_like(images)
    for _ in range(steps):
        found = gradient(model, at, goal)
        if momentum is not None:
            length = found.abs().sum((1, 2, 3), keepdim=True)
            direction = momentum * direction + torch.where(length > 0, found / length, 0)
            found = direction
        at = torch.clamp(at + step * epsilon * found.sign(), low, high)
    return at


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
