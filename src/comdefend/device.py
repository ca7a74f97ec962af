"""Where tensors live, by name: checked before any work."""

import torch

from comdefend.errors import RequestError


def find_device(name: str) -> torch.device:
    """The device called "cpu", "cuda", "cuda:1", ...; `RequestError` where it cannot be used."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"device {name!r} cannot be used here: {reason}") from error
    return device
