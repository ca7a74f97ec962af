"""ComDefend (Jia et al., CVPR 2019) as a purifier: the networks of `model.py` on images of any size.

Assumes an attacker who does not know it (gray-box). Against one who does it has little to set:
the hard code hides gradients, and a straight-through or tempered gradient finds them again.
"""

from collections.abc import Callable
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor

from comdefend import zoo
from comdefend.device import find_dtype
from comdefend.errors import RequestError
from comdefend.image import apply_tiled
from comdefend.model import ComDefend, ComDefendConfig, channels_last
from comdefend.purifiers.base import Purifier, check_images, purifiers, with_gradient_of

TILE = 256
"""Side of the tiles that large images go through in."""

PIXELS_AT_ONCE = 2**17
"""How many pixels go through the networks together."""

SURROGATE_TEMPERATURE = 50.0
"""Temperature of the surrogate's sigmoid: of the size of trained logits, so gradients get through."""

TEMPERATURES = (1000, 200, 50, 10, 1)
"""Of the tempered gradient modes, best first for the paper's network as we train it: there logits are in the
thousands, those of the authors' weights in the hundreds, those of smaller networks in the tens. The best
temperature is well below their median, where it follows the bits near the cut and forgets the others.
"""


class ComDefendPurifier(Purifier):
    """Compress to the binary code and reconstruct. `model` is taken over: cast, and laid out anew.

    `tile` and `halo` are in pixels, multiples of the side of the networks' blocks: with the networks'
    reach (the default; 18 for the paper's) or more for a halo the result is that of the whole image.
    `pixels_at_once` bounds how many go through the networks together; a 256-channel float32 map of
    them takes a kilobyte each. `dtype`: what the networks compute in; bfloat16 is faster
    where the processor has it and changes a few bits of the code. `noise`: standard deviation of noise on
    the logits; above 0 two calls differ. `order`, `noise`, and
    `halo=0` with `tile=32` can follow the authors' released pipeline. `origin` says where the weights came
    from.
    """

    gradient_modes = (
        *(f"tempered-{t}" for t in TEMPERATURES[:2]), "identity", "straight-through",
        *(f"tempered-{t}" for t in TEMPERATURES[2:]), "surrogate",
    )  # fmt: skip

    def __init__(
        self,
        model: ComDefend,
        *,
        tile: int = TILE,
        halo: int | None = None,
        order: Literal["rgb", "bgr"] = "rgb",
        noise: float = 0.0,
        dtype: torch.dtype = torch.float32,
        pixels_at_once: int = PIXELS_AT_ONCE,
        origin: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        for key, value in {"tile": tile, "halo": halo, "pixels_at_once": pixels_at_once}.items():
            if not isinstance(value, int | None):
                raise RequestError(f"{key} is {value!r}; it must be a whole number of pixels")
        if not isinstance(noise, int | float):
            raise RequestError(
                f"noise is {noise!r}; it must be a number, the standard deviation on the logits"
            )
        halo = model.config.reach if halo is None else halo
        for key, value, least in (
            ("tile", tile, 1),
            ("pixels_at_once", pixels_at_once, 1),
            ("halo", halo, 0),
        ):
            if value < least:
                raise RequestError(f"{key} is {value}; it must be at least {least}")
        if not 0 <= noise < inf:
            raise RequestError(f"noise is {noise}; it must be finite and at least 0")
        for key, value in {"tile": tile, "halo": halo}.items():
            if value % model.config.block:
                raise RequestError(
                    f"{key} is {value}; it must be a multiple of {model.config.block}, the side of a block"
                )
        if order not in ("rgb", "bgr"):
            raise RequestError(f"order is {order!r}; it must be rgb or bgr")
        self.model = model.to(dtype)
        channels_last(self.model)
        self.tile, self.halo, self.order, self.noise = tile, halo, order, noise
        self.pixels_at_once = pixels_at_once
        self.origin = origin or {}
        self.image_channels = model.config.image_channels
        self.stochastic = noise > 0

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    def purify(self, images: Tensor) -> Tensor:
        return self._tiled(self._whole, images)

    def compress(self, images: Tensor) -> Tensor:
        """The binary code of images in [0, 1]: booleans, N x bits x H x W, or one code for each block."""
        images = check_images(images, channels=self.image_channels)
        return self._tiled(self._code, images, block=self.model.config.block)

    def decompress(self, code: Tensor) -> Tensor:
        """The images that a code stands for: of booleans N x bits x H x W float32 N x C x H x W in
        [0, 1], with H and W times the side of a block. Raises `RequestError` for what is no such code.
        """
        length = self.model.config.bits
        if code.ndim != 4 or code.shape[1] != length:
            raise RequestError(
                f"the code has the shape {tuple(code.shape)}; N x {length} x H x W is needed, as of compress"
            )
        with torch.no_grad():
            return self._ordered(self.model.decompress(code)).float()

    def settings(self) -> dict[str, Any]:
        return {
            **self.origin,
            "dtype": str(self.dtype).removeprefix("torch."),
            "tile": self.tile,
            "halo": self.halo,
            "order": self.order,
            "noise": self.noise,
        }

    def surrogate(self, images: Tensor) -> Tensor:
        """The round trip with a tempered soft code, whose gradient is that of the networks."""
        network_images = self._ordered(images).to(self.dtype)
        soft = self.model.soft(network_images, temperature=SURROGATE_TEMPERATURE)
        return self._ordered(soft).to(images.dtype)

    def through(self, images: Tensor, mode: str) -> Tensor:
        """As every purifier, and two modes of its own, for the cut from logits z to bits.

        "straight-through": the cut counts as the identity (Bengio et al., 2013); "tempered-T": its
        gradient is that of sigmoid(z / T). Both keep the hard code itself, so the reconstructor
        is differentiated where it is used. The whole images go through at once, without tiles.
        """
        if mode == "straight-through":
            return self._through_code(images, lambda logits: logits)
        if mode.startswith("tempered-"):
            temperature = _temperature(mode)
            if temperature is None:
                raise RequestError(f"gradient mode is {mode!r}; it must be tempered- and a number above 0")
            return self._through_code(images, tempered(temperature))
        return super().through(images, mode)

    def knows(self, mode: str) -> bool:
        return super().knows(mode) or _temperature(mode) is not None

    def beside(self, mode: str) -> tuple[str, ...]:
        """Half and twice the temperature: `TEMPERATURES` lie further apart."""
        found = _temperature(mode)
        return () if found is None else (f"tempered-{found / 2:g}", f"tempered-{found * 2:g}")

    def _through_code(self, images: Tensor, stand_in: Callable[[Tensor], Tensor]) -> Tensor:
        """The round trip of the hard code, which passes gradients back as `stand_in` of the logits."""
        network_images = self._ordered(images).to(self.dtype, memory_format=torch.channels_last)
        logits = self.model.logits(network_images, noise=self.noise)
        code = hard_code(logits, stand_in)
        return self._ordered(self.model.decompress(code, images)).to(images.dtype)

    def _tiled(self, function: Callable[[Tensor], Tensor], images: Tensor, *, block: int = 1) -> Tensor:
        with torch.no_grad():
            return apply_tiled(
                function, images, tile=self.tile, halo=self.halo, pixels=self.pixels_at_once, block=block
            )

    def _whole(self, images: Tensor) -> Tensor:
        return self._ordered(self.model.decompress(self._code(images), images)).to(images.dtype)

    def _code(self, images: Tensor) -> Tensor:
        network_images = self._ordered(images).to(self.dtype, memory_format=torch.channels_last)
        return self.model.compress(network_images, noise=self.noise)

    def _ordered(self, images: Tensor) -> Tensor:
        return images.flip(1) if self.order == "bgr" else images


@purifiers.register("comdefend")
def load_comdefend(
    weights: str | None = None,
    *,
    channels: int = 3,
    data: str | None = None,
    dtype: str = "float32",
    tile: int = TILE,
    halo: int | None = None,
    order: Literal["rgb", "bgr"] = "rgb",
    noise: float = 0.0,
    pixels_at_once: int = PIXELS_AT_ONCE,
) -> ComDefendPurifier:
    """The purifier with weights by name or path; by default the shipped ones that suit the images.

    Those are the ones of the data set `data` ("mnist", "sample:cifar10") if there are such, and else
    those for images of `channels` channels. The rest is `ComDefendPurifier`'s.
    """
    name = zoo.default("purifier", channels=channels, data=data) if weights is None else str(weights)
    compute_in = find_dtype(dtype)
    if name == "comdefend":
        raise RequestError(
            "weights 'comdefend': that is a purifier's reference, for comdefend.load; here weights are named "
            f"({', '.join(zoo.names('purifier'))}, or a path)"
        )
    model, known = zoo.rebuild(name, _build, kind="purifier")
    return ComDefendPurifier(
        model, tile=tile, halo=halo, order=order, noise=noise, dtype=compute_in,
        pixels_at_once=pixels_at_once, origin=known.origin,
    )  # fmt: skip


def _build(architecture: dict[str, Any]) -> ComDefend:
    """The networks of a weights file; settings that only version 0.1 had are refused where it used them."""
    settings = {**architecture}
    for key, unused in {"code_noise": 0.0, "cuts": 1, "spread": 0.0}.items():
        if (value := settings.pop(key, unused)) != unused:
            raise ValueError(f"{key} is {value!r}, which comdefend 0.1 could do and this version cannot")
    return ComDefend(ComDefendConfig(**settings))


def hard_code(logits: Tensor, stand_in: Callable[[Tensor], Tensor]) -> Tensor:
    """The bits of logits as numbers, in their shape, that pass gradients back as `stand_in` of the logits."""
    return with_gradient_of((logits > 0).to(logits.dtype), stand_in(logits))


def tempered(temperature: float) -> Callable[[Tensor], Tensor]:
    """For `hard_code`: the sigmoid of logits divided by `temperature`."""
    return lambda logits: torch.sigmoid(logits / temperature)


def _temperature(mode: str) -> float | None:
    """The T of "tempered-T", or None where the mode is no such one."""
    try:
        found = float(mode.removeprefix("tempered-")) if mode.startswith("tempered-") else 0.0
    except ValueError:
        return None
    return found if 0 < found < inf else None
