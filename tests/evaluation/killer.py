"""Defences that only look strong, and one that means well: to see that an evaluation is not fooled."""

import torch
from torch import Tensor

from comdefend.purifiers import Purifier


class GradientKiller(Purifier):
    """Does nothing but cut the gradient off."""

    def purify(self, images: Tensor) -> Tensor:
        return images.detach().clone()


class SecretlyRandom(Purifier):
    """Adds noise and does not say so."""

    gradient_modes = ("autograd",)

    def purify(self, images: Tensor) -> Tensor:
        return (images + 0.05 * torch.randn_like(images)).clamp(0, 1)


def make_killer() -> Purifier:
    return GradientKiller()
