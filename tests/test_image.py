"""Image files of every kind, damaged ones too, and tiles."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comdefend.errors import RequestError
from comdefend.image import (
    Picture,
    apply_tiled,
    code_picture,
    is_grey,
    picture_grid,
    read_picture,
    tiles,
    to_bytes,
    write_picture,
)
from tests.conftest import tiny_model

Writer = Callable[..., Path]


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tiff", "a.bmp"])
def test_lossless_formats_come_back_bit_by_bit(name: str, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (1, 3, 5, 9)).float() / 255
    target = tmp_path / name
    formats = {".png": "PNG", ".webp": "WEBP", ".tiff": "TIFF", ".bmp": "BMP"}
    write_picture(Picture(pixels), target, format=formats[target.suffix])
    assert torch.equal(to_bytes(read_picture(target).pixels), to_bytes(pixels))


@pytest.mark.parametrize(
    ("mode", "channels", "alpha"),
    [
        ("RGB", 3, False),
        ("RGBA", 3, True),
        ("L", 1, False),
        ("LA", 1, True),
        ("P", 3, False),
        ("1", 1, False),
    ],
)
def test_modes_become_grey_or_colour_with_alpha_aside(
    mode: str, channels: int, alpha: bool, image_file: Writer
) -> None:
    picture = read_picture(image_file("a.png", mode=mode))
    assert picture.pixels.shape == (1, channels, 9, 12)
    assert (picture.alpha is not None) == alpha
    assert picture.pixels.min() >= 0
    assert picture.pixels.max() <= 1


def test_16_bit_grey_keeps_its_depth(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16) // 3
    Image.fromarray(values).save(tmp_path / "deep.png")
    picture = read_picture(tmp_path / "deep.png")
    write_picture(picture, tmp_path / "again.png", format="PNG")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), values)
    with pytest.raises(RequestError, match="16-bit grey cannot be written as WEBP"):
        write_picture(picture, tmp_path / "no.webp", format="WEBP")


def test_alpha_comes_back_and_is_refused_by_jpeg(image_file: Writer, tmp_path: Path) -> None:
    source = image_file("a.png", mode="RGBA")
    picture = read_picture(source)
    write_picture(picture, tmp_path / "b.png", format="PNG")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), np.asarray(Image.open(source)))
    with pytest.raises(RequestError, match="transparency cannot be written as JPEG"):
        write_picture(picture, tmp_path / "b.jpg", format="JPEG")
    assert not (tmp_path / "b.jpg").exists()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (10, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").pixels.shape == (1, 3, 10, 4)


def profile(space: bytes, size: int = 128) -> bytes:
    """The header of a colour profile of a kind of pixels, and no more that counts."""
    return (b"\0" * 16 + space).ljust(size, b"\0")


@pytest.mark.parametrize(
    ("mode", "space", "format", "kept"),
    [
        ("RGB", b"RGB ", "PNG", True),
        ("RGB", b"RGB ", "WEBP", True),
        ("L", b"GRAY", "PNG", True),
        ("L", b"GRAY", "TIFF", True),
        ("L", b"GRAY", "WEBP", False),  # which has no grey
        ("L", b"RGB ", "WEBP", False),  # not that of its own pixels
        ("RGB", b"GRAY", "PNG", False),
        ("RGB", b"CMYK", "PNG", False),
    ],
)
def test_a_colour_profile_is_kept_where_it_fits_the_pixels(
    mode: str, space: bytes, format: str, kept: bool, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    Image.new(mode, (4, 4)).save(tmp_path / "a.jpg", exif=exif, icc_profile=profile(space))
    write_picture(read_picture(tmp_path / "a.jpg"), tmp_path / "b", format=format)
    written = Image.open(tmp_path / "b")
    assert written.info.get("icc_profile") == (profile(space) if kept else None)
    assert 0x010F not in written.getexif()


def test_grey_with_a_transparent_value_stays_grey_with_its_profile(tmp_path: Path) -> None:
    grey = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    grey.save(tmp_path / "a.png", transparency=5, icc_profile=profile(b"GRAY"))
    picture = read_picture(tmp_path / "a.png")
    assert picture.pixels.shape == (1, 1, 4, 4)
    assert picture.alpha is not None
    assert np.flatnonzero(picture.alpha == 0).tolist() == [5]
    assert picture.profile == profile(b"GRAY")


def test_what_is_written_can_be_read_whatever_the_profiles_size(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", icc_profile=profile(b"RGB ", 2_000_000))
    write_picture(read_picture(tmp_path / "a.jpg"), tmp_path / "b.png", format="PNG")
    assert read_picture(tmp_path / "b.png").profile is None


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"P6 1 1 255\nabc"]
)
def test_only_the_formats_that_are_named_are_opened(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    Image.new("L", (4, 4)).save(tmp_path / "b.gif")
    for source in (content, tmp_path / "a.png", tmp_path / "b.gif"):
        with pytest.raises(RequestError, match="not an image that can be read"):
            read_picture(source)
        with pytest.raises(RequestError, match="not an image that can be read"):
            is_grey(source, "it")


def png(
    width: int, height: int, rows: bytes, *more: tuple[bytes, bytes], kind: int = 0, interlaced: int = 0
) -> bytes:
    """A PNG of 8 bits with these rows, whatever its header says, and more chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, interlaced)
    chunks = ((b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def tiff(width: int, height: int, content: bytes, *, compression: str = "raw") -> bytes:
    """A grey TIFF whose header says another height than its pixels have."""
    buffer = BytesIO()
    image = Image.frombytes("L", (width, len(content) // width), content)
    image.save(buffer, format="TIFF", compression=compression)
    found = bytearray(buffer.getvalue())
    (start,) = struct.unpack_from("<I", found, 4)
    for entry in range(struct.unpack_from("<H", found, start)[0]):
        place = start + 2 + 12 * entry
        if struct.unpack_from("<H", found, place)[0] == 257:
            struct.pack_into("<HII", found, place + 2, 4, 1, height)
    return bytes(found)


@pytest.mark.parametrize(
    "content",
    [
        png(4, 9, bytes(5 * 8)),
        png(4, 9, bytes(5 * 8), kind=3),
        tiff(4, 9, bytes(4 * 8)),
        tiff(4, 9, bytes(4 * 8), compression="tiff_deflate"),
    ],
)
def test_an_image_without_all_of_its_rows_is_refused_both_ways(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    for source in (content, tmp_path / "a"):
        with pytest.raises(RequestError, match="a is cut off: it holds less than 4x9 pixels"):
            read_picture(source, name="a")


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(40, 40), (33, 47)])
def test_a_jpeg_that_ends_early_is_refused_and_a_plain_one_is_not(mode: str, size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for image in (Image.fromarray(values), Image.new("RGB", size, "teal")):
        buffer = BytesIO()
        image.convert(mode).save(buffer, format="JPEG")
        assert read_picture(buffer.getvalue()).pixels.shape[2:] == (size[1], size[0])
    Image.fromarray(values).convert(mode).save(buffer := BytesIO(), format="JPEG")
    content = buffer.getvalue()
    taller = bytearray(content)
    struct.pack_into(">H", taller, content.index(b"\xff\xc0") + 5, 2 * size[1])
    for damaged in (bytes(taller), content[: len(content) * 3 // 4] + b"\xff\xd9"):
        with pytest.raises(RequestError, match="cut off"):
            read_picture(damaged)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_an_image_with_all_of_its_rows_is_not(mode: str, image_file: Writer) -> None:
    for name in ("a.png", *(("a.tiff",) if mode != "LA" else ())):
        assert read_picture(image_file(name, mode=mode)).pixels.shape[2:] == (9, 12)


def test_an_interlaced_image_is_measured_by_its_passes() -> None:
    # 4 x 5 pixels, pass after pass: columns and rows.
    passes = [(1, 1), (1, 1), (1, 2), (2, 1), (2, 3), (4, 2)]
    rows = b"".join((b"\0" + b"\x80" * columns) * lines for columns, lines in passes)
    whole, short = png(4, 5, rows, interlaced=1), png(4, 5, rows[:-1], interlaced=1)
    assert read_picture(whole).pixels.shape == (1, 1, 5, 4)
    with pytest.raises(RequestError, match="cut off"):
        read_picture(short)


@pytest.mark.parametrize("side", [9_487, 13_300, 60_000])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(RequestError, match="a has more than 90,000,000 pixels"):
        read_picture(png(side, side, b""), name="a")


def test_a_file_of_too_many_bytes_is_refused(monkeypatch: pytest.MonkeyPatch, image_file: Writer) -> None:
    path = image_file("a.png")
    monkeypatch.setattr("comdefend.image.MAX_BYTES", path.stat().st_size)
    assert read_picture(path).pixels.shape == (1, 3, 9, 12)
    monkeypatch.setattr("comdefend.image.MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(RequestError, match="has more than"):
        read_picture(path)


def test_reasons_are_sentences() -> None:
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21)))
    with pytest.raises(RequestError, match="a carries more text"):
        read_picture(png(4, 4, bytes(20), text), name="a")
    broken = png(4, 4, bytes(20), (b"tEXt", b"Comment\0one")).replace(b"one", b"two")
    with pytest.raises(RequestError, match=r"a begins as a PNG but is damaged.*checksum"):
        read_picture(broken, name="a")


def test_cmyk_is_refused_with_a_sentence(image_file: Writer) -> None:
    with pytest.raises(RequestError, match=r"a\.tiff has pixels of kind CMYK; convert it to RGB"):
        read_picture(image_file("a.tiff", mode="CMYK"))


def test_16_bit_colour_is_refused_with_a_sentence(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"\x00" + bytes(range(12)))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    (tmp_path / "deep.png").write_bytes(content)
    with pytest.raises(RequestError, match=r"deep\.png has 16 bits for each colour"):
        read_picture(tmp_path / "deep.png")


def test_a_telephones_jpeg_with_a_preview_is_its_first_picture(tmp_path: Path) -> None:
    main, preview = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (4, 3), "blue")
    main.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert read_picture(tmp_path / "a.jpg").pixels.shape == (1, 3, 6, 8)


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    with pytest.raises(RequestError, match="2 frames"):
        read_picture(tmp_path / "a.tiff")


def test_a_missing_file_and_a_text_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(RequestError, match=r"text\.png is not an image"):
        read_picture(tmp_path / "text.png")
    with pytest.raises(RequestError, match=r"gone\.png: there is no such file"):
        read_picture(tmp_path / "gone.png")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), form=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]))
