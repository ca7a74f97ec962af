"""Residual networks for images of about 32x32: the paper's ResNet-50, the CIFAR ResNets, a fast one.

All take images in [0, 1] and normalise inside.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from comdefend.classifiers.architectures import architectures


class Normalise(nn.Module):
    """Images in [0, 1] to roughly zero mean and unit spread."""

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5) * 4.0


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016, figure 5 left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv(inputs, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            _conv(width, width, 3), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al., 2016, figure 5 right)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.residual = nn.Sequential(
            _conv(inputs, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            _conv(width, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            _conv(width, outputs, 1), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem, one group of blocks for each width (all but the first halve the size), a mean.

    `blocks` and `widths` have one entry for each group.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        *,
        blocks: Sequence[int],
        widths: Sequence[int],
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.stem = nn.Sequential(
            _conv(channels, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = []
        inputs = widths[0]
        for group, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for index in range(count):
                layers.append(block(inputs, width, 2 if group > 0 and index == 0 else 1))
                inputs = width * block.expansion
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layers(self.stem(self.normalise(images)))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


class PooledBlock(nn.Module):
    """A convolution, a pooling to half the size, then a convolution with a shortcut around it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(
            _conv(inputs, outputs, 3), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.GELU()
        )
        self.residual = nn.Sequential(
            _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs), nn.GELU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.widen(x)
        residual: Tensor = self.residual(x)
        return x + residual


@architectures.register("resnet9")
class ResNet9(nn.Module):
    """A small residual network that trains in minutes, after those of the DAWNBench contest.

    A stem and three `PooledBlock`s, max pooling over what is left, one linear layer. With `mirror` the
    logits, in evaluation mode, are the mean of those of the image and of its mirror image.
    """

    def __init__(
        self, *, channels: int, classes: int, widths: Sequence[int] = (32, 64, 192, 192), mirror: bool = False
    ) -> None:
        super().__init__()
        self.mirror = mirror
        self.normalise = Normalise()
        self.stem = nn.Sequential(_conv(channels, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.GELU())
        self.layers = nn.Sequential(*(PooledBlock(a, b) for a, b in pairwise(widths)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        logits = self._logits(images)
        if self.mirror and not self.training:
            logits = (logits + self._logits(images.flip(3))) / 2
        return logits

    def _logits(self, images: Tensor) -> Tensor:
        features = self.layers(self.stem(self.normalise(images)))
        logits: Tensor = self.head(features.amax((2, 3)))
        return logits


for _name, _block, _blocks, _widths in (
    ("resnet20", BasicBlock, (3, 3, 3), (16, 32, 64)),
    ("resnet18", BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)),
    ("resnet50", Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512)),  # the paper's
):
    architectures.register(_name)(partial(ResNet, _block, blocks=_blocks, widths=_widths))


def initialise_classifier(network: nn.Module, *, seed: int) -> None:
    """He initialisation of convolutions and linear layers from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
            nn.init.zeros_(module.bias)


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
