"""The authors' released weights (ENC.npy, DEC.npy) to a model, by a reader that admits only arrays.

Each file is a zip archive with one object array `w`, pickled: kernel (H x W x in x out) and bias of
nine layers in turn. A pickle may name any function to call, so every name but those that rebuild
numpy arrays is refused before anything is called.
"""

import pickle
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from comdefend.errors import RequestError
from comdefend.model import ComDefend, ComDefendConfig

LARGEST = 64 * 2**20
"""Bytes that an unpacked file may have; the released ones have about 3.5 million."""

LAYERS = 9

Array = np.ndarray[Any, np.dtype[Any]]


def convert_released(encoder: Path, decoder: Path) -> ComDefend:
    """The authors' two files as one model, in evaluation mode.

    Bits, channels and widths are read off the shapes (the grey networks are a little wider than the
    paper's). Raises `RequestError` for
    files that are no such archives, hold anything but arrays, or do not form the two networks.
    """
    com, rec = read_released(encoder), read_released(decoder)
    config = ComDefendConfig(
        image_channels=com[0].shape[2],
        bits=com[-2].shape[3],
        com_widths=tuple(kernel.shape[3] for kernel in com[:-2:2]),
        rec_widths=tuple(kernel.shape[3] for kernel in rec[:-2:2]),
    )
    model = ComDefend(config)
    _fill(model.com.layers, com, encoder)
    _fill(model.rec.layers, rec, decoder)
    return model.eval().requires_grad_(False)


def read_released(path: Path) -> list[Array]:
    """The eighteen arrays of one file: kernel, bias, kernel, bias, ..."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.namelist() != ["w.npy"]:
                raise RequestError(f"{str(path)!r} holds {archive.namelist()}; only w.npy is expected")
            if archive.getinfo("w.npy").file_size > LARGEST:
                raise RequestError(f"{str(path)!r} is larger unpacked than {LARGEST} bytes")
            stream = BytesIO(archive.read("w.npy"))
        npy.read_magic(stream)
        npy.read_array_header_1_0(stream)
        array = _ArraysOnly(stream, path).load()
    except RequestError:
        raise
    except FileNotFoundError as error:
        raise RequestError(f"{str(path)!r}: there is no such file") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise RequestError(
            f"{str(path)!r} is no weights file of the authors' release: {type(error).__name__}: {error}"
        ) from error
    entries = list(array.ravel()) if isinstance(array, np.ndarray) else []
    arrays = [e for e in entries if isinstance(e, np.ndarray) and e.dtype.kind == "f"]
    shapes = [a.ndim for a in arrays]
    if len(arrays) != len(entries) or shapes != [4, 1] * LAYERS:
        raise RequestError(f"{str(path)!r} does not hold the kernels and biases of {LAYERS} layers")
    return arrays


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows four names and refuses all others."""

    def __init__(self, stream: BytesIO, path: Path) -> None:
        super().__init__(stream, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _plain_dtype,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in allowed:
            raise RequestError(
                f"{str(self._path)!r} is refused: its pickle asks for {module}.{name}, "
                "and only numpy arrays are admitted"
            )
        return allowed[module, name]


def _empty_array(kind: Any, *_: Any) -> Array:
    if kind is not np.ndarray:
        raise ValueError("only plain arrays are admitted")
    return np.ndarray((0,), dtype="b")


def _plain_dtype(text: str, *_: Any) -> "np.dtype[Any]":
    if text not in ("f4", "f8", "O", "O8"):
        raise ValueError(f"arrays of {text!r} are not admitted")
    return np.dtype("O" if text == "O8" else text)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"the encoding {encoding!r} is not admitted")
    return text.encode("latin1")


def _fill(layers: torch.nn.Sequential, arrays: list[Array], path: Path) -> None:
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    for index, layer in enumerate(convolutions):
        kernel, bias = arrays[2 * index], arrays[2 * index + 1]
        weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), dtype=np.float32))
        if weight.shape != layer.weight.shape or bias.shape != (layer.out_channels,):
            raise RequestError(
                f"{str(path)!r}: layer {index + 1} has a kernel of {kernel.shape}, "
                f"which does not follow from the one before (out, in, H, W: {tuple(layer.weight.shape)})"
            )
        layer.weight.data.copy_(weight)
        assert layer.bias is not None
        layer.bias.data.copy_(torch.from_numpy(np.ascontiguousarray(bias, dtype=np.float32)))
