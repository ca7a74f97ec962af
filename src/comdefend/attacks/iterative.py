"""BIM, PGD and MI-FGSM: many small steps along the gradient, each projected to the ball."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from comdefend.attacks.adaptive import one_sample
from comdefend.attacks.balls import Ball, Budget
from comdefend.attacks.base import OF_THE_EVALUATION, Attack, Goal, LossName, attacks
from comdefend.errors import RequestError

DEFAULT_BUDGET = 0.3
"""What an iterative attack without a budget gets, as in Foolbox 1.x."""

SETTLED = 3
"""Where attacks may stop early: steps in a row that must reach the goal, and then the image must still reach
it when it is stored in 8 bits, so that the result lies beyond the boundary and not on it.
"""

LOSSES: tuple[LossName, ...] = ("cross-entropy", "margin", "dlr")
"""Of the PGD of an informed attacker: one after the other on what is left."""

CONFIRMATIONS = 10
"""Single answers of a random defence that an image must fool, for the PGD of an informed attacker not to try
it again.
"""

Follow = Callable[[Tensor], Tensor | None]
"""From images to the gradient at them, N x C x H x W; None where nothing is left to do."""


def ascend(
    follow: Follow,
    images: Tensor,
    epsilon: Budget,
    ball: Ball,
    *,
    steps: int,
    step: float,
    start: Tensor | None = None,
) -> Tensor:
    """Projected gradient ascent (Madry et al., 2018) from `start`, or the images: `steps` steps of
    `step * epsilon`.
    """
    at = images if start is None else start
    for _ in range(steps):
        gradient_at = follow(at)
        if gradient_at is None:
            break
        at = ball.project(at + ball.step(gradient_at, step * epsilon), images, epsilon)
    return at


class Momentum:
    """A sum of gradients, each divided by its L1 norm; the sum is multiplied by `decay` at each step
    (Dong et al., 2018, Eq. 6).
    """

    def __init__(self, follow: Follow, decay: float) -> None:
        self.follow, self.decay = follow, decay
        self.sum: Tensor | float = 0.0

    def __call__(self, at: Tensor) -> Tensor | None:
        found = self.follow(at)
        if found is None:
            return None
        length = found.abs().sum((1, 2, 3), keepdim=True)
        self.sum = self.decay * self.sum + torch.where(length > 0, found / length, 0)
        return self.sum


class EarlyStop:
    """Follows the gradient at images that are not fooled for good yet.

    An image is left alone once it has reached the goal for `SETTLED` steps in a row and does so in 8 bits as
    well; `result` takes one that was moved away again back to where it had reached it. With `from_images`
    one that is wrong from the start stays as it is.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, goal: Goal, loss: LossName, *, from_images: bool
    ) -> None:
        self.model, self.goal, self.loss = model, goal, loss
        self.rows = torch.arange(len(images), device=images.device)
        self.streak = torch.zeros_like(self.rows)
        self.fooled_at, self.ever = images.clone(), torch.zeros_like(self.rows, dtype=torch.bool)
        self.at_start = from_images

    def __call__(self, at: Tensor) -> Tensor | None:
        goal = self.goal.rows(self.rows)
        found, logits = gradient(self.model, at[self.rows], goal, self.loss)
        reached = goal.reached_by(logits)
        hit = self.rows[reached]
        self.fooled_at[hit], self.ever[hit] = at[hit], True
        self.streak[self.rows] = torch.where(reached, self.streak[self.rows] + 1, 0)
        if self.at_start:
            going, self.at_start = ~reached, False
        else:
            settled = self.rows[self.streak[self.rows] >= SETTLED]
            if len(settled):
                lost = ~self.goal.rows(settled).reached(self.model, stored(at[settled]))
                self.streak[settled[lost]] = 0
            going = self.streak[self.rows] < SETTLED
        self.rows, found = self.rows[going], found[going]
        if len(self.rows) == 0:
            return None
        everywhere = torch.zeros_like(at)
        everywhere[self.rows] = found
        return everywhere

    def result(self, at: Tensor) -> Tensor:
        """Images where they reached the goal last, and elsewhere `at`."""
        return torch.where(self.ever[:, None, None, None], self.fooled_at, at)


