"""FGSM: one step along the sign of the gradient (Goodfellow et al., 2015)."""

from dataclasses import dataclass

from torch import Tensor, nn

from comdefend.attacks.balls import Budget
from comdefend.attacks.base import Attack, Goal, attacks
from comdefend.attacks.iterative import gradient


@attacks.register("fgsm")
@dataclass(frozen=True)
class FGSM(Attack):
    """The whole budget in one step: `x + epsilon * sign(grad)`, clipped to [0, 1]."""

    name = "fgsm"
    per_image_budgets = True

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        budget = self.ball.largest(images) if epsilon is None else epsilon
        return (images + self.ball.step(gradient(model, images, goal)[0], budget)).clamp(0, 1)
