"""Short hashes of what a number depends on, so that kept results are not run again and stale ones are."""

import hashlib
import json
import sys
import sysconfig
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from comdefend.seeding import drawn_from

_INSTALLED = (
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib")),
)
"""Folders whose code is not somebody's own."""

_PLAIN = (int, float, str, bool, type(None))
"""Of attributes of modules whose text says all, and of the members of such lists."""


class Marked(Protocol):
    """A record that says what it depends on."""

    @property
    def fingerprint(self) -> str: ...


Record = TypeVar("Record", bound=Marked)


def not_replaced(kept: Iterable[Record], new: Iterable[Record]) -> list[Record]:
    """Those of the kept records of which no new one has the fingerprint."""
    prints = {record.fingerprint for record in new}
    return [record for record in kept if record.fingerprint not in prints]


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


def surroundings(network: nn.Module) -> str:
    """Sixteen hexadecimal digits of what `digest` leaves out: plain attributes, buffers that are not kept
    with the weights, and files that were loaded from the folders of somebody else's modules.
    """
    found = hashlib.sha256()
    for name, module in network.named_modules():
        held = {k: OrderedDict() if "_hooks" in k else v for k, v in vars(module).items()}  # some are ours
        plain = {k: v for k, v in held.items() if _is_plain(v) and k != "training"}
        found.update(repr((name, type(module).__qualname__, sorted(plain.items()))).encode())
    for name, buffer in network.named_buffers():
        found.update(name.encode())
        found.update(buffer.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    folders = tuple(f"{Path(file).resolve().parent}/" for file in _sources(network))
    loaded = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    for file in sorted(f for f in loaded if f.startswith(folders) and not f.startswith(_INSTALLED)):
        if Path(file).is_file():
            found.update(Path(file).read_bytes())
    return found.hexdigest()[:16]


def answers(network: nn.Module, images: Tensor) -> str:
    """Sixteen hexadecimal digits of what a network makes of a few images, to the third digit."""
    with drawn_from(0), torch.no_grad():
        found = network(images).float().cpu()
    scale = found.abs().max().clamp_min(1e-12)
    return hashlib.sha256((found / scale * 1000).round().int().numpy().tobytes()).hexdigest()[:16]


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, _PLAIN) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(isinstance(member, _PLAIN) for member in value)
    return isinstance(value, _PLAIN)


def _sources(network: nn.Module) -> set[str]:
    """The files of the functions of a network's modules, but for this package's and installed ones."""
    files = set()
    for kind in {kind for module in network.modules() for kind in type(module).__mro__}:
        for member in vars(kind).values():
            code = getattr(getattr(member, "__func__", member), "__code__", None)
            if code is not None:
                files.add(code.co_filename)
    return {f for f in files if not f.startswith(_INSTALLED) and Path(f).is_file()}
