"""The authors' weights: matched to their own output, and crafted files refused."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from comdefend.errors import RequestError
from comdefend.image import read_picture
from comdefend.purifiers import ComDefendPurifier
from comdefend.released import convert_released, read_released


@pytest.mark.parametrize("image", [11, 25])
def test_the_authors_pipeline_gives_the_authors_output(image: int, shared: Path) -> None:
    """Patches of 32 without a halo, BGR, noise off, truncation: 44 dB or more to their result."""
    model = convert_released(
        shared / "official" / "enc20_0.0001.npy", shared / "official" / "dec20_0.0001.npy"
    )
    purifier = ComDefendPurifier(model, tile=32, halo=0, order="bgr")
    attacked = read_picture(shared / "official" / "golden" / f"attacked_{image}.png").pixels
    theirs = read_picture(shared / "official" / "golden" / f"defended_{image}.png").pixels
    ours = (purifier(attacked) * 255).floor() / 255
    psnr = -10 * torch.log10((ours - theirs).square().mean())
    assert float(psnr) > 44.0


def test_the_grey_weights_are_read_with_their_own_widths(shared: Path) -> None:
    model = convert_released(shared / "official" / "enc_mnist.npy", shared / "official" / "dec_mnist.npy")
    assert (model.config.image_channels, model.config.bits) == (1, 4)
    assert model(torch.rand(1, 1, 28, 28)).shape == (1, 1, 28, 28)


def test_encoder_and_decoder_in_the_wrong_order_are_refused(shared: Path) -> None:
    with pytest.raises(RequestError, match="do not fit"):
        convert_released(shared / "official" / "dec20_0.0001.npy", shared / "official" / "enc20_0.0001.npy")


def write_archive(path: Path, content: Any, *, shape: tuple[int, ...] = (18,), name: str = "w.npy") -> Path:
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    body += content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, body)
    return path


class RunsACommand:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


def test_a_crafted_pickle_is_refused_before_it_runs(tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    crafted = write_archive(tmp_path / "crafted.npy", RunsACommand(proof))
    with pytest.raises(RequestError, match=r"asks for posix\.mkdir, and only numpy arrays are admitted"):
        read_released(crafted)
    assert not proof.exists()


class ArrayOverAnAddress:
    """What numpy would take for pointers to objects: following them would crash the process."""

    def __reduce__(self) -> Any:
        return np.ndarray, ((18,), np.dtype("O"), b"A" * 144)


def test_a_pickle_that_makes_an_array_over_raw_memory_is_refused(tmp_path: Path) -> None:
    crafted = write_archive(tmp_path / "crafted.npy", ArrayOverAnAddress())
    with pytest.raises(RequestError, match="no weights file"):
        read_released(crafted)


def test_arrays_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    array = np.empty(2, dtype=object)
    array[:] = [np.zeros(3, dtype=np.float32)] * 2
    with pytest.raises(RequestError, match="does not hold the kernels and biases"):
        read_released(write_archive(tmp_path / "short.npy", array, shape=(2,)))


@pytest.mark.parametrize("damage", ["no zip", "other name", "cut"])
def test_damaged_archives_are_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "w.npy"
    if damage == "no zip":
        path.write_bytes(b"PK not really")
    elif damage == "other name":
        write_archive(path, [], name="v.npy")
    else:
        write_archive(path, pickle.dumps([1, 2, 3], protocol=2)[:-4])
    with pytest.raises(RequestError, match=r"w\.npy"):
        read_released(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no such file"):
        read_released(tmp_path / "gone.npy")
