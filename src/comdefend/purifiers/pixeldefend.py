"""PixelDefend: every pixel moved to the value that a model of clean images finds likeliest nearby.

Song et al., "PixelDefend: Leveraging Generative Models to Understand and Defend against Adversarial
Examples", ICLR 2018, Algorithm 1. Assumes that adversarial images lie where clean ones are rare, and an
attacker who does not know of it. Broken by BPDA (Athalye et al., 2018: 9 % at 8/255 on CIFAR-10).
"""

from typing import Any

import torch
from torch import Tensor

from comdefend import zoo
from comdefend.device import find_dtype
from comdefend.errors import RequestError
from comdefend.purifiers.base import Purifier, purifiers
from comdefend.purifiers.pixelcnn import PixelCNN, PixelCNNConfig

ROUNDING = 1e-6
"""By how much a level may miss the budget without being moved."""


class PixelDefend(Purifier):
    """Greedy and sequential: pixel after pixel, channel after channel, each given the new ones before it.

    No value moves by more than `epsilon` (a fraction; the original's default is 16/255). `batch`
    images are walked together. The surrogate is the identity.
    """

    gradient_modes = ("identity",)

    def __init__(
        self,
        model: PixelCNN,
        *,
        epsilon: float = 16 / 255,
        batch: int = 200,
        origin: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= epsilon <= 1:
            raise RequestError(f"epsilon is {epsilon:g} as a fraction; it must lie in [0, 1]")
        if not (isinstance(batch, int) and batch >= 1):
            raise RequestError(f"batch is {batch!r}; it must be a whole number of at least 1")
        self.model = model
        self.epsilon, self.batch = float(epsilon), batch
        self.origin = origin or {}
        self.image_channels = model.config.image_channels

    def purify(self, images: Tensor) -> Tensor:
        own = next(self.model.parameters()).dtype
        reach = round(self.epsilon * 255)
        moves = torch.arange(-reach, reach + 1, device=images.device) / 255

        def choose(parameters: Tensor, pixel: Tensor) -> Tensor:
            candidates = (pixel[:, :, None] + moves.to(pixel.dtype)).clamp(0, 1)
            return self.model.likeliest(parameters, candidates)

        # The model knows 256 levels; so do images from files.
        levels = (images.detach() * 255).round() / 255
        walked = [self.model.walk(part.to(own), choose) for part in levels.split(self.batch)]
        moved = torch.cat(walked).to(images.dtype)
        # From a value between two levels the way to the farthest candidate is half a level longer.
        farthest = self.epsilon + ROUNDING
        return moved.clamp(images - farthest, images + farthest)

    def settings(self) -> dict[str, Any]:
        return {**self.origin, "epsilon": self.epsilon}


@purifiers.register("pixeldefend")
def load_pixeldefend(
    weights: str | None = None,
    *,
    channels: int = 3,
    data: str | None = None,
    dtype: str = "float32",
    epsilon: float = 16,
) -> PixelDefend:
    """PixelDefend with a PixelCNN by name or path; `epsilon` in units of 1/255, as on the command line.

    By default the weights that were trained on the data set `data`, and else those for `channels`.
    """
    if not isinstance(epsilon, int | float):
        raise RequestError(f"epsilon is {epsilon!r}; it must be a number, in units of 1/255")
    find_dtype(dtype)  # always computed in float32: likelihoods differ by little
    name = zoo.default("pixelcnn", channels=channels, data=data) if weights is None else str(weights)
    model, known = zoo.rebuild(name, lambda found: PixelCNN(PixelCNNConfig(**found)), kind="pixelcnn")
    return PixelDefend(model, epsilon=epsilon / 255, origin=known.origin)
