"""Random resizing and padding: the image at a random size and a random place on black.

Xie et al., "Mitigating adversarial effects through randomization", ICLR 2018. Assumes that the attacker
cannot know the draw. Broken by expectation over transformation (EOT; Athalye et al., 2018): the average
gradient over many draws.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from comdefend.errors import RequestError
from comdefend.purifiers.base import Purifier, purifiers


@purifiers.register("resize-pad")
class ResizePad(Purifier):
    """Every image shrunk to a random size of at least `smallest` of its own, placed at random on zeros.

    Xie et al. enlarge the frame (299 to 331) instead of shrinking the image; a purifier keeps the size,
    so the same ratio, 299/331 = 0.9, is reached from the other side. Bilinear, drawn anew for each
    image and each call from torch's global generator.
    """

    stochastic = True
    differentiable = True  # linear in the pixels
    gradient_modes = ("autograd",)

    def __init__(self, *, smallest: float = 0.9) -> None:
        super().__init__()
        if not (isinstance(smallest, int | float) and 0 < smallest <= 1):
            raise RequestError(f"smallest is {smallest!r}; it must be a fraction above 0, at most 1")
        self.smallest = float(smallest)

    def purify(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        share = self.smallest + (1 - self.smallest) * torch.rand(count, device=images.device)
        new = torch.stack([(share * side).round().clamp(1, side) for side in (width, height)], 1)
        full = torch.tensor([width, height], device=images.device)
        offset = (torch.rand_like(new) * (full - new + 1)).floor().clamp_max(full - new)
        return place(images, new, offset)

    def settings(self) -> dict[str, Any]:
        return {"smallest": self.smallest}


def place(images: Tensor, size: Tensor, offset: Tensor) -> Tensor:
    """Each image at its `size` (N x 2: width, height) with its left upper corner at `offset`, on zeros."""
    full = torch.tensor([images.shape[3], images.shape[2]], device=images.device)
    # Coordinates run from -1 to 1 over the frame; the image's own are (frame - centre) / scale.
    scale = size / full
    centre = (2 * offset + size) / full - 1
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = 1 / scale[:, 0], 1 / scale[:, 1]
    theta[:, :, 2] = -centre / scale
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid.to(images.dtype), align_corners=False)
