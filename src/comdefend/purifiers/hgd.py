"""HGD: a denoising U-net, trained so that the classifier's logits come out as on the clean image.

Liao et al., "Defense against Adversarial Attacks Using High-Level Representation Guided Denoiser", CVPR
2018, the winner of the NIPS 2017 contest. Assumes that attacks look like those it was trained on, and an
attacker who does not know of it. Broken by white-box attacks through it (Athalye & Carlini, "On the
robustness of the CVPR 2018 white-box adversarial example defenses", 2018: 0 %).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comdefend import zoo
from comdefend.convolution import Conv2d
from comdefend.device import find_dtype
from comdefend.purifiers.base import Purifier, purifiers


@dataclass(frozen=True)
class DUNetConfig:
    """`widths`: channels at full size, at half, at a quarter, ... The original for ImageNet has
    (64, 128, 256, 256, 256).
    """

    image_channels: int = 3
    widths: tuple[int, ...] = (32, 64, 128)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # read back from JSON it is a list
        if self.image_channels not in (1, 3):
            raise ValueError(f"image_channels is {self.image_channels}; it must be 1 or 3")
        if len(self.widths) < 2 or not all(isinstance(w, int) and 1 <= w <= 1024 for w in self.widths):
            raise ValueError(f"widths is {self.widths}; two or more numbers from 1 to 1024 are needed")


class DUNet(nn.Module):
    """The denoising U-net (their Fig. 2): it predicts the perturbation, which is taken off the image.

    On the way down each level halves the size; on the way up it is doubled again (bilinear) and put
    beside the features of the same size on the way down. Any height and width.
    """

    def __init__(self, config: DUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or DUNetConfig()
        widths = self.config.widths
        self.down = nn.ModuleList([_stack(self.config.image_channels, widths[0], convolutions=2)])
        self.down.extend(_stack(a, b, convolutions=3, stride=2) for a, b in pairwise(widths))
        upwards = widths[::-1]
        self.up = nn.ModuleList(
            _stack(a + b, b, convolutions=3 if index < len(widths) - 2 else 2)
            for index, (a, b) in enumerate(pairwise(upwards))
        )
        self.head = Conv2d(widths[0], self.config.image_channels, 1)
        # It begins as the identity: nothing is taken off.
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        features, kept = images, []
        for stack in self.down:
            features = stack(features)
            kept.append(features)
        for stack, beside in zip(self.up, kept[-2::-1], strict=True):
            larger = functional.interpolate(features, beside.shape[2:], mode="bilinear", align_corners=False)
            features = stack(torch.cat([larger, beside], 1))
        denoised: Tensor = images + self.head(features)
        return denoised


class HGD(Purifier):
    """The denoiser in front of a classifier."""

    differentiable = True
    gradient_modes = ("autograd",)

    def __init__(self, model: DUNet, *, origin: dict[str, str] | None = None) -> None:
        super().__init__()
        self.model = model
        self.origin = origin or {}
        self.image_channels = model.config.image_channels

    def purify(self, images: Tensor) -> Tensor:
        own = next(self.model.parameters()).dtype
        denoised: Tensor = self.model(images.to(own)).clamp(0, 1)
        return denoised.to(images.dtype)

    def settings(self) -> dict[str, Any]:
        kind = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return {**self.origin, "dtype": kind}


@purifiers.register("hgd")
def load_hgd(
    weights: str | None = None, *, channels: int = 3, data: str | None = None, dtype: str = "float32"
) -> HGD:
    """HGD with a denoiser by name or path; by default the one that was trained on the data set `data`."""
    compute_in = find_dtype(dtype)
    name = zoo.default("denoiser", channels=channels, data=data) if weights is None else str(weights)
    model, known = zoo.rebuild(name, lambda found: DUNet(DUNetConfig(**found)), kind="denoiser")
    return HGD(model.to(compute_in), origin=known.origin)


def _stack(inputs: int, outputs: int, *, convolutions: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolutions, each with batch normalisation and ReLU; the first has the stride."""
    layers: list[nn.Module] = []
    widths: Sequence[int] = (inputs, *[outputs] * convolutions)
    for index, (a, b) in enumerate(pairwise(widths)):
        layers += [
            Conv2d(a, b, 3, stride=stride if index == 0 else 1, padding=1, bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
