"""Short hashes of what a number depends on, so that kept results are not run again and stale ones are."""

import hashlib
import json
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

_INSTALLED = (
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib")),
)
"""Folders whose code is not somebody's own."""


def fingerprint(depends: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of all that a number depends on, by name."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def digest(network: nn.Module) -> str:
    """Sixteen hexadecimal digits of a network's weights, and of the files that somebody else's modules in
    it were written in. The code of installed packages and of this one does not count: attacks and
    purifiers have versions.
    """
    found = hashlib.sha256()
    for file in sorted(_sources(network)):
        found.update(Path(file).read_bytes())
    for key, tensor in sorted(network.state_dict().items()):
        found.update(key.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _sources(network: nn.Module) -> set[str]:
    """The files of the functions of a network's modules, but for this package's and installed ones."""
    files = set()
    for kind in {kind for module in network.modules() for kind in type(module).__mro__}:
        for member in vars(kind).values():
            code = getattr(getattr(member, "__func__", member), "__code__", None)
            if code is not None:
                files.add(code.co_filename)
    return {f for f in files if not f.startswith(_INSTALLED) and Path(f).is_file()}
