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


def test_colour_profile_is_kept_and_other_metadata_dropped(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif, icc_profile=b"a profile")
    write_picture(read_picture(tmp_path / "a.jpg"), tmp_path / "b.png", format="PNG")
    written = Image.open(tmp_path / "b.png")
    assert written.info["icc_profile"] == b"a profile"
    assert not written.getexif()


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
