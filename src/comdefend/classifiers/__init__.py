"""Classifiers: images in [0, 1], N x C x H x W, to logits N x K; normalisation lives inside."""

from typing import Any

import torch
from torch import nn

from comdefend import zoo
from comdefend.classifiers.adapters import ADAPTERS, Normalised
from comdefend.classifiers.architectures import architectures
from comdefend.classifiers.foreign import Foreign
from comdefend.classifiers.resnet import initialise_classifier
from comdefend.errors import RequestError, WorkError
from comdefend.factory import is_factory, load_factory
from comdefend.model import channels_last
from comdefend.seeding import drawn_from

__all__ = [
    "Foreign",
    "Normalised",
    "architectures",
    "build_classifier",
    "check_classifier",
    "load_classifier",
]


def build_classifier(
    architecture: str, *, channels: int, classes: int, seed: int = 0, **options: Any
) -> nn.Module:
    """A fresh classifier of a named architecture for images of `channels` channels.

    `options` are the architecture's own, such as `mirror` of resnet9.
    """
    if architecture not in architectures:
        raise RequestError(f"there is no architecture {architecture!r}; known: {', '.join(architectures)}")
    try:
        network = architectures[architecture](channels=channels, classes=classes, **options)
    except TypeError as error:
        raise RequestError(f"architecture {architecture!r}: {error}") from error
    initialise_classifier(network, seed=seed)
    return network


def load_classifier(reference: str) -> nn.Module:
    """A trained classifier by reference, in evaluation mode: a zoo name, a path of safetensors
    weights, `PATH.py:FACTORY`, `hf:ORG/NAME` or `hf:FOLDER`, `timm:NAME`, `torchvision:NAME`.

    All but the zoo's come as a `Foreign`. Raises `RequestError` where the reference leads nowhere or to
    something that is no classifier.
    """
    if is_factory(reference):
        return Foreign(load_factory(reference), name=reference).eval()
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

    It is asked twice, and about an image alone as well as among others.

    Raises `RequestError` where it does not take these images, gives no logits N x K or the same tensor each
    time, gives probabilities, knows fewer classes than the labels name, or others than the `classes` of the
    data, and where its answer is random or depends on what else is in the batch; `WorkError` where it takes
    these images and fails on fewer or others.
    """
    asked = classifier if isinstance(classifier, Foreign) else Foreign(classifier, name=name)
    with torch.no_grad():
        try:
            with drawn_from(0):
                logits: torch.Tensor = asked(images)
        except WorkError as error:
            raise RequestError(str(error)) from error
        first, known = logits.clone(), logits.shape[1]
        if not torch.isfinite(first).all():
            raise RequestError(f"classifier {name!r} returned NaN or infinite logits")
        sums = first.sum(1)
        if bool((first >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            raise RequestError(
                f"classifier {name!r} returns probabilities; logits (before the softmax) are needed"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= known:
            raise RequestError(
                f"classifier {name!r} knows {known} classes, but the labels run from {low} to {high}"
            )
        if classes is not None and known != classes:
            raise RequestError(
                f"classifier {name!r} knows {known} classes, and the data {classes}: it is for other data"
            )
        with drawn_from(1):  # other numbers, also where each call begins with the same ones
            again, alone = asked(images).clone(), asked(images[:1]).clone()
            beside = asked(torch.cat([images[:1], 1 - images[:1]]))
    if not torch.equal(logits, first):
        raise RequestError(
            f"classifier {name!r} overwrites the logits that it returned before; it must return a new tensor"
        )
    if not _agree(first, again, tolerance=1e-3):
        raise RequestError(
            f"classifier {name!r} is random: it gives the same images other logits each time; what is random "
            "belongs in front of it, in a purifier with stochastic = True"
        )
    if not (_agree(first[:1], alone, tolerance=0.02) and _agree(beside[:1], alone, tolerance=0.02)):
        raise RequestError(
            f"classifier {name!r} gives an image other logits alone than in a batch; they must not depend on "
            "the other images (as they do in batch normalization without running statistics)"
        )
    if _is_bounded(asked, images, torch.cat([first, beside])):
        raise RequestError(
            f"classifier {name!r} returns values in [0, 1] alone, as after a sigmoid; logits (before it) are "
            "needed (logits that have this range can be multiplied by 10)"
        )
    return known


def _is_bounded(classifier: Foreign, images: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether logits lie in [0, 1], and stay there for images that are none: a mean of pixels would not."""

    def inside(values: torch.Tensor) -> bool:
        return bool(((values >= 0) & (values <= 1)).all())

    if not inside(logits):
        return False
    try:
        with torch.no_grad():
            return inside(classifier(100 * images)) and inside(classifier(-100 * images))
    except (RequestError, WorkError):  # it looks at what it is given
        return False


def _agree(first: torch.Tensor, second: torch.Tensor, *, tolerance: float) -> bool:
    """Whether logits differ by no more than rounding: a share of the largest of them."""
    if first.shape != second.shape:
        return False
    return bool((first - second).abs().max() <= tolerance * first.abs().max())
