"""The minimal form of attacks that spend a budget: the smallest budget with which each image is fooled."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from comdefend.attacks.base import Attack, BudgetFree, Goal

DOUBLINGS = 9
"""The smallest budget that is tried is the largest one halved so often."""


@dataclass(frozen=True)
class Smallest(BudgetFree):
    """An attack with ever larger budgets, each twice the last, until it fools the model; then by bisection.

    Under L-infinity the budgets are half a unit of 1/255, one, two and so on. What is found is within a 64th
    (`halvings` = 5) of the power of two above it: below 8/255, to an eighth of a unit. An image that is wrong
    to begin with stays as it is, and so does one that no budget breaks. This is how the attacks of Foolbox
    1.x ended, whose interface the paper's released scripts use; they tried evenly spaced budgets up to the
    largest, which with another largest are others.
    """

    protocol = "minimal"

    attack: Attack
    halvings: int = field(default=5, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", self.attack.norm)
        object.__setattr__(self, "reference", self.attack.reference)

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.attack.name

    @property
    def targeted(self) -> bool:  # type: ignore[override]
        return self.attack.targeted

    @property
    def slow(self) -> bool:  # type: ignore[override]
        return self.attack.slow

    @property
    def max_images(self) -> int | None:  # type: ignore[override]
        return self.attack.max_images

    @property
    def gradients(self) -> float:
        return (self.halvings + 5) * self.attack.gradients

    def settings(self) -> dict[str, Any]:
        return {**self.attack.settings(), "halvings": self.halvings}

    def search(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        found = images.clone()
        largest = 256 / 255 if self.norm == "linf" else self.ball.largest(images)
        upper = torch.zeros(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
        rows = torch.nonzero(~goal.reached(model, images))[:, 0]
        for doubling in range(DOUBLINGS + 1):
            if len(rows) == 0:
                break
            budget = largest / 2 ** (DOUBLINGS - doubling)
            made = self.attack.run(model, images[rows], goal.rows(rows), budget)
            fooled = goal.rows(rows).reached(model, made)
            found[rows[fooled]], upper[rows[fooled]] = made[fooled], budget
            rows = rows[~fooled]
        rows = torch.nonzero(upper.flatten())[:, 0]
        if len(rows) == 0:
            return found
        upper = upper[rows]
        lower = torch.where(upper > largest / 2**DOUBLINGS, upper / 2, 0)
        for _ in range(self.halvings):
            middle = (lower + upper) / 2
            made = self.attack.run(model, images[rows], goal.rows(rows), middle)
            fooled = goal.rows(rows).reached(model, made)
            found[rows[fooled]] = made[fooled]
            upper = torch.where(fooled[:, None, None, None], middle, upper)
            lower = torch.where(fooled[:, None, None, None], lower, middle)
        return found