def follow_gradient(
    model: nn.Module,
    images: Tensor,
    goal: Goal,
    epsilon: Budget | None,
    ball: Ball,
    *,
    steps: int,
    step: float,
    loss: LossName = "cross-entropy",
    momentum: float | None = None,
    start: Tensor | None = None,
    early: bool = False,
) -> Tensor:
    """`ascend` along the gradient of a model's loss, with momentum and with early stopping where asked
    for.
    """
    budget = DEFAULT_BUDGET if epsilon is None else epsilon
    stop = EarlyStop(model, images, goal, loss, from_images=start is None) if early else None
    follow: Follow = stop or (lambda at: gradient(model, at, goal, loss)[0])
    if momentum is not None:
        follow = Momentum(follow, momentum)
    at = ascend(follow, images, budget, ball, steps=steps, step=step, start=start)
    return stop.result(at) if stop else at


@attacks.register("bim")
@dataclass(frozen=True)
class BIM(Attack):
    """The basic iterative method, or IFGSM (Kurakin et al., 2017), from the image itself.

    `step` is a fraction of epsilon; ten steps of a fifth reach any corner of the budget twice.
    """

    name = "bim"
    per_image_budgets = True

    steps: int = 10
    step: float = 0.2
    early: bool = field(default=False, repr=False, metadata=OF_THE_EVALUATION)

    @property
    def gradients(self) -> float:
        return self.steps

    def informed(self, *, random: bool) -> "BIM":
        return replace(self, early=not random)

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        return follow_gradient(
            model, images, goal, epsilon, self.ball, steps=self.steps, step=self.step, early=self.early
        )


@attacks.register("pgd")
@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al., 2018): BIM from a random point of the ball.

    With `restarts` above 1, images that are not fooled are tried again from another point, and what comes
    nearer to the goal is kept; the restarts take turns with the `losses` (see `Goal.loss`). Random numbers
    are those of torch's global generator. `confirmations`: of a model that answers at random, in how many
    single answers an image must fool it to be left alone, and over how many the nearness is a mean.
    """

    name = "pgd"
    norms = ("linf", "l2")
    per_image_budgets = True
    follows_estimates = True

    steps: int = 20
    step: float = 0.125
    restarts: int = 1
    losses: tuple[LossName, ...] = ("cross-entropy",)
    early: bool = field(default=False, repr=False, metadata=OF_THE_EVALUATION)
    confirmations: int = field(default=1, repr=False, metadata=OF_THE_EVALUATION)

    @property
    def gradients(self) -> float:
        return self.steps * self.restarts

    def informed(self, *, random: bool) -> "PGD":
        return replace(
            self, restarts=max(len(LOSSES), self.restarts), losses=LOSSES, early=not random,
            confirmations=CONFIRMATIONS if random else 1,
        )  # fmt: skip

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        budget = DEFAULT_BUDGET if epsilon is None else epsilon

        def attempt(rows: Tensor, loss: LossName) -> Tensor:
            own = budget[rows] if isinstance(budget, Tensor) else budget
            return follow_gradient(
                model, images[rows], goal.rows(rows), own, self.ball, steps=self.steps, step=self.step,
                loss=loss, early=self.early, start=self.ball.start(images[rows], own),
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
        if self.confirmations == 1:
            return goal.reached(model, images)
        once = one_sample(model)
        return torch.stack([goal.reached(once, images) for _ in range(self.confirmations)]).all(0)

    def _nearness(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        """How near images are to their goal, or beyond it: the mean margin of their logits, N."""
        with torch.no_grad():
            if self.confirmations == 1:
                return goal.loss(model(images), "margin")
            once = one_sample(model)
            margins = [goal.loss(once(images), "margin") for _ in range(self.confirmations)]
            return torch.stack(margins).mean(0)


attacks.register("pgd-l2")(partial(PGD, norm="l2"))


@attacks.register("mi-fgsm")
@dataclass(frozen=True)
class MIFGSM(Attack):
    """The momentum iterative method (Dong et al., 2018): the winner of the NIPS 2017 contest.

    Each gradient is divided by its L1 norm before it is added to the momentum (their Eq. 6); the
    steps of `epsilon / steps` are along the sign of the momentum (Eq. 7), which decays by `decay`.
    """

    name = "mi-fgsm"
    per_image_budgets = True

    steps: int = 10
    decay: float = field(default=1.0, metadata={"least": 0})
    early: bool = field(default=False, repr=False, metadata=OF_THE_EVALUATION)

    @property
    def gradients(self) -> float:
        return self.steps

    def informed(self, *, random: bool) -> "MIFGSM":
        return replace(self, early=not random)

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        return follow_gradient(
            model, images, goal, epsilon, self.ball,
            steps=self.steps, step=1 / self.steps, momentum=self.decay, early=self.early,
        )  # fmt: skip


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


def stored(images: Tensor) -> Tensor:
    """Images as a file of 8 bits a channel gives them back."""
    return (images * 255).round() / 255
