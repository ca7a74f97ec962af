"""Image files to tensors and back, and tiles with a halo for images of any size.

An image file is PNG, JPEG, WebP, TIFF or BMP, of at most `MAX_PIXELS` pixels and `MAX_BYTES` bytes.
"""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from comdefend.atomic import replacing
from comdefend.errors import RequestError

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
    ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
"""Formats by suffix, read and written; nothing else is opened. All are written without loss but JPEG."""

MAX_PIXELS = 90_000_000
"""Pixels of the largest image that is read: to purify one in colour takes about 4.5 GB of memory."""

MAX_BYTES = 2**30
"""Bytes of the largest image file that is read."""

MAX_PROFILE = 2**20
"""Bytes of the largest colour profile that is kept: Pillow reads no larger one from a PNG."""

LOSSY = ("JPEG",)


@dataclass(frozen=True)
class Picture:
    """A decoded image file: what is purified, and what is kept aside.

    `pixels`: float32, 1 x C x H x W in [0, 1], C = 1 (grey) or 3 (RGB), upright. `alpha`: uint8,
    H x W, or None. `deep`: grey with 16 bits. `profile`: the ICC colour profile where it is one of
    such pixels and of at most `MAX_PROFILE` bytes, or None. Other metadata (EXIF, comments, positions) is
    not kept.
    """

    pixels: Tensor
    alpha: np.ndarray[Any, np.dtype[np.uint8]] | None = None
    deep: bool = False
    profile: bytes | None = None


def read_picture(source: Path | bytes, *, name: str | None = None) -> Picture:
    """Decode an image file, or its bytes, applying the EXIF orientation.

    Raises `RequestError` for what `open_image` refuses, and for pixels whose meaning is not plain (CMYK, Lab,
    32-bit numbers).
    """
    label = name or (str(source) if isinstance(source, Path) else "the image")
    return _decode(open_image(source, label), label)


def open_image(source: Path | bytes, label: str) -> Image.Image:
    """Decode an image file, or its bytes, as Pillow's image, upright; `label` names it in errors.

    Raises `RequestError` for what is no image, is damaged, does not hold all of its pixels, has several
    frames, 16 bits for each colour, more than `MAX_PIXELS` pixels or more than `MAX_BYTES` bytes.
    """
    content = _content(source, label)
    with _opened(content, label) as image:
        frames = getattr(image, "n_frames", 1)
        # The further frames of a telephone's JPEG (MPO) are previews and depth maps.
        if frames > 1 and image.format != "MPO":
            raise RequestError(f"{label} has {frames} frames; split it into single images first")
        stored = " ".join(str(tile[3]) for tile in image.tile)
        if ";16" in stored and not image.mode.startswith("I;16"):
            raise RequestError(
                f"{label} has 16 bits for each colour, which would be cut to 8; "
                "convert it to 8 bits first (16-bit grey is handled)"
            )
        complete = image.format != "TIFF" or _tiff_is_complete(image, len(content))  # before it is decoded
        if complete and image.format == "PNG":
            complete = _png_is_complete(content)
        if complete:
            image.load()
        if not complete or (image.format == "JPEG" and not _jpeg_is_complete(image, content)):
            raise RequestError(f"{label} is cut off: it holds less than {image.width}x{image.height} pixels")
        ImageOps.exif_transpose(image, in_place=True)
        return image


def is_grey(source: Path | bytes, label: str) -> bool:
    """Whether an image file has no colours, by its header alone; refuses as `open_image` does."""
    with _opened(source, label) as image:
        return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")


def _content(source: Path | bytes, label: str) -> bytes:
    """An image file's content, from memory or a path: decoded the same way, since Pillow maps some files and
    checks other things then.
    """
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                source = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise RequestError(f"{label}: there is no such file") from error
    except OSError as error:
        raise RequestError(f"{label} cannot be read: {error.strerror}") from error
    if len(source) > MAX_BYTES:
        raise RequestError(f"{label} has more than {MAX_BYTES:,} bytes, the most that is read")
    return source


