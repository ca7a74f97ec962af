"""The Purifier interface: what every defence that cleans images promises, and the check of its input."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from comdefend.device import device_of
from comdefend.errors import RequestError, WorkError, reason
from comdefend.registry import Registry

TOLERANCE = 1e-3
"""How far outside [0, 1] a value may lie and still count as rounding; it is clamped."""


GENERAL_MODES = ("autograd", "identity", "surrogate")
"""Gradient modes that every purifier has."""

purifiers: "Registry[Callable[..., Purifier]]" = Registry("comdefend.purifiers", group="comdefend.purifiers")
"""Purifiers by the name that references use: classes, or functions that load weights."""


class Purifier(nn.Module, ABC):
    """Images in [0, 1], N x C x H x W, to images of the same shape, dtype and device, any H and W.

    A subclass writes `purify`; decorated with `@purifiers.register(NAME)` in a file of its own it has a name,
    and another package names it under the entry points `comdefend.purifiers`. `stochastic` says whether two
    calls may differ. `image_channels` is the number of channels it accepts, or None for any. `differentiable`
    says that `purify` passes a gradient that means something, so that no stand-in is needed. `gradient_modes`
    are the ways to differentiate it that an attacker who knows it would try, best first: see `through`. The
    evaluation tries the general ones besides, and says so where a purifier declares none and its own
    gradient is nothing.
    """

    stochastic: bool = False
    image_channels: int | None = None
    differentiable: bool = False
    gradient_modes: tuple[str, ...] = ()

    @abstractmethod
    def purify(self, images: Tensor) -> Tensor:
        """The defence itself, on checked input: float images clamped to [0, 1]."""

    def surrogate(self, images: Tensor) -> Tensor:
        """A differentiable stand-in for the backward pass of an adaptive attack, N x C x H x W like `images`.

        Here the purifier itself where it is differentiable, and else the identity: right for a defence
        that gives back nearly what it was given (BPDA, Athalye et al., 2018).
        """
        return self.purify(images) if self.differentiable else images

    @property
    def has_surrogate(self) -> bool:
        """Whether `surrogate` is a stand-in of its own, and so another way to attack."""
        return type(self).surrogate is not Purifier.surrogate

    def through(self, images: Tensor, mode: str) -> Tensor:
        """Purified images, N x C x H x W, that pass gradients back in the manner of `mode`.

        "autograd": as it is; "identity": as if it did nothing; "surrogate": as `surrogate` does
        (both are BPDA, Athalye et al., 2018, section 4.1.1). The values are those of the purifier
        itself in every mode. Raises `RequestError` for a mode that this purifier does not know.
        """
        if mode == "autograd":
            return self(images)  # type: ignore[no-any-return]
        if mode == "identity":
            return with_gradient_of(self(images), images)
        if mode == "surrogate":
            return with_gradient_of(self(images), self.surrogate(images))
        known = ", ".join(dict.fromkeys([*self.gradient_modes, *GENERAL_MODES]))
        raise RequestError(f"{type(self).__name__} has no gradient mode {mode!r} (known: {known})")

    def knows(self, mode: str) -> bool:
        """Whether `through` takes this mode; one that takes more than it declares says so here."""
        return mode in (*self.gradient_modes, *GENERAL_MODES)

    def beside(self, mode: str) -> tuple[str, ...]:  # noqa: ARG002
        """What to try next where this mode turned out best: those beside it, of one that has a setting."""
        return ()

    def settings(self) -> dict[str, Any]:
        """What identifies this defence in a file of results: numbers and text by name."""
        return {}

    def forward(self, images: Tensor) -> Tensor:
        """Purified images. Raises `RequestError` for input that is not images in [0, 1], and
        `WorkError` where `purify` gives back something else.
        """
        checked = check_images(images, channels=self.image_channels)
        own = device_of(self, otherwise=images.device)
        if own != images.device:
            raise RequestError(
                f"images are on {images.device} and the purifier on {own}: purifier.to(images.device)"
            )
        if len(checked) == 0:
            return images.clone()
        # Half precision is for storage and for networks that ask for it: many operations lack it.
        purified = self.purify(checked.float() if checked.dtype.itemsize < 4 else checked)
        if not isinstance(purified, Tensor) or purified.shape != images.shape:
            what = tuple(purified.shape) if isinstance(purified, Tensor) else type(purified).__name__
            raise WorkError(f"{type(self).__name__} made {what} of images of {tuple(images.shape)}")
        if not torch.isfinite(purified).all():
            raise WorkError(f"{type(self).__name__} made NaN or infinite values")
        return purified.clamp(0, 1).to(images.dtype)


def is_random(module: nn.Module) -> bool:
    """Whether a defence, ours or somebody else's module, says that two calls may differ."""
    return bool(getattr(module, "stochastic", False))


