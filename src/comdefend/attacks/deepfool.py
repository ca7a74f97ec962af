"""DeepFool: steps to the nearest linearised decision boundary (Moosavi-Dezfooli et al., 2016)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from comdefend.attacks.base import Attack, foolbox_model, fooled


@dataclass(frozen=True)
class DeepFool(Attack):
    """DeepFool under L-infinity. Minimal by nature: it stops as soon as the model is fooled.

    Where it needs more than epsilon, its perturbation is clipped to epsilon and kept if that still
    fools the model. `candidates`: how many of the likeliest classes are tried as the nearest.
    """

    name = "deepfool"
    norm = "linf"
    protocol = "minimal"

    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
        wrapped = foolbox_model(model, images)
        from foolbox.attacks import LinfDeepFoolAttack
        from foolbox.criteria import Misclassification

        attack = LinfDeepFoolAttack(steps=self.steps, overshoot=self.overshoot, candidates=self.candidates)
        found: Tensor = attack.run(wrapped, images, Misclassification(labels))
        found = torch.where(torch.isfinite(found), found, images).clamp(0, 1)
        if epsilon is not None:
            found = (images + (found - images).clamp(-epsilon, epsilon)).clamp(0, 1)
        works = fooled(model, found, labels) & ~fooled(model, images, labels)
        return torch.where(works[:, None, None, None], found, images)
