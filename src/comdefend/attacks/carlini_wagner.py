"""C&W: the smallest L2 perturbation by optimisation (Carlini & Wagner, 2017)."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from comdefend.attacks.balls import Budget
from comdefend.attacks.base import (
    Attack,
    Goal,
    attacks,
    foolbox_criterion,
    foolbox_model,
    keep_what_works,
)
from comdefend.threat import Norm


@attacks.register("cw")
@dataclass(frozen=True)
class CarliniWagner(Attack):
    """C&W under L2 with its binary search for the constant. Minimal by nature.

    Where it needs more than epsilon (L2), the image is left as it was.
    """

    name = "cw"
    norms = ("l2",)
    protocol = "minimal"
    slow = True
    moves_all = False

    norm: Norm = field(default="l2", kw_only=True)
    searches: int = 5
    steps: int = 100
    learning_rate: float = 0.01
    initial_constant: float = 0.01
    confidence: float = field(default=0.0, metadata={"least": 0})

    @property
    def gradients(self) -> float:
        return self.searches * self.steps

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        assert not isinstance(epsilon, Tensor)
        wrapped = foolbox_model(model, images)
        from foolbox.attacks import L2CarliniWagnerAttack

        attack = L2CarliniWagnerAttack(
            binary_search_steps=self.searches,
            steps=self.steps,
            stepsize=self.learning_rate,
            initial_const=self.initial_constant,
            confidence=self.confidence,
        )
        found: Tensor = attack.run(wrapped, images, foolbox_criterion(goal))
        return keep_what_works(model, images, found, goal, epsilon=epsilon, norm=self.norm)
