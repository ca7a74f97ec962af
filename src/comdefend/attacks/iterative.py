"""BIM and PGD: many small steps along the sign of the gradient, each projected back to the budget."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from comdefend.attacks.base import Attack, Protocol, foolbox_model, fooled, search_smallest

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

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
        return many_steps(
            model, images, labels, DEFAULT_BUDGET if epsilon is None else epsilon,
            steps=self.steps, step=self.step, random_start=False,
        )  # fmt: skip


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al., 2018): BIM from a random point of the budget.

    With `restarts` above 1, images that are not fooled are tried again from another point. Random numbers are
    those of torch's global generator.
    """

    name = "pgd"
    norm = "linf"
    protocol: ClassVar[Protocol] = "fixed"

    steps: int = 20
    step: float = 0.125
    restarts: int = 1

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
        budget = DEFAULT_BUDGET if epsilon is None else epsilon

        def attempt(some_images: Tensor, some_labels: Tensor) -> Tensor:
            return many_steps(
                model, some_images, some_labels, budget,
                steps=self.steps, step=self.step, random_start=True,
            )  # fmt: skip

        result = attempt(images, labels)
        for _ in range(self.restarts - 1):
            unsolved = torch.nonzero(~fooled(model, result, labels))[:, 0]
            if len(unsolved) == 0:
                break
            result[unsolved] = attempt(images[unsolved], labels[unsolved])
        return result


@dataclass(frozen=True)
class MinimalBIM(BIM):
    """BIM at `budgets` rising budgets; the first that fools the model counts."""

    protocol = "minimal"

    budgets: int = 12

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
        return rising(super().run, self.budgets, model, images, labels, epsilon)


@dataclass(frozen=True)
class MinimalPGD(PGD):
    """PGD at `budgets` rising budgets; the first that fools the model counts."""

    protocol = "minimal"

    budgets: int = 12

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
        return rising(super().run, self.budgets, model, images, labels, epsilon)


def many_steps(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int,
    step: float,
    random_start: bool,
) -> Tensor:
    wrapped = foolbox_model(model, images)
    from foolbox.attacks import LinfBasicIterativeAttack
    from foolbox.criteria import Misclassification

    attack = LinfBasicIterativeAttack(rel_stepsize=step, steps=steps, random_start=random_start)
    attacked: Tensor = attack.run(wrapped, images, Misclassification(labels), epsilon=epsilon)
    return attacked


def rising(
    attack: Callable[[nn.Module, Tensor, Tensor, float], Tensor],
    count: int,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float | None,
) -> Tensor:
    """A fixed attack at `count` evenly spaced budgets up to epsilon, on the images not yet fooled."""
    most = DEFAULT_BUDGET if epsilon is None else epsilon
    return search_smallest(
        lambda rows, budget: attack(model, images[rows], labels[rows], budget),
        model, images, labels, [most * k / count for k in range(1, count + 1)],
    )  # fmt: skip
