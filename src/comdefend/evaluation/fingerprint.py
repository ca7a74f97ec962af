"""Short hashes of what a number depends on, so that kept results are not run again and stale ones are."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def fingerprint(depends: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of all that a number depends on, by name."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def digest(network: nn.Module) -> str:
    """Sixteen hexadecimal digits of a network's weights."""
    found = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        found.update(key.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
