"""Names to weights, and the facts that travel with them: what they are, how they were made, how good.

Weights are safetensors whose header holds the facts, so a single file can be loaded by its path. The
shipped ones lie in `weights/`, each beside a JSON file with the same facts and the file's SHA-256.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from comdefend.atomic import replacing, write_json
from comdefend.errors import RequestError, reason

Kind = Literal["purifier", "classifier", "pixelcnn", "denoiser"]
"""ComDefend's networks, a classifier, PixelDefend's model of clean images, HGD's denoiser."""

_SUFFIXES: dict[Kind, str] = {"purifier": "", "pixelcnn": "-pixelcnn", "denoiser": "-hgd"}
"""What follows the name of the data set in the name of the weights that are the default for it."""

_USUAL = {1: "fashion-mnist", 3: "cifar10"}
"""The data set whose weights serve images of so many channels where nothing fits better."""

_HEADER = "comdefend"


@dataclass(frozen=True)
class Facts:
    """What is known about a set of weights.

    `architecture` holds the arguments that rebuild the network; `recipe` the training's settings, as
    they were when it was made; `scores` what was measured, with the number of images; `sha256` is
    that of the safetensors file, known once it is written.
    """

    name: str
    kind: Kind
    architecture: dict[str, Any]
    data: str
    made: str
    licence: str = "Apache-2.0"
    recipe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def purifier(self) -> str:
        """The reference of the purifier that a classifier was trained behind, "none" without one."""
        if self.kind != "classifier":
            return "none"
        return str(self.recipe.get("classifier", {}).get("purifier", "none"))

    @property
    def origin(self) -> dict[str, str]:
        """What identifies the weights in a file of results."""
        return {"weights": self.name, "sha256": self.sha256}

    def in_words(self) -> str:
        """What was measured, in words: "32.82 dB PSNR", "88.7 % accuracy"."""
        where = " behind its purifier" if self.purifier != "none" else ""
        found = [
            f"{self.scores[key] * scale:.{digits}f} {unit}{where}"
            for key, (scale, digits, unit) in _UNITS.items()
            if key in self.scores
        ]
        under = [
            f"{100 * self.scores[f'{level}_box_accuracy']:.1f} % {level}-box"
            for level in ("gray", "white")
            if f"{level}_box_accuracy" in self.scores
        ]
        if under:
            found.append(
                f"under attack {' and '.join(under)} "
                f"(fixed, {self.scores['epsilon']}, {self.scores['attacked_images']} images)"
            )
        return ", ".join(found)


Network = TypeVar("Network", bound=nn.Module)

_UNITS = {
    "test_psnr": (1, 2, "dB PSNR"),
    "test_accuracy": (100, 1, "% accuracy"),
    "test_bits_per_dimension": (1, 2, "bits per dimension"),
}
"""Scores: what they are multiplied by to be read, digits, and the unit."""


def names(kind: Kind | None = None) -> list[str]:
    """The weights that ship with the package, of one kind or of both."""
    found = (json.loads(p.read_text()) for p in sorted(_folder().glob("*.json")))
    return [facts["name"] for facts in found if kind in (None, facts["kind"])]