def test_damaged_files_are_read_or_refused_and_nothing_else(data: st.DataObject, form: str) -> None:
    buffer = BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(buffer, format=form)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        picture = read_picture(bytes(content[:cut]), name="damaged")
    except RequestError as error:
        assert "damaged" in str(error)
    else:
        assert picture.pixels.ndim == 4


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(RequestError, match="17000x1 cannot be written as WEBP"):
        write_picture(Picture(torch.rand(1, 3, 1, 17000)), target, format="WEBP")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@given(height=st.integers(1, 60), width=st.integers(1, 60), tile=st.integers(1, 70), halo=st.integers(0, 20))
def test_tiles_cover_every_pixel_once(height: int, width: int, tile: int, halo: int) -> None:
    covered = torch.zeros(height, width)
    for t in tiles(height, width, tile=tile, halo=halo):
        covered[t.top : t.bottom, t.left : t.right] += 1
        assert 0 <= t.outer_top <= t.top
        assert t.bottom <= t.outer_bottom <= height
        assert t.left - t.outer_left == min(halo, t.left)
    assert bool((covered == 1).all())


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 3),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    tile=st.integers(1, 24),
    pixels=st.integers(1, 2000),
    block=st.sampled_from([1, 2, 4]),
)
def test_tiles_with_a_halo_give_the_whole_images_pixels(
    count: int, height: int, width: int, tile: int, pixels: int, block: int
) -> None:
    model, tile = tiny_model(block=block), tile * block
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height))

    # A smooth code: with the hard one a logit within rounding of zero may fall to either side.
    def soft(some: torch.Tensor) -> torch.Tensor:
        return model.soft(some, temperature=20.0)

    tiled = apply_tiled(soft, images, tile=tile, halo=model.config.reach, pixels=pixels)
    torch.testing.assert_close(tiled, soft(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (13, 22), (16, 24)])
