"""Purifiers: defences that clean images, [0, 1] N x C x H x W to the same shape, and their names."""

import re
from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import Tensor, nn

from comdefend import zoo
from comdefend.classifiers import load_classifier
from comdefend.device import find_dtype
from comdefend.errors import RequestError
from comdefend.factory import is_factory, load_factory
from comdefend.purifiers.base import (
    Purifier,
    Wrapped,
    as_purifier,
    check_images,
    check_module,
    is_ours,
    is_random,
    purifiers,
)
from comdefend.purifiers.comdefend import ComDefendPurifier, load_comdefend
from comdefend.purifiers.composition import Chain, Defended, Identity
from comdefend.purifiers.feature_squeezing import FeatureSqueezing
from comdefend.purifiers.gaussian import GaussianSmoothing
from comdefend.purifiers.hgd import HGD
from comdefend.purifiers.jpeg import JPEG
from comdefend.purifiers.pixeldefend import PixelDefend
from comdefend.purifiers.resize_pad import ResizePad
from comdefend.purifiers.total_variation import TotalVariation
from comdefend.references import split_reference

__all__ = [
    "HGD",
    "JPEG",
    "Chain",
    "ComDefendPurifier",
    "Defended",
    "FeatureSqueezing",
    "GaussianSmoothing",
    "Identity",
    "PixelDefend",
    "Purifier",
    "ResizePad",
    "TotalVariation",
    "Wrapped",
    "as_purifier",
    "check_images",
    "check_module",
    "defend",
    "is_ours",
    "is_random",
    "load",
    "load_comdefend",
    "purifiers",
]


def load(
    reference: str = "comdefend",
    *,
    like: Tensor | None = None,
    channels: int = 3,
    data: str | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Purifier:
    """Load a purifier by reference: `NAME`, `NAME:key=value,...`, `PATH.py:FACTORY`, `a+b`, `none`.

    The name of shipped ComDefend weights (`cifar10-guided`), or the path of others, stands for
    `comdefend:weights=` of them. Where no weights are named, those are taken that suit images of the data set
    `data`, and else of `channels` channels; `like` are such images, N x C x H x W. `dtype` is what networks
    of ours compute in, unless the reference says. `options` are the purifier's own, as in the reference.

    Raises `RequestError` for an unknown name or option.
    """
    find_dtype(dtype)  # also where no part of the reference uses it
    channels = channels if like is None else like.shape[1]
    parts = _parts(reference)
    if len(parts) > 1:
        if options:
            raise RequestError(f"purifier {reference!r}: options of several go into the reference")
        return Chain([load(part, channels=channels, data=data, dtype=dtype) for part in parts])
    if is_factory(reference):
        if options:
            raise RequestError(f"purifier {reference!r}: a factory is called without options")
        return as_purifier(load_factory(reference, functions=True), what=f"purifier {reference!r}").eval()
    weights = zoo.names("purifier")
    if ":" not in reference and (reference.endswith(".safetensors") or reference in weights):
        reference = f"comdefend:weights={reference}"
    name, given = split_reference(reference, what="purifier", known=[*purifiers, *weights])
    if name not in purifiers:
        raise RequestError(
            f"purifier {reference!r}: options of weights are given as comdefend:weights={name},..."
        )
    make, given = purifiers[name], {**given, **options}
    parameters = signature(make).parameters
    told = {"channels": channels, "data": data, "dtype": dtype}
    takes = [key for key in parameters if key not in ("channels", "data")]
    for key in given:
        if key not in takes:
            known = f"it takes {', '.join(takes)}" if takes else "it takes none"
            raise RequestError(f"purifier {reference!r}: there is no option {key!r}; {known}")
    try:
        made = make(**{**{key: told[key] for key in told if key in parameters}, **given})
        return as_purifier(made, what=f"purifier {reference!r}").eval()
    except TypeError as error:
        raise RequestError(f"purifier {reference!r}: {error}") from error


def defend(
    classifier: nn.Module | str, purifier: Purifier | nn.Module | Callable[[Tensor], Tensor] | str
) -> Defended:
    """Put a purifier in front of a classifier, given as they are or by reference; neither is changed.

    The classifier takes images in [0, 1], N x C x H x W, and normalises inside: the purifier must
    see them before normalisation. Raises `RequestError` for what is neither module nor reference.
    """
    network = load_classifier(classifier) if isinstance(classifier, str) else classifier
    check_module(network, what="classifier")
    module = load(purifier) if isinstance(purifier, str) else as_purifier(purifier)
    return Defended(network, module)


def _parts(reference: str) -> list[str]:
    """`a+b` taken apart: only where a purifier's name follows, since paths may hold a plus too."""
    if "+" not in reference:
        return [reference]
    names = "|".join(map(re.escape, [*purifiers, *zoo.names("purifier")]))
    return re.split(rf"\+(?=(?:{names})(?:[:+]|$)|[^+=,:]+\.py:)", reference)
