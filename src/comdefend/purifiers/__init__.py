"""Purifiers: defences that clean images, [0, 1] N x C x H x W to the same shape, and their names."""

import re
from collections.abc import Callable
from inspect import signature

from torch import nn

from comdefend import zoo
from comdefend.classifiers import load_classifier
from comdefend.device import find_dtype
from comdefend.errors import RequestError
from comdefend.factory import is_factory, load_factory
from comdefend.purifiers.base import Purifier, check_images, check_module, is_ours, is_random
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
    "is_ours",
    "is_random",
    "load_comdefend",
    "load_purifier",
]


PURIFIERS: dict[str, Callable[..., Purifier]] = {
    "comdefend": load_comdefend,
    "feature-squeezing": FeatureSqueezing,
    "gaussian": GaussianSmoothing,
    "hgd": load_hgd,
    "jpeg": JPEG,
    "pixeldefend": load_pixeldefend,
    "resize-pad": ResizePad,
    "tv": TotalVariation,
    "none": Identity,
}
"""Purifiers by the name that references use; what each takes are the options of its references."""

WITH_NETWORKS: tuple[Callable[..., Purifier], ...] = (load_comdefend, load_hgd, load_pixeldefend)
"""Those that are told the channels and the data set, and what to compute in; the others are the same for all
images and compute in their dtype."""


def load_purifier(
    reference: str, *, channels: int = 3, data: str | None = None, dtype: str = "float32"
) -> Purifier:
    """A purifier by reference: `NAME`, `NAME:key=value,...`, `PATH.py:FACTORY`, `a+b`, `none`.

    The name of shipped ComDefend weights (`cifar10-guided`), or the path of others, stands for
    `comdefend:weights=` of them.

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
        reference = f"comdefend:weights={reference}"
    name, options = split_reference(reference, what="purifier", known=PURIFIERS)
    make = PURIFIERS[name]
    takes = [key for key in signature(make).parameters if key not in ("channels", "data")]
    for key in options:
        if key not in takes:
            known = f"it takes {', '.join(takes)}" if takes else "it takes none"
            raise RequestError(f"purifier {reference!r}: there is no option {key!r}; {known}")
    told = {"channels": channels, "data": data, "dtype": dtype} if make in WITH_NETWORKS else {}
    try:
        return make(**{**told, **options}).eval()
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
    if "+" not in reference:
        return [reference]
    names = "|".join(map(re.escape, [*PURIFIERS, *zoo.names("purifier")]))
    return re.split(rf"\+(?=(?:{names})(?:[:+]|$)|[^+=,:]+\.py:)", reference)