@contextmanager
def _opened(source: Path | bytes, label: str) -> Iterator[ImageFile.ImageFile]:
    """An image whose pixels are not decoded yet. All that is read is opened here."""
    try:
        # Pillow warns of sizes, which are bounded here, and of metadata, which is dropped.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(
                BytesIO(source) if isinstance(source, bytes) else source,
                formats=sorted(set(FORMATS.values())),
            ) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise RequestError(
            f"{label} has more than {MAX_PIXELS:,} pixels, the most that is read; scale it, or cut it up"
        ) from error
    except FileNotFoundError as error:
        raise RequestError(f"{label}: there is no such file") from error
    except UnidentifiedImageError as error:
        beginning = _content(source, label)[:4]
        kind = next((kind for start, kind in _BEGINNINGS.items() if beginning.startswith(start)), None)
        if kind:
            raise RequestError(
                f"{label} begins as a {kind} but is damaged, or of a kind that is not read: "
                "a length or checksum in it does not fit"
            ) from error
        raise RequestError(
            f"{label} is not an image that can be read (PNG, JPEG, WebP, TIFF or BMP)"
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        if "MAX_TEXT" in str(error):
            raise RequestError(
                f"{label} carries more text, or a larger colour profile, than is read (1 MB each); "
                "save it without metadata first"
            ) from error
        raise RequestError(f"{label} cannot be decoded: {error}") from error


_BEGINNINGS = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"RIFF": "WebP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


def _png_is_complete(content: bytes) -> bool:
    """Whether a PNG's compressed data has all of its rows: Pillow leaves the others black, without a word."""
    width, height, bits, kind, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    bits *= {2: 3, 4: 2, 6: 4}.get(kind, 1)
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + -(-columns * bits // 8))
    inflate, position = zlib.decompressobj(), 8
    while missing > 0 and position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        data = content[position + 8 : position + 8 + length] if name == b"IDAT" else b""
        while data and not inflate.eof:
            missing -= len(inflate.decompress(data, 2**20))
            data = inflate.unconsumed_tail
        position += length + 12
    return missing <= len(inflate.flush(2**20)) if missing > 0 else True


def _jpeg_is_complete(image: ImageFile.ImageFile, content: bytes) -> bool:
    """Whether a decoded JPEG's data reaches its last pixel.

    The decoder fills what is missing with one colour. Where the last block has a single one, more data before
    the end mark tells: a complete image ignores it.
    """
    values = np.asarray(image)
    height, width = values.shape[:2]
    last = values[(height - 1) // 8 * 8 :, (width - 1) // 8 * 8 :]
    if (last != last[-1, -1]).any():
        return True
    end = content.rfind(b"\xff\xd9")
    with Image.open(BytesIO(content[:end] + b"\x55" * 64 + content[end:]), formats=["JPEG"]) as longer:
        return np.array_equal(np.asarray(longer), values)


_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
"""First column and row of each pass of an interlaced PNG, and its steps."""


def _tiff_is_complete(image: ImageFile.ImageFile, size: int) -> bool:
    """Whether a TIFF of `size` bytes has data for each of its strips or tiles."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    width, height = int(tags[256]), int(tags[257])
    bits = tags.get(258, (1,))[0]
    # Colours one after the other, or each by itself.
    together, apart = (1, tags.get(277, 1)) if tags.get(284, 1) == 2 else (tags.get(277, 1), 1)
    if 324 in tags:
        starts, lengths = tags[324], tags.get(325, ())
        pieces = -(-width // tags[322]) * -(-height // tags[323])
    else:
        starts, lengths = tags.get(273, ()), tags.get(279, ())
        pieces = -(-height // min(tags.get(278, height), height))
    if min(len(starts), len(lengths)) < pieces * apart or min(lengths) == 0:
        return False
    if tags.get(259, 1) != 1:  # compressed: its decoder finds out
        return True
    held = sum(max(0, min(length, size - start)) for start, length in zip(starts, lengths, strict=False))
    return bool(held >= -(-width * bits * together // 8) * height * apart)


def files_in(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in order of the names. Links are followed, but not back to where they lie.

    A link that leads nowhere counts as a file. Raises `RequestError` for a folder that cannot be read.
    """
    return _files_in(folder, frozenset())


def _files_in(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    above |= {folder.resolve()}
    try:
        inside = [(path, path.is_dir()) for path in sorted(folder.iterdir())]
    except OSError as error:
        raise RequestError(f"folder {str(folder)!r} cannot be read: {error.strerror}") from error
    for path, is_folder in inside:
        if not is_folder:
            yield path
        elif path.resolve() not in above:
            yield from _files_in(path, above)


def write_picture(picture: Picture, target: Path | BinaryIO, *, format: str, exclusive: bool = False) -> None:
    """Encode a picture; to a path atomically: it holds the old content or all of the new.

    `format` is one of the values of `FORMATS`. The colour profile goes along where the format holds pixels
    of its kind: WebP has no grey, BMP no profiles. Raises `RequestError` where the format cannot hold
    the picture (alpha in JPEG or BMP, 16 bits outside PNG and TIFF), and with `exclusive` where the path
    exists already.
    """
    image = _encode(picture, format)
    settings: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True, "exact": True},
        "TIFF": {"compression": "tiff_deflate"},
    }
    options = settings.get(format, {})
    written = 3 if format == "WEBP" else picture.pixels.shape[1]
    if format != "BMP" and _fits(picture.profile, written):
        options["icc_profile"] = picture.profile
    # Encoded in memory: some encoders seek, which a pipe cannot.
    encoded = BytesIO()
    try:
        image.save(encoded, format=format, **options)
    except (ValueError, OSError) as error:
        size = f"{image.width}x{image.height}"
        raise RequestError(f"an image of {size} cannot be written as {format}: {error}") from error
    if isinstance(target, Path):
        with replacing(target, exclusive=exclusive) as temporary:
            temporary.write_bytes(encoded.getbuffer())
    else:
        target.write(encoded.getbuffer())


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] to uint8, rounded to nearest."""
    return (images.float() * 255).round_().clamp_(0, 255).to(torch.uint8)


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


def _fits(profile: bytes | None, channels: int) -> bool:
    """Whether a colour profile is one of grey (1) or RGB (3) pixels, by its header, and not too large."""
    space = b"GRAY" if channels == 1 else b"RGB "
    return profile is not None and profile[16:20] == space and len(profile) <= MAX_PROFILE


def _decode(image: Image.Image, label: str) -> Picture:
    if image.mode.startswith("I;16"):
        if "transparency" in image.info:
            raise RequestError(f"{label} is 16-bit grey with transparency; convert it to 8 bits first")
        return _picture(np.divide(np.asarray(image), 65535, dtype=np.float32), image, deep=True)
    if "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode == "P":
        image = image.convert("RGB")
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
    return _picture(np.divide(values, 255, dtype=np.float32), image, alpha)


def _picture(
    values: np.ndarray[Any, np.dtype[np.float32]],
    image: Image.Image,
    alpha: np.ndarray[Any, np.dtype[np.uint8]] | None = None,
    *,
    deep: bool = False,
) -> Picture:
    """Values of [0, 1], H x W or H x W x C, with what goes along of the image that they are from."""
    pixels = torch.from_numpy(values.reshape(*values.shape[:2], -1)).permute(2, 0, 1)[None]
    profile = image.info.get("icc_profile")
    return Picture(pixels, alpha, deep, profile if _fits(profile, pixels.shape[1]) else None)


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
