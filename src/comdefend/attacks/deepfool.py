"""DeepFool: steps to the nearest linearised decision boundary (Moosavi-Dezfooli et al., 2016)."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from comdefend.attacks.balls import distance
from comdefend.attacks.base import BudgetFree, Goal, attacks, foolbox_criterion, foolbox_model


@attacks.register("deepfool")
@dataclass(frozen=True)
class DeepFool(BudgetFree):
    """DeepFool, published for L2. Minimal by nature: it stops as soon as the model is fooled.

    Where it needs more than epsilon, its perturbation is cut to epsilon and kept if that still
    fools the model. `candidates`: how many of the likeliest classes are tried as the nearest.
    """

    name = "deepfool"
    norms = ("linf", "l2")
    protocol = "minimal"
    targeted = False

    steps: int = 50
    overshoot: float = 0.02
    candidates: int = field(default=10, metadata={"least": 2})

    @property
    def gradients(self) -> float:
        return 5 * self.candidates

    def search(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        wrapped = foolbox_model(model, images)
        from foolbox.attacks import L2DeepFoolAttack, LinfDeepFoolAttack

        kind = LinfDeepFoolAttack if self.norm == "linf" else L2DeepFoolAttack
        # Foolbox would try more classes than there are.
        with torch.no_grad():
            classes = model(images[:1]).shape[1]
        attack = kind(steps=self.steps, overshoot=self.overshoot, candidates=min(self.candidates, classes))
        found: Tensor = attack.run(wrapped, images, foolbox_criterion(goal))
        return torch.where(torch.isfinite(found), found, images).clamp(0, 1)

    def cut(self, images: Tensor, found: Tensor, epsilon: float) -> Tensor:
        if self.norm == "linf":
            return (images + (found - images).clamp(-epsilon, epsilon)).clamp(0, 1)
        length = distance(images, found, "l2").clamp_min(1e-12)
        return images + (found - images) * (epsilon / length).clamp_max(1)[:, None, None, None]


attacks.register("deepfool-l2")(partial(DeepFool, norm="l2"))
