"""Total-variation minimisation: the smoothest image near the one that came, edges kept.

Rudin, Osher, Fatemi, 1992, as a defence by Guo et al., "Countering adversarial images using input
transformations", ICLR 2018 (who also drop pixels at random, which is left out here). Assumes an attacker
who does not know of it. Broken by BPDA (Athalye et al., 2018).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from comdefend.errors import RequestError
from comdefend.purifiers.base import Purifier, purifiers

STEP = 0.25
"""Step of the projection; Chambolle proves convergence up to 1/8 and observes it up to 1/4."""


@purifiers.register("tv")
class TotalVariation(Purifier):
    """The minimum u of `TV(u) + |u - x|^2 / (2 weight)`, each channel by itself.

    `steps` of Chambolle's projection ("An algorithm for total variation minimization and
    applications", 2004, Eq. 9). More `weight` is smoother.
    """

    differentiable = True
    gradient_modes = ("autograd",)

    def __init__(self, *, weight: float = 0.03, steps: int = 30) -> None:
        super().__init__()
        if not (isinstance(weight, int | float) and 0 < weight <= 10):
            raise RequestError(f"weight is {weight!r}; it must be a number above 0, at most 10")
        if not (isinstance(steps, int) and 1 <= steps <= 10_000):
            raise RequestError(f"steps is {steps!r}; it must be a whole number from 1 to 10,000")
        self.weight, self.steps = float(weight), steps

    def purify(self, images: Tensor) -> Tensor:
        dual = torch.zeros_like(images)[None].repeat(2, 1, 1, 1, 1)
        for _ in range(self.steps):
            slope = _gradient(_divergence(dual) - images / self.weight)
            length = slope.square().sum(0).add(1e-12).sqrt()
            dual = (dual + STEP * slope) / (1 + STEP * length)
        return images - self.weight * _divergence(dual)

    def settings(self) -> dict[str, Any]:
        return {"weight": self.weight, "steps": self.steps}


def _gradient(images: Tensor) -> Tensor:
    """Forward differences down and to the right, zero at the last row and column: 2 x N x C x H x W."""
    down = functional.pad(images[:, :, 1:] - images[:, :, :-1], (0, 0, 0, 1))
    right = functional.pad(images[:, :, :, 1:] - images[:, :, :, :-1], (0, 1))
    return torch.stack([down, right])


def _divergence(field: Tensor) -> Tensor:
    """The negative adjoint of `_gradient`."""
    down, right = field[0, :, :, :-1], field[1, :, :, :, :-1]
    return (
        functional.pad(down, (0, 0, 0, 1)) - functional.pad(down, (0, 0, 1, 0))
        + functional.pad(right, (0, 1)) - functional.pad(right, (1, 0))
    )  # fmt: skip
