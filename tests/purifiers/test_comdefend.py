"""ComDefend as a purifier: tiles, orders, dtypes, noise, gradients of its surrogate."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from comdefend import zoo
from comdefend.errors import RequestError
from comdefend.purifiers import ComDefendPurifier, load_comdefend
from tests.conftest import tiny_model


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (37, 23), (64, 64)])
@pytest.mark.parametrize(("tile", "block"), [(5, 1), (16, 1), (100, 1), (6, 2), (16, 4)])
def test_tiles_do_not_show(size: tuple[int, int], tile: int, block: int) -> None:
    images = torch.rand(2, 3, *size)
    whole, tiled = (ComDefendPurifier(tiny_model(block=block), tile=side) for side in (1000, tile))
    torch.testing.assert_close(tiled(images), whole(images), atol=1e-5, rtol=0)
    assert torch.equal(tiled.compress(images), whole.compress(images))


@pytest.mark.parametrize("mode", ["surrogate", "straight-through", "tempered-50", "identity"])
def test_gradients_pass_through_a_code_of_blocks(mode: str) -> None:
    purifier = ComDefendPurifier(tiny_model(block=2))
    images = torch.rand(1, 3, 7, 5, requires_grad=True)
    made = purifier.through(images, mode)
    torch.testing.assert_close(made, purifier(images))
    made.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0


def test_tiles_that_cut_blocks_are_refused() -> None:
    with pytest.raises(RequestError, match="tile is 33; it must be a multiple of 2"):
        ComDefendPurifier(tiny_model(block=2), tile=33)


def test_the_shipped_networks_tile_without_a_seam() -> None:
    images = torch.rand(1, 3, 50, 61)
    whole = load_comdefend("cifar10", tile=100)(images)
    torch.testing.assert_close(load_comdefend("cifar10", tile=32)(images), whole, atol=1e-5, rtol=0)


def test_order_bgr_swaps_the_colours_on_the_way_in_and_out() -> None:
    images = torch.rand(1, 3, 9, 9)
    rgb, bgr = (ComDefendPurifier(tiny_model(), order=o) for o in ("rgb", "bgr"))
    torch.testing.assert_close(bgr(images), rgb(images.flip(1)).flip(1))
    assert not torch.allclose(bgr(images), rgb(images))


def test_compress_and_decompress_make_the_round_trip(tiny_purifier: ComDefendPurifier) -> None:
    images = torch.rand(2, 3, 10, 12)
    torch.testing.assert_close(
        tiny_purifier.decompress(tiny_purifier.compress(images)), tiny_purifier(images)
    )


def test_noise_makes_it_stochastic() -> None:
    noisy, still = ComDefendPurifier(tiny_model(), noise=20.0), ComDefendPurifier(tiny_model())
    images = torch.rand(1, 3, 16, 16)
    assert noisy.stochastic
    assert not still.stochastic
    assert not torch.equal(noisy(images), noisy(images))
    assert torch.equal(still(images), still(images))


def test_weights_of_version_0_1_load_where_they_used_nothing_that_went(tmp_path: Path) -> None:
    model = tiny_model()
    model.com.fold_gain()
    known = asdict(model.config)

    def stored(**settings: float) -> str:
        facts = zoo.Facts(name="x", kind="purifier", architecture={**known, **settings}, data="", made="")
        zoo.write(model, facts, tmp_path / "x.safetensors", half=False)
        return str(tmp_path / "x.safetensors")

    images = torch.rand(1, 3, 8, 8)
    found = load_comdefend(stored(code_noise=0.0, cuts=1, spread=0.0))
    assert torch.equal(found(images), ComDefendPurifier(model)(images))
    with pytest.raises(
        RequestError, match=r"cuts is 63, which comdefend 0\.1 could do and this version cannot"
    ):
        load_comdefend(stored(cuts=63, spread=80.0))


def test_bfloat16_stays_close_and_gives_back_the_input_dtype() -> None:
    images = torch.rand(2, 3, 32, 32)
    fast, exact = load_comdefend("cifar10", dtype="bfloat16"), load_comdefend("cifar10")
    assert fast(images).dtype == torch.float32
    assert (fast.compress(images) != exact.compress(images)).float().mean() < 0.02


def test_the_surrogate_has_gradients_and_the_purifier_has_none(tiny_purifier: ComDefendPurifier) -> None:
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert not tiny_purifier(images).requires_grad
    tiny_purifier.surrogate(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0


def test_compress_refuses_what_the_purifier_refuses(tiny_purifier: ComDefendPurifier) -> None:
    with pytest.raises(RequestError, match="uint8"):
        tiny_purifier.compress(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_the_code_of_tiles_is_the_code_that_was_used() -> None:
    purifier = ComDefendPurifier(tiny_model(), tile=8, halo=0)
    images = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(
        purifier.decompress(purifier.compress(images))[..., :2, :2], purifier(images)[..., :2, :2]
    )
    assert not torch.equal(purifier.compress(images), ComDefendPurifier(tiny_model()).compress(images))


def test_grey_data_gets_the_grey_weights() -> None:
    assert load_comdefend(channels=1).image_channels == 1


@pytest.mark.parametrize(
    "options",
    [{"tile": 0}, {"halo": -1}, {"noise": -0.1}, {"order": "gbr"}],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        ComDefendPurifier(tiny_model(), **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_4k_image_stays_under_a_gigabyte_and_a_half() -> None:
    """The tiles around 3840 x 2160 pixels, with the real widths, as resident memory of a process.

    The networks' work on most tiles is left out, since it takes minutes and frees what it takes.
    """
    # Linux hands a new process the peak of the one that started it as ru_maxrss; VmHWM begins anew.
    script = """
import pathlib, re, resource, sys, torch
from comdefend.purifiers import load_comdefend
purifier = load_comdefend("cifar10")
real, calls = purifier._whole, 0
def sparing(images):
    global calls
    calls += 1
    return real(images) if calls <= 2 else images
purifier._whole = sparing
images = torch.rand(1, 3, 2160, 3840)
assert purifier(images).shape == images.shape and calls > 100
if sys.platform == "linux":
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.5e9


@pytest.mark.parametrize("shape", [(12, 8, 8), (1, 8, 8, 12)])
def test_what_is_no_code_is_not_decompressed(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"the code has the shape .*; N x 12 x H x W is needed"):
        load_comdefend("cifar10").decompress(torch.zeros(shape, dtype=torch.bool))
