"""The authors' released weights (ENC.npy, DEC.npy) to a model, by a reader that admits only arrays.

Each file is a zip archive with one object array `w`, pickled: kernel (H x W x in x out) and bias of
nine layers in turn. A pickle may name any function to call, so every name but those that rebuild
numpy arrays is refused before anything is called.
"""

import pickle
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

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
    paper's). Raises `RequestError` for files that are no such archives, hold anything but arrays, or do
    not form the two networks.
    """
    com, rec = read_released(encoder), read_released(decoder)
    try:
        config = _config(com, rec)
    except ValueError as error:
        raise RequestError(f"{str(encoder)!r} and {str(decoder)!r} do not fit: {error}") from error
    model = ComDefend(config)
    _fill(model.com.layers, com, encoder)
    _fill(model.rec.layers, rec, decoder)
    return model.eval().requires_grad_(False)


def _config(com: list[Array], rec: list[Array]) -> ComDefendConfig:
    return ComDefendConfig(
        image_channels=com[0].shape[2],
        bits=com[-2].shape[3],
        com_widths=tuple(kernel.shape[3] for kernel in com[:-2:2]),
        rec_widths=tuple(kernel.shape[3] for kernel in rec[:-2:2]),
    )


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
        loaded = _ArraysOnly(stream, path).load()
    except RequestError:
        raise
    except FileNotFoundError as error:
        raise RequestError(f"{str(path)!r}: there is no such file") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise RequestError(
            f"{str(path)!r} is no weights file of the authors' release: {type(error).__name__}: {error}"
        ) from error
    entries = loaded.value if isinstance(loaded, _PickledArray) else []
    values = [entry.value for entry in entries if isinstance(entry, _PickledArray)]
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if len(arrays) != len(entries) or [a.ndim for a in arrays] != [4, 1] * LAYERS:
        raise RequestError(f"{str(path)!r} does not hold the kernels and biases of {LAYERS} layers")
    return arrays


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows four names, none of them numpy's own, and refuses all others.

    numpy's functions trust what they are called with (an array can be made over any address), so the
    names that rebuild arrays lead to stand-ins here, which check their arguments.
    """

    def __init__(self, stream: BytesIO, path: Path) -> None:
        super().__init__(stream, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy", "ndarray"): _PickledArray,
            ("numpy", "dtype"): _PickledType,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in allowed:
            raise RequestError(
                f"{str(self._path)!r} is refused: its pickle asks for {module}.{name}, "
                "and only numpy arrays are admitted"
            )
        return allowed[module, name]


class _PickledType:
    """Stands in for numpy.dtype: 32- or 64-bit floats, little-endian, or objects."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in ("f4", "f8", "O", "O8"):
            raise ValueError(f"arrays of {code!r} are not admitted")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|"):
            raise ValueError(f"the byte order {state[1]!r} is not admitted")


class _PickledArray:
    """Stands in for numpy.ndarray: `value` is the array, or for objects the list of its elements."""

    def __init__(self) -> None:
        self.value: Array | list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _PickledType):
            raise ValueError("an array without a type")
        if kind.code.startswith("O"):
            if not isinstance(data, list):
                raise ValueError("an array of objects must hold a list")
            self.value = data
        else:
            raw = data.encode("latin1") if isinstance(data, str) else data
            order: Literal["F", "C"] = "F" if fortran else "C"
            self.value = np.frombuffer(raw, dtype=f"<{kind.code}").reshape(shape, order=order).copy()


def _reconstruct(kind: Any, *_: Any) -> _PickledArray:
    if kind is not _PickledArray:
        raise ValueError("only plain arrays are admitted")
    return _PickledArray()


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"the encoding {encoding!r} is not admitted")
    return text.encode("latin1")


def _fill(layers: torch.nn.Sequential, arrays: list[Array], path: Path) -> None:
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    for index, layer in enumerate(convolutions):
        kernel, bias = arrays[2 * index], arrays[2 * index + 1]
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise RequestError(f"{str(path)!r}: layer {index + 1} holds NaN or infinite values")
        weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), dtype=np.float32))
        if weight.shape != layer.weight.shape or bias.shape != (layer.out_channels,):
            raise RequestError(
                f"{str(path)!r}: layer {index + 1} has a kernel of {kernel.shape}, "
                f"which does not follow from the one before (out, in, H, W: {tuple(layer.weight.shape)})"
            )
        layer.weight.data.copy_(weight)
        assert layer.bias is not None
        layer.bias.data.copy_(torch.from_numpy(np.ascontiguousarray(bias, dtype=np.float32)))
