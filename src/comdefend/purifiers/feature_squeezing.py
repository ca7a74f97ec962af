"""Feature squeezing: fewer bits for each value, then the median of each neighbourhood.

Xu, Evans, Qi: "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks", NDSS 2018,
where it is mostly a detector; here, as in the paper's tables, what is squeezed is classified. Assumes an
attacker who does not know of it. Broken by attacks that see it (He et al., 2017, "Adversarial example
defenses: ensembles of weak defenses are not strong").
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from comdefend.errors import RequestError
from comdefend.purifiers.base import Purifier, purifiers


@purifiers.register("feature-squeezing")
class FeatureSqueezing(Purifier):
    """Values rounded to `bits` bits (1 to 8), then a median over `window` x `window` pixels (1: none).

    The defaults are what Xu et al. found best for CIFAR-10.
    """

    gradient_modes = ("surrogate", "identity")

    def __init__(self, *, bits: int = 5, window: int = 2) -> None:
        super().__init__()
        if not (isinstance(bits, int) and 1 <= bits <= 8):
            raise RequestError(f"bits is {bits!r}; it must be a whole number from 1 to 8")
        if not (isinstance(window, int) and 1 <= window <= 15):
            raise RequestError(f"window is {window!r}; it must be a whole number of pixels from 1 to 15")
        self.bits, self.window = bits, window

    def purify(self, images: Tensor) -> Tensor:
        levels = 2**self.bits - 1
        return median(torch.round(images * levels) / levels, self.window)

    def surrogate(self, images: Tensor) -> Tensor:
        """The median alone: rounding, whose derivative is zero, counts as the identity."""
        return median(images, self.window)

    def settings(self) -> dict[str, Any]:
        return {"bits": self.bits, "window": self.window}


def median(images: Tensor, window: int) -> Tensor:
    """The median over `window` x `window` pixels, each channel by itself, edges repeated.

    Of an even number of values it takes the upper of the middle two, and an even window reaches one
    further to the left and up, both as SciPy's `median_filter`, which Xu et al. used.
    """
    if window == 1:
        return images
    before, after = window // 2, window - 1 - window // 2
    padded = functional.pad(images, (before, after, before, after), mode="replicate")
    neighbours = padded.unfold(2, window, 1).unfold(3, window, 1).flatten(-2)
    return neighbours.kthvalue(window**2 // 2 + 1, dim=-1).values