class Wrapped(Purifier):
    """A module or function from images to images as a purifier.

    What it declares as attributes (`stochastic`, `image_channels`, `gradient_modes`, a method `surrogate`)
    counts as a purifier's own would.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        for name in ("stochastic", "image_channels", "gradient_modes"):
            setattr(self, name, getattr(function, name, getattr(Purifier, name)))

    def purify(self, images: Tensor) -> Tensor:
        try:
            return self.function(images)
        except Exception as error:  # someone else's code can raise anything
            if images.requires_grad:  # through NumPy, say: it passes no gradient back
                return self.purify(images.detach())
            raise WorkError(f"purifier {self._name()} failed: {reason(error)}") from error

    def _name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def surrogate(self, images: Tensor) -> Tensor:
        own = getattr(self.function, "surrogate", None)
        return images if own is None else own(images)

    @property
    def has_surrogate(self) -> bool:
        return hasattr(self.function, "surrogate")

    def through(self, images: Tensor, mode: str) -> Tensor:
        own = getattr(self.function, "through", None)
        return super().through(images, mode) if own is None else own(images, mode)


def as_purifier(given: Any, *, what: str = "purifier") -> Purifier:
    """A purifier as it is, and any other module or function from images to images wrapped as one.

    Raises `RequestError` for anything else.
    """
    if isinstance(given, Purifier):
        return given
    if isinstance(given, nn.Module) or (callable(given) and not isinstance(given, type)):
        return Wrapped(given)
    raise RequestError(
        f"{what} is a {type(given).__name__}; a reference, or a module or function from images to images, "
        "is needed"
    )


def is_ours(module: nn.Module) -> bool:
    """Whether all parts of a module are of this package, or torch's own, whose behaviour is known."""
    return all(
        type(part).__module__.split(".")[0] in ("comdefend", "torch")
        and not type(part).__module__.startswith(("torch.jit", "torch.fx"))  # networks of somebody's inside
        and not isinstance(part, Wrapped)
        for part in module.modules()
    )


def with_gradient_of(values: Tensor, stand_in: Tensor) -> Tensor:
    """`values`, bit for bit, with the gradient of `stand_in`, of the same shape."""
    passed: Tensor = _Passed.apply(values, stand_in)  # type: ignore[no-untyped-call]
    return passed


class _Passed(torch.autograd.Function):
    """`values + stand_in - stand_in.detach()` without its rounding: beside a stand-in in the thousands a
    code of zeros and ones would lose its bits.
    """

    @staticmethod
    def forward(_: Any, values: Tensor, __: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def check_module(given: Any, *, what: str) -> None:
    """Raise `RequestError` where a classifier or purifier is no module of torch."""
    if not isinstance(given, nn.Module):
        raise RequestError(
            f"{what} is a {type(given).__name__}; a torch.nn.Module or a reference is needed "
            "(a function goes into the forward of a module)"
        )


def check_images(images: Tensor, *, channels: int | None = None) -> Tensor:
    """The images, clamped to [0, 1] where they leave it by no more than rounding.

    Raises `RequestError` for anything else, with the remedy.
    """
    if not isinstance(images, Tensor):
        raise RequestError(
            f"images are a {type(images).__name__}; a torch.Tensor is needed "
            "(for an array: torch.from_numpy(array))"
        )
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise RequestError(f"images are {kind}; floats in [0, 1] are needed: images.float() / 255")
    if images.ndim != 4:
        raise RequestError(
            f"images have the shape {tuple(images.shape)}; N x C x H x W is needed "
            "(for a single image: image[None])"
        )
    if channels is not None and images.shape[1] != channels:
        hint = (
            "; are they N x H x W x C? then images.permute(0, 3, 1, 2)" if images.shape[3] == channels else ""
        )
        raise RequestError(f"images have {images.shape[1]} channels; this purifier takes {channels}{hint}")
    if images.numel() == 0:
        if 0 in images.shape[1:]:
            raise RequestError(f"images have the shape {tuple(images.shape)}; no side may be empty")
        return images
    low, high = (float(v) for v in torch.aminmax(images.detach()))
    if not (low - low == 0 and high - high == 0):  # NaN or infinite
        raise RequestError("images hold NaN or infinite values")
    if high > 1 + TOLERANCE or low < -TOLERANCE:
        raise RequestError(
            f"images have values from {low:.3g} to {high:.3g}; [0, 1] is needed: "
            + ("divide by 255" if low >= -TOLERANCE and high > 10 else _NORMALISED)
        )
    return images.clamp(0, 1)


_NORMALISED = (
    "if they are normalised, purify first and normalise after "
    "(images * std + mean undoes it), or put the normalisation into the classifier"
)
