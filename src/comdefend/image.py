"""Image files to tensors and back, and tiles with a halo for images of any size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from comdefend.atomic import replacing
from comdefend.errors import RequestError

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes that count as images when a folder is searched."""

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP",
    ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
"""Output formats by suffix. All are written without loss but JPEG."""

LOSSY = ("JPEG",)


@dataclass(frozen=True)
class Picture:
    """A decoded image file: what is purified, and what is kept aside.

    `pixels`: float32, 1 x C x H x W in [0, 1], C = 1 (grey) or 3 (RGB), upright. `alpha`: uint8,
    H x W, or None. `deep`: grey with 16 bits. `profile`: the ICC colour profile, or None. Other
    metadata (EXIF, comments, positions) is not kept.
    """

    pixels: Tensor
    alpha: np.ndarray[Any, np.dtype[np.uint8]] | None = None
    deep: bool = False
    profile: bytes | None = None


def read_picture(source: Path | bytes, *, name: str | None = None) -> Picture:
    """Decode an image file, or its bytes, applying the EXIF orientation.

    Raises `RequestError` for what is no image, is damaged, has several frames, or has pixels whose
    meaning is not plain (CMYK, Lab, 32-bit numbers).
    """
    label = name or (str(source) if isinstance(source, Path) else "the image")
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:
            frames = getattr(opened, "n_frames", 1)
            # The further frames of a telephone's JPEG (MPO) are previews and depth maps.
            if frames > 1 and opened.format != "MPO":
                raise RequestError(f"{label} has {frames} frames; split it into single images first")
            stored = " ".join(str(tile[3]) for tile in opened.tile)
            if ";16" in stored and not opened.mode.startswith("I;16"):
                raise RequestError(
                    f"{label} has 16 bits for each colour, which would be cut to 8; "
                    "convert it to 8 bits first (16-bit grey is handled)"
                )
            opened.load()
            profile = opened.info.get("icc_profile")
            return _decode(ImageOps.exif_transpose(opened), label, profile)
    except RequestError:
        raise
    except FileNotFoundError as error:
        raise RequestError(f"{label}: there is no such file") from error
    except UnidentifiedImageError as error:
        raise RequestError(
            f"{label} is not an image that can be read (PNG, JPEG, WebP, TIFF or BMP)"
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise RequestError(f"{label} cannot be decoded: {error}") from error


def write_picture(picture: Picture, target: Path | BinaryIO, *, format: str) -> None:
    """Encode a picture; to a path atomically: it holds the old content or all of the new.

    `format` is one of the values of `FORMATS`. Raises `RequestError` where the format cannot hold
    the picture (alpha in JPEG or BMP, 16 bits outside PNG and TIFF).
    """
    image = _encode(picture, format)
    settings: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True, "exact": True},
        "TIFF": {"compression": "tiff_deflate"},
    }
    options = settings.get(format, {})
    if picture.profile and format != "BMP":
        options["icc_profile"] = picture.profile
    # Encoded in memory: some encoders seek, which a pipe cannot.
    encoded = BytesIO()
    try:
        image.save(encoded, format=format, **options)
    except (ValueError, OSError) as error:
        size = f"{image.width}x{image.height}"
        raise RequestError(f"an image of {size} cannot be written as {format}: {error}") from error
    if isinstance(target, Path):
        with replacing(target) as temporary:
            temporary.write_bytes(encoded.getvalue())
    else:
        target.write(encoded.getvalue())


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] to uint8, rounded to nearest."""
    return (images.float() * 255).round().clamp(0, 255).to(torch.uint8)


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image against its original, N; at most 100 dB.

    Both N x C x H x W in [0, 1]; the mean of squares runs over all channels and pixels.
    """
    error = (images.float() - originals.float()).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error.clamp_min(1e-10))


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image (`top:bottom`, `left:right`) and as much around it as is needed."""

    top: int
    bottom: int
    left: int
    right: int
    outer_top: int
    outer_bottom: int
    outer_left: int
    outer_right: int


def tiles(height: int, width: int, *, tile: int, halo: int) -> Iterator[Tile]:
    """Rectangles of at most tile x tile pixels that cover an image, each with its halo.

    The halo ends at the image's border, where a convolution's zero padding begins in the whole
    image too.
    """
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            yield Tile(
                top, bottom, left, right,
                max(0, top - halo), min(height, bottom + halo),
                max(0, left - halo), min(width, right + halo),
            )  # fmt: skip


def apply_tiled(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    tile: int,
    halo: int,
    pixels: int,
    block: int = 1,
) -> Tensor:
    """`function` over N x C x H x W images of any size, at bounded memory.

    `function` must keep height and width and look at most `halo` pixels far: the result is then that
    of the whole image. At most about `pixels` pixels go through at once, many small images or one tile.
    With `block`, of which `tile` and `halo` must be multiples, it gives one value for each block x block
    square of pixels, begun squares included.
    """
    result: Tensor | None = None
    for t in tiles(images.shape[2], images.shape[3], tile=tile, halo=halo):
        window = images[:, :, t.outer_top : t.outer_bottom, t.outer_left : t.outer_right]
        step = max(1, pixels // (window.shape[2] * window.shape[3]))
        rows, columns = _blocks(t.top, t.bottom, block), _blocks(t.left, t.right, block)
        outer_row, outer_column = t.outer_top // block, t.outer_left // block
        inner_rows = slice(rows.start - outer_row, rows.stop - outer_row)
        inner_columns = slice(columns.start - outer_column, columns.stop - outer_column)
        for start in range(0, len(images), step):
            part = function(window[start : start + step])
            if result is None:
                sides = (-(-side // block) for side in images.shape[2:])
                result = part.new_empty((len(images), part.shape[1], *sides))
            result[start : start + step, :, rows, columns] = part[:, :, inner_rows, inner_columns]
    return function(images) if result is None else result


def _blocks(first: int, last: int, block: int) -> slice:
    """The blocks of the pixels from `first` up to and without `last`."""
    return slice(first // block, -(-last // block))


def code_picture(code: Tensor, *, block: int = 1) -> Tensor:
    """A code N x bits x H x W drawn as images: bits summed into three colours, or one if few.

    With 12 bits each colour shows four of them, as in the paper's figure 3. A code of blocks is drawn
    `block` pixels to a place.
    """
    groups = 3 if code.shape[1] >= 6 else 1
    drawn = torch.stack([part.float().mean(1) for part in code.chunk(groups, dim=1)], dim=1)
    return drawn.repeat_interleave(block, 2).repeat_interleave(block, 3)


def picture_grid(rows: Sequence[Tensor], *, scale: int = 1, gap: int = 2) -> Image.Image:
    """Rows of images (each N x C x H x W in [0, 1], all of one size) as one picture."""
    height, width = rows[0].shape[-2:]
    columns = max(len(row) for row in rows)
    canvas = np.full(
        (len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8
    )
    for y, row in enumerate(rows):
        for x, pixels in enumerate(to_bytes(row.cpu()).permute(0, 2, 3, 1).numpy()):
            top, left = y * (height + gap), x * (width + gap)
            canvas[top : top + height, left : left + width] = pixels
    image = Image.fromarray(canvas)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _decode(image: Image.Image, label: str, profile: bytes | None) -> Picture:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        if "transparency" in image.info:
            raise RequestError(f"{label} is 16-bit grey with transparency; convert it to 8 bits first")
        grey = np.asarray(image).astype(np.float32) / 65535
        return Picture(torch.from_numpy(grey)[None, None], deep=True, profile=profile)
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "PA":
        image = image.convert("RGBA")
    if image.mode == "YCbCr":
        image = image.convert("RGB")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise RequestError(
            f"{label} has pixels of kind {image.mode}; convert it to RGB or grey first "
            "(for CMYK that takes its colour profile, which only you can choose)"
        )
    values: np.ndarray[Any, np.dtype[np.uint8]] = np.asarray(image)
    alpha: np.ndarray[Any, np.dtype[np.uint8]] | None = None
    if image.mode in ("LA", "RGBA"):
        alpha, values = np.ascontiguousarray(values[:, :, -1]), values[:, :, :-1]
    if values.ndim == 2:
        values = values[:, :, None]
    pixels = torch.from_numpy(values.astype(np.float32) / 255).permute(2, 0, 1)[None]
    return Picture(pixels, alpha=alpha, profile=profile)


def _encode(picture: Picture, format: str) -> Image.Image:
    if picture.deep:
        if format not in ("PNG", "TIFF"):
            raise RequestError(f"16-bit grey cannot be written as {format}; use PNG or TIFF")
        deep = (picture.pixels[0, 0].float() * 65535).round().clamp(0, 65535)
        return Image.fromarray(deep.numpy().astype(np.uint16))
    values = to_bytes(picture.pixels)[0].permute(1, 2, 0).cpu().numpy()
    if picture.alpha is not None:
        if format in ("JPEG", "BMP"):
            raise RequestError(f"transparency cannot be written as {format}; use PNG, WebP or TIFF")
        values = np.concatenate([values, picture.alpha[:, :, None]], axis=2)
    return Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
