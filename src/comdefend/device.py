"""Where tensors live and what they are made of, by name: checked before any work."""

from collections.abc import Mapping
from typing import Any

import torch

from comdefend.errors import RequestError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What purifiers can compute in, by the name that the command line and references use."""


def fast_dtype(device: str) -> str:
    """The name of the fastest number format that `device` ("auto": a GPU where there is one) trains and
    purifies well in: "bfloat16" where it has instructions for it, else "float32". A processor without
    them emulates bfloat16, ten times slower than float32.
    """
    kind = torch.device(device).type if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        abilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if kind == "cpu" else {}
        fast = any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bfloat16" if fast else "float32"


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