def test_tiles_of_a_code_of_blocks_give_the_whole_images_code(size: tuple[int, int]) -> None:
    model, images = tiny_model(block=2), torch.rand(2, 3, *size)

    def logits(some: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.com(some)
        return found

    tiled = apply_tiled(logits, images, tile=4, halo=model.config.reach, pixels=100, block=2)
    torch.testing.assert_close(tiled, logits(images), atol=1e-4, rtol=0)


def test_tiles_without_a_halo_do_not() -> None:
    model, images = tiny_model(), torch.rand(1, 3, 32, 32)
    assert (apply_tiled(model, images, tile=16, halo=0, pixels=1000) - model(images)).abs().max() > 1e-3


@pytest.mark.parametrize(("bits", "colours"), [(4, 1), (8, 3), (12, 3), (16, 3)])
def test_codes_of_any_length_can_be_drawn(bits: int, colours: int) -> None:
    drawn = code_picture(torch.rand(2, bits, 5, 6) > 0.5)
    assert drawn.shape == (2, colours, 5, 6)
    assert drawn.max() <= 1


def test_a_code_of_blocks_is_drawn_as_large_as_its_image() -> None:
    code = torch.rand(1, 12, 3, 2) > 0.5
    assert torch.equal(code_picture(code, block=2)[..., ::2, 1::2], code_picture(code))


def test_a_grid_puts_rows_under_each_other() -> None:
    grid = picture_grid([torch.ones(3, 3, 4, 5), torch.zeros(3, 1, 4, 5)], scale=2, gap=1)
    assert grid.size == ((3 * 6 - 1) * 2, (2 * 5 - 1) * 2)
    assert grid.getpixel((0, 0)) == (255, 255, 255)
    assert grid.getpixel((0, grid.height - 1)) == (0, 0, 0)
