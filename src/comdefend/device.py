"""Where tensors live and what they are made of, by name: checked before any work."""

import ctypes
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from comdefend.errors import RequestError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What purifiers can compute in, by the name that the command line and references use."""


def fast_dtype(device: str) -> str:
    """The name of the fastest number format that `device` ("auto": a GPU where there is one) trains and
    purifies well in: "bfloat16" where it has instructions for it and, of a processor, they pay; else
    "float32".
    """
    kind = torch.device(device).type if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = kind == "cpu" and has_bfloat16() and _bfloat16_pays()
    return "bfloat16" if fast else "float32"


def has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16, as far as PyTorch can tell."""
    abilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@cache
def _bfloat16_pays() -> bool:
    """Whether this processor convolves faster in bfloat16. Instructions alone do not tell: those of AVX-512
    halve the time on AMD's Zen 4, and on Intel's processors, where AMX is hidden from a virtual machine,
    they take longer than float32.
    """
    layer = torch.nn.Conv2d(64, 64, 3, padding=1)
    best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    with torch.inference_mode():
        for dtype in 5 * tuple(best):
            layer = layer.to(dtype)
            images = torch.zeros(2, 64, 64, 64, dtype=dtype).contiguous(memory_format=torch.channels_last)
            began = time.perf_counter()
            layer(images)
            best[dtype] = min(best[dtype], time.perf_counter() - began)
    return best[torch.bfloat16] < best[torch.float32]


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next tensors.

    glibc gives every large block back to the kernel, which clears each page of it again at the next batch:
    a fifth of a training step on a processor. Does nothing where there is another allocator.
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def find_dtype(name: str) -> torch.dtype:
    """One of `DTYPES` by name; `RequestError` for another."""
    if name not in DTYPES:
        raise RequestError(f"dtype is {name!r}; it must be one of {', '.join(DTYPES)}")
    return DTYPES[name]


def find_device(name: str) -> torch.device:
    """The device called "cpu", "cuda", "cuda:1", ...; `RequestError` where it cannot be used."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def device_of(module: nn.Module, *, otherwise: torch.device | None = None) -> torch.device:
    """Where a module's parameters are; `otherwise`, by default the processor, where it has none."""
    return next((p.device for p in module.parameters()), otherwise or torch.device("cpu"))
