"""JPEG whose blocks lie apart from those that an image was compressed in before.

CIFAR-10 comes as JPEGs here. On the very same grid, with the same quality, JPEG hardly changes a clean image
and snaps a perturbed one back onto what it was: that measures the data, not the defence. An example, too, of
a purifier from a file: `--defences experiments/robustness/shifted_jpeg.py:ShiftedJPEG`.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import pad

from comdefend.purifiers import JPEG

SHIFT, BLOCK = 3, 16
"""Rows and columns before the image; the grid of a chroma at half resolution."""


class ShiftedJPEG(JPEG):
    """JPEG of quality 75 on images with `SHIFT` rows and columns more at the top and the left."""

    def purify(self, images: Tensor) -> Tensor:
        return _shifted(super().purify, images)

    def surrogate(self, images: Tensor) -> Tensor:
        return _shifted(super().surrogate, images)


def _shifted(code: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    below, right = (-(SHIFT + size) % BLOCK for size in (height, width))
    coded = code(pad(images, (SHIFT, right, SHIFT, below), mode="replicate"))
    return coded[..., SHIFT : SHIFT + height, SHIFT : SHIFT + width]
