"""Classifiers: images in [0, 1], N x C x H x W, to logits N x K; normalisation lives inside."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from comdefend import zoo
from comdefend.classifiers.adapters import ADAPTERS, Normalised
from comdefend.classifiers.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    ResNet9,
    initialise_classifier,
)
from comdefend.classifiers.vgg import VGG
from comdefend.errors import RequestError
from comdefend.factory import is_factory, load_factory
from comdefend.model import channels_last

__all__ = ["ARCHITECTURES", "Normalised", "build_classifier", "check_classifier", "load_classifier"]

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet9": ResNet9,
    "vgg": VGG,
    "resnet20": partial(ResNet, BasicBlock, blocks=(3, 3, 3), widths=(16, 32, 64)),
    "resnet18": partial(ResNet, BasicBlock, blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "resnet50": partial(ResNet, Bottleneck, blocks=(3, 4, 6, 3), widths=(64, 128, 256, 512)),
}
"""Networks that recipes can train, by name; `resnet50` is the paper's."""


def build_classifier(
    architecture: str, *, channels: int, classes: int, seed: int = 0, **options: Any
) -> nn.Module:
    """A fresh classifier of a named architecture for images of `channels` channels.

    `options` are the architecture's own, such as `mirror` of resnet9.
    """
    if architecture not in ARCHITECTURES:
        raise RequestError(f"there is no architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    try:
        network = ARCHITECTURES[architecture](channels=channels, classes=classes, **options)
    except TypeError as error:
        raise RequestError(f"architecture {architecture!r}: {error}") from error
    initialise_classifier(network, seed=seed)
    return network


def load_classifier(reference: str) -> nn.Module:
    """A trained classifier by reference, in evaluation mode: a zoo name, a path of safetensors
    weights, `PATH.py:FACTORY`, `hf:ORG/NAME` or `hf:FOLDER`, `timm:NAME`, `torchvision:NAME`.

    Raises `RequestError` where the reference leads nowhere or to something that is no classifier.
    """
    if is_factory(reference):
        return load_factory(reference)
    library, colon, name = reference.partition(":")
    if colon and library in ADAPTERS:
        return ADAPTERS[library](name).eval()
    network, _ = zoo.rebuild(reference, lambda found: build_classifier(**found), kind="classifier")
    return channels_last(network)  # half again as fast for the gradients that attacks need


def check_classifier(
    classifier: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    name: str,
    classes: int | None = None,
) -> int:
    """Try a classifier on a few images before any work; the number of its classes.

    Raises `RequestError` where it does not take these images, gives no logits N x K, gives
    probabilities, knows fewer classes than the labels name, or others than the `classes` of the data.
    """
    shape = "x".join(str(side) for side in images.shape[1:])
    try:
        with torch.no_grad():
            logits = classifier(images)
    except Exception as error:  # someone else's code can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RequestError(f"classifier {name!r} does not take images of {shape}: {reason}") from error
    fits = isinstance(logits, torch.Tensor) and logits.ndim == 2 and len(logits) == len(images)
    if not fits or not logits.is_floating_point():
        tensor = isinstance(logits, torch.Tensor)
        what = f"{tuple(logits.shape)} of {logits.dtype}" if tensor else type(logits).__name__
        raise RequestError(f"classifier {name!r} returned {what}; float logits N x K are needed")
    if not torch.isfinite(logits).all():
        raise RequestError(f"classifier {name!r} returned NaN or infinite logits")
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise RequestError(
            f"classifier {name!r} returns probabilities; logits (before the softmax) are needed"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise RequestError(
            f"classifier {name!r} knows {logits.shape[1]} classes, but the labels run from {low} to {high}"
        )
    if classes is not None and logits.shape[1] != classes:
        raise RequestError(
            f"classifier {name!r} knows {logits.shape[1]} classes, and the data {classes}: "
            "it is for other data"
        )
    return int(logits.shape[1])
