"""Where tensors live and what they are made of, by name: checked before any work."""

import torch

from comdefend.errors import RequestError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What purifiers can compute in, by the name that the command line and references use."""


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
