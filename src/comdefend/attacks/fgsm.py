"""FGSM: one step along the sign of the gradient (Goodfellow et al., 2015)."""

from dataclasses import dataclass

from torch import Tensor, nn

from comdefend.attacks.base import Attack, Goal, search_smallest
from comdefend.attacks.iterative import gradient


@dataclass(frozen=True)
class FGSM(Attack):
    """The whole budget in one step: `x + epsilon * sign(grad)`, clipped to [0, 1]."""

    name = "fgsm"
    norm = "linf"
    protocol = "fixed"

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        budget = 1.0 if epsilon is None else epsilon
        return (images + budget * gradient(model, images, goal)[0].sign()).clamp(0, 1)


@dataclass(frozen=True)
class MinimalFGSM(Attack):
    """The shortest step along the sign of the gradient that fools the model, up to epsilon.

    A line search over `steps` equal parts of epsilon, as Foolbox 1.x did.
    """

    name = "fgsm"
    norm = "linf"
    protocol = "minimal"

    steps: int = 60

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        most = 1.0 if epsilon is None else epsilon
        # The gradient is that of the clean image at every length, so one direction serves all.
        direction = gradient(model, images, goal)[0].sign()
        return search_smallest(
            lambda rows, budget: (images[rows] + budget * direction[rows]).clamp(0, 1),
            model, images, goal, [most * k / self.steps for k in range(1, self.steps + 1)],
        )  # fmt: skip
