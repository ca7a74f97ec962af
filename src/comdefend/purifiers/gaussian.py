"""Gaussian smoothing: a blur, the simplest thing that takes high frequencies away.

Li & Li, "Adversarial examples detection in deep networks with convolutional filter statistics", ICCV
2017, among others. Assumes perturbations of high frequency and an attacker who does not know of it. It
is linear: an attacker who does differentiates through it.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from comdefend.errors import RequestError
from comdefend.purifiers.base import Purifier, purifiers


@purifiers.register("gaussian")
class GaussianSmoothing(Purifier):
    """A Gaussian blur of standard deviation `sigma` pixels, cut at three of them, edges repeated."""

    differentiable = True
    gradient_modes = ("autograd",)

    def __init__(self, *, sigma: float = 0.6) -> None:
        super().__init__()
        if not (isinstance(sigma, int | float) and 0 < sigma <= 50):
            raise RequestError(f"sigma is {sigma!r}; it must be a number of pixels above 0, at most 50")
        self.sigma = float(sigma)

    def purify(self, images: Tensor) -> Tensor:
        reach = math.ceil(3 * self.sigma)
        places = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        kernel = torch.exp(-0.5 * (places / self.sigma) ** 2)
        kernel = kernel / kernel.sum()
        count, channels, height, width = images.shape
        flat = images.reshape(count * channels, 1, height, width)
        padded = functional.pad(flat, (reach,) * 4, mode="replicate")
        rows = functional.conv2d(padded, kernel.view(1, 1, -1, 1))
        return functional.conv2d(rows, kernel.view(1, 1, 1, -1)).reshape(images.shape)

    def settings(self) -> dict[str, Any]:
        return {"sigma": self.sigma}
