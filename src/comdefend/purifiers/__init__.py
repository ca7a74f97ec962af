"""Purifiers: defences that clean images, [0, 1] N x C x H x W to the same shape, and their names."""

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from comdefend import zoo
from comdefend.classifiers import load_classifier
from comdefend.device import find_dtype
from comdefend.errors import RequestError
from comdefend.factory import is_factory, load_factory
from comdefend.purifiers.base import Purifier, check_images, check_module, is_random
from comdefend.purifiers.comdefend import ComDefendPurifier, load_comdefend
from comdefend.purifiers.composition import Chain, Defended, Identity
from comdefend.purifiers.feature_squeezing import FeatureSqueezing
from comdefend.purifiers.gaussian import GaussianSmoothing
from comdefend.purifiers.hgd import HGD, load_hgd
from comdefend.purifiers.jpeg import JPEG
from comdefend.purifiers.pixeldefend import PixelDefend, load_pixeldefend
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
    "check_images",
    "check_module",
    "defend",
    "is_random",
    "load_comdefend",
    "load_purifier",
]


Maker = Callable[..., Purifier]


def _without_weights(kind: Callable[..., Purifier]) -> Maker:
    """A purifier that is the same for all images and data sets, and computes in their dtype."""

    def make(*, channels: int, data: str | None, dtype: str, **options: Any) -> Purifier:  # noqa: ARG001
        return kind(**options)

    return make


PURIFIERS: dict[str, Maker] = {
    "comdefend": load_comdefend,
    "feature-squeezing": _without_weights(FeatureSqueezing),
    "gaussian": _without_weights(GaussianSmoothing),
    "hgd": load_hgd,
    "jpeg": _without_weights(JPEG),
    "pixeldefend": load_pixeldefend,
    "resize-pad": _without_weights(ResizePad),
    "tv": _without_weights(TotalVariation),
    "none": _without_weights(Identity),
}
"""Purifiers by the name that references use: each takes what `load_purifier` is told, and its options."""


WITH_NETWORKS: tuple[Maker, ...] = (load_comdefend, load_hgd, load_pixeldefend)
"""Those whose references may say what they compute in."""


def load_purifier(
    reference: str, *, channels: int = 3, data: str | None = None, dtype: str = "float32"
) -> Purifier:
    """A purifier by reference: `NAME`, `NAME:key=value,...`, `PATH.py:FACTORY`, `a+b`, `none`.

    `channels` are those of the images it will see and `data` the name of their data set: they choose
    the weights where none are named. `dtype` is what networks of ours compute in, unless the
    reference says. Raises `RequestError` for an unknown name or option.
    """
    find_dtype(dtype)  # also where no part of the reference uses it
    parts = _parts(reference)
    if len(parts) > 1:
        return Chain([load_purifier(part, channels=channels, data=data, dtype=dtype) for part in parts])
    if is_factory(reference):
        made = load_factory(reference)
        if not isinstance(made, Purifier):
            raise RequestError(
                f"purifier {reference!r} made a {type(made).__name__}; a comdefend.Purifier is needed"
            )
        return made
    bare = ":" not in reference
    if bare and (reference.endswith(".safetensors") or reference in zoo.names("purifier")):
        raise RequestError(f"{reference!r} names weights; the purifier is comdefend:weights={reference}")
    name, options = split_reference(reference, what="purifier", known=PURIFIERS)
    told = {"channels", "data"} | (set() if PURIFIERS[name] in WITH_NETWORKS else {"dtype"})
    for key in told & set(options):
        raise RequestError(f"purifier {reference!r}: there is no option {key!r}")
    settings = {"channels": channels, "data": data, "dtype": dtype, **options}
    try:
        return PURIFIERS[name](**settings).eval()
    except TypeError as error:
        raise RequestError(f"purifier {reference!r}: {error}") from error


def defend(classifier: nn.Module | str, purifier: nn.Module | str) -> Defended:
    """Put a purifier in front of a classifier, modules or references; neither is changed.

    The classifier takes images in [0, 1], N x C x H x W, and normalises inside: the purifier must
    see them before normalisation. Raises `RequestError` for what is neither module nor reference.
    """
    network = load_classifier(classifier) if isinstance(classifier, str) else classifier
    module = load_purifier(purifier) if isinstance(purifier, str) else purifier
    for what, given in (("classifier", network), ("purifier", module)):
        check_module(given, what=what)
    return Defended(network, module)


def _parts(reference: str) -> list[str]:
    """`a+b` taken apart: only where a purifier's name follows, since paths may hold a plus too."""
    names = "|".join(map(re.escape, PURIFIERS))
    return re.split(rf"\+(?=(?:{names})(?:[:+]|$)|[^+=,:]+\.py:)", reference)
