"""Someone else's purifiers, evaluated by attackers who know them: preprocessors of the Adversarial Robustness
Toolbox (`pip install adversarial-robustness-toolbox`).

    comdefend evaluate --classifier cifar10-resnet9-plain --data sample:cifar10 --limit 100 \\
        --defences examples/art_defence.py:smoothing --defences examples/art_defence.py:squeezing \\
        --attacks fgsm,pgd,square:queries=1000 --epsilons 2,8 --knowledge gray-box,white-box,black-box

They work on NumPy arrays and pass no gradient back. `gradient_modes` says what goes around that: BPDA with
the identity. The evaluation would try it all the same, but a defence that hides its gradient and does not say
so fails a check.
"""

from typing import Any

import torch
from art.defences.preprocessor import FeatureSqueezing, SpatialSmoothing
from torch import Tensor

from comdefend import Purifier


class ArtDefence(Purifier):
    """A preprocessor of the toolbox as a purifier: one method, and a way around its missing gradient."""

    gradient_modes = ("identity",)

    def __init__(self, preprocessor: Any) -> None:
        super().__init__()
        self.preprocessor = preprocessor

    def purify(self, images: Tensor) -> Tensor:
        purified, _ = self.preprocessor(images.detach().cpu().numpy())
        return torch.from_numpy(purified).to(images)


def smoothing() -> ArtDefence:
    """The median of a window of 3 x 3 pixels."""
    return ArtDefence(SpatialSmoothing(window_size=3, channels_first=True))


def squeezing() -> ArtDefence:
    """Four bits a channel."""
    return ArtDefence(FeatureSqueezing(clip_values=(0, 1), bit_depth=4))