def facts(name: str) -> Facts:
    """The facts of shipped weights. Raises `RequestError` for an unknown name."""
    path = _folder() / f"{name}.json"
    if not path.is_file():
        near = get_close_matches(name, names(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RequestError(
            f"there are no weights named {name!r}{hint} "
            f"(shipped: {', '.join(names())}; a path to a .safetensors file works too)"
        )
    return Facts(**json.loads(path.read_text()))


def default(kind: Literal["purifier", "pixelcnn", "denoiser"], *, channels: int, data: str | None) -> str:
    """The shipped weights that suit images of `channels` channels from the data set `data`.

    Those of that data set ("mnist", "sample:cifar10") where there are such, and else the usual ones
    for so many channels. Raises `RequestError` where none ship.
    """
    shipped = names(kind)
    wanted = (data or "").removeprefix("sample:") + _SUFFIXES[kind]
    if wanted in shipped and facts(wanted).architecture["image_channels"] == channels:
        return wanted
    usual = _USUAL.get(channels, "") + _SUFFIXES[kind]
    if usual not in shipped:
        raise RequestError(
            f"no {kind} weights ship for images of {channels} channels"
            f"{f' from {data!r}' if data else ''}; shipped: {', '.join(shipped) or 'none'}"
        )
    return usual


def read(reference: str, *, kind: Kind) -> tuple[Facts, dict[str, Tensor]]:
    """Facts and float32 tensors of weights, by shipped name or by path of a safetensors file.

    Raises `RequestError` where there is no such name or file, where it is no safetensors file of
    this package, where it holds the other kind of network, or where a shipped file is damaged.
    """
    path, expected = Path(reference), None
    if path.suffix != ".safetensors":
        if path.is_file():
            raise RequestError(f"weights {reference!r}: the name of a file of weights ends in .safetensors")
        expected = facts(reference).sha256
        path = _folder() / f"{reference}.safetensors"
    elif not path.is_file():
        raise RequestError(f"weights {reference!r}: there is no such file")
    sha256 = _sha256(path)
    if expected is not None and sha256 != expected:
        raise RequestError(f"weights {str(path)!r} are damaged: their SHA-256 is not the recorded one")
    try:
        with safe_open(path, framework="pt") as opened:
            header = (opened.metadata() or {}).get(_HEADER)
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RequestError(f"weights {reference!r} are no readable safetensors file: {error}") from error
    if header is None:
        raise RequestError(f"weights {reference!r} were not written by comdefend: no facts in the header")
    found = replace(_read_facts(header, name=reference), sha256=sha256)
    if found.kind != kind:
        raise RequestError(f"weights {reference!r} belong to a {found.kind}; a {kind} is needed")
    for key, tensor in tensors.items():
        counts = key.endswith("num_batches_tracked")
        if not counts and not (tensor.is_floating_point() and torch.isfinite(tensor.float()).all()):
            raise RequestError(f"weights {reference!r}: {key} does not hold finite floats")
    return found, {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}


def rebuild(
    reference: str, build: Callable[[dict[str, Any]], Network], *, kind: Kind
) -> tuple[Network, Facts]:
    """A trained network by shipped name or path, ready for use, and its facts. `build` makes it of the
    architecture that the facts hold.

    Raises `RequestError` as `read` does, and where the architecture is none or the weights do not fit it.
    """
    known, tensors = read(reference, kind=kind)
    try:
        # Without memory for its weights: a file of a few bytes may name sizes that no machine has.
        with torch.device("meta"), _at_most_parameters(len(tensors)):
            network = build(known.architecture)
    except Exception as error:  # what a file says can fail anywhere in a network
        raise RequestError(
            f"weights {reference!r} have an impossible architecture: {reason(error)}"
        ) from error
    fill(network, tensors, name=reference)
    return network, known


def fill(network: Network, tensors: dict[str, Tensor], *, name: str) -> Network:
    """Put weights into a network built for them and set it to evaluation, gradients off. One on the meta
    device takes the tensors themselves.

    Raises `RequestError` where names or shapes are not the network's.
    """
    needed = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    stored = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for key in sorted(needed.keys() | stored.keys()):
        if needed.get(key) != stored.get(key):
            sizes = (
                f"{_shape(there.get(key))} {what}" for there, what in ((stored, "stored"), (needed, "needed"))
            )
            raise RequestError(
                f"weights {name!r} do not fit their architecture: {key} is {' and '.join(sizes)}"
            )
    network.load_state_dict(tensors, assign=any(p.is_meta for p in network.parameters()))
    return network.eval().requires_grad_(False)


def write(network: nn.Module, known: Facts, path: Path, *, half: bool = True) -> Facts:
    """Write weights to `path` (.safetensors) and their facts beside them (.json), atomically.

    `half` stores matrices and kernels as float16; vectors (biases, statistics) stay float32.
    """
    tensors = {
        key: (value.half() if half and value.ndim >= 2 else value).detach().cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    header = {_HEADER: json.dumps(asdict(known), sort_keys=True)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=header)
        complete = replace(known, sha256=_sha256(temporary))
    write_json(path.with_suffix(".json"), asdict(complete))
    return complete


def _read_facts(header: str, *, name: str) -> Facts:
    try:
        found = Facts(**json.loads(header))
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"weights {name!r} have no readable facts: {reason(error)}") from error
    for key, value in asdict(found).items():
        kind = dict if key in ("architecture", "recipe", "scores") else str
        if not isinstance(value, kind):
            raise RequestError(f"weights {name!r} have no readable facts: {key} is no {_IN_WORDS[kind]}")
    return found


_IN_WORDS: dict[type, str] = {dict: "mapping", str: "text"}


@contextmanager
def _at_most_parameters(count: int) -> Iterator[None]:
    """Raises `ValueError` inside as soon as a network has more parameters than `count`."""
    left = count

    def counted(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it has more layers than the {count} tensors of the file are enough for")

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not" if shape is None else "x".join(map(str, shape)) or "one number"


def _folder() -> Path:
    return Path(str(resources.files("comdefend") / "weights"))


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RequestError(f"weights {str(path)!r} cannot be read: {error}") from error
