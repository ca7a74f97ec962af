"""What is finished and need not run again: results and checks by key, and batches of the attack under way.

A key is a hash of the scenario, of the weights of classifier and defence, of the images, and of `FORMAT`. It
holds no names of classes and no settings' order, so a change of code that changes no number costs nobody
their results; one that does raises `FORMAT`.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from comdefend.atomic import replacing
from comdefend.errors import RequestError
from comdefend.evaluation.results import Check, Result, read_checks, read_records, read_results
from comdefend.factory import INSTALLED
from comdefend.purifiers import Purifier, Wrapped, is_ours
from comdefend.seeding import drawn_from

FORMAT = 3
"""Raised when a change of code changes what an attack finds, a defence makes, or a judge counts."""

RESULTS, CHECKS = "results.json", "checks.json"
"""Of a finished evaluation, in its folder."""

FINISHED, BATCHES = "finished.jsonl", "batches"
"""Of one that is under way: a record a line, and the folder of adversarial images."""

ANEW = '{"anew":true}'
"""The first line of records that replace the evaluation beside them, when they are complete."""

MIN_SECONDS = 10.0
"""Seconds that a batch must have taken to be kept. The others are made anew in no time."""

_KNOWN = (str(Path(__file__).parents[1]), *INSTALLED)
"""Folders whose code is not somebody's own."""


@dataclass(frozen=True)
class Made:
    """What an attack made of a batch, N x C x H x W in [0, 1], in how many seconds, and what it warned of."""

    images: Tensor
    seconds: float
    flags: tuple[str, ...] = ()


class Store:
    """Finished results and checks of one evaluation, kept in a folder, or without one in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.replaces = False
        """Whether it was begun to replace the evaluation that the folder holds."""
        self._results: dict[str, Result] = {}
        self._checks: dict[str, dict[str, Check]] = {}
        self._anew = False  # whether what the folder holds counts no longer, once a record is kept
        if folder is None:
            return
        kept = folder / FINISHED
        self.replaces = kept.is_file() and kept.read_bytes().startswith(ANEW.encode())
        for path, read in ((folder / RESULTS, read_results), (folder / CHECKS, read_checks)):
            if path.is_file() and not self.replaces:
                for record in read(path):
                    self._add(record)
        for record in read_records(kept, skip=ANEW):
            self._add(record)

    @classmethod
    def of_folder(cls, folder: Path, *, resume: bool, overwrite: bool) -> "Store":
        """The store of an output folder. Raises `RequestError` where it holds an evaluation and nobody said
        whether to go on with it (`resume`) or to begin anew (`overwrite`).
        """
        if resume and overwrite:
            raise RequestError(
                "--resume goes on with an evaluation and --overwrite begins anew: give one of them"
            )
        if not (resume or overwrite) and any((folder / name).is_file() for name in (RESULTS, FINISHED)):
            raise RequestError(
                f"output {str(folder)!r} holds an evaluation: --resume goes on with it, --overwrite begins "
                "anew"
            )
        if resume:
            return cls(folder)
        empty = cls()
        empty.folder, empty._anew, empty.replaces = folder, True, True
        return empty

    def know(self, results: Iterable[Result]) -> None:
        """Take results that were finished elsewhere; they are not kept here."""
        for result in results:
            self._add(result)

    def __len__(self) -> int:
        return len(self._results)

    def result(self, key: str) -> Result | None:
        return self._results.get(key)

    def keys(self) -> set[str]:
        """The keys of all finished results."""
        return set(self._results)

    def results(self) -> list[Result]:
        """All finished results, without the worst cases, which follow from them."""
        return list(self._results.values())

    def checks(self, key: str) -> list[Check]:
        """The lines of one check, in their order."""
        return list(self._checks.get(key, {}).values())

    def keep(self, records: Iterable[Result | Check]) -> None:
        """Keep finished records; an interruption at any time loses no earlier one."""
        lines = []
        for record in records:
            self._add(record)
            kind = "result" if isinstance(record, Result) else "check"
            lines.append(json.dumps({kind: asdict(record)}) + "\n")
        if self.folder is not None and lines:
            if self._anew:
                self.clear()
                lines.insert(0, ANEW + "\n")
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / FINISHED).open("a") as file:
                file.write("".join(lines))

    def batches(self, key: str) -> "Batches | None":
        """Where adversarial images of one attack are kept; None in memory."""
        return None if self.folder is None else Batches(self.folder / BATCHES, key)

    def clear(self) -> None:
        """Remove what is only for going on: everything is done, and written elsewhere."""
        self._anew = False
        if self.folder is not None:
            (self.folder / FINISHED).unlink(missing_ok=True)
            _remove(self.folder / BATCHES, "[0-9a-f]" * 16)
            with suppress(OSError):  # where nothing else lies in it
                self.folder.rmdir()

    def _add(self, record: Result | Check) -> None:
        if not record.fingerprint:
            return
        if isinstance(record, Result):
            self._results[record.fingerprint] = record
        else:
            self._checks.setdefault(record.fingerprint, {})[record.name] = record


class Batches:
    """Adversarial images of one attack: safetensors, named by its key and the place of their first image."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def made(self, start: int, like: Tensor) -> Made | None:
        """A batch that was kept, on the device of the images `like` that it was made of; None where there is
        none, or none of their shape.
        """
        try:
            with safe_open(self._file(start), "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                made = Made(file.get_tensor("images"), float(facts["seconds"]), tuple(facts["flags"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None  # what somebody damaged is made again
        if made.images.shape != like.shape or made.images.dtype != like.dtype:
            return None
        return replace(made, images=made.images.to(like.device))

    def keep(self, start: int, made: Made) -> None:
        """Keep a batch that is worth it."""
        if made.seconds < MIN_SECONDS:
            return
        facts = json.dumps({"seconds": made.seconds, "flags": made.flags})
        with replacing(self._file(start)) as temporary:
            save_file({"images": made.images.cpu().contiguous()}, temporary, {"facts": facts})

    def forget(self, *, but_first: bool = False) -> None:
        """Remove all, or all but the first, of which a picture may be drawn: the attack is done."""
        _remove(self.folder, self.key, but=self._file(0) if but_first else None)

    def _file(self, start: int) -> Path:
        return self.folder / f"{self.key}-{start}.safetensors"


def _remove(folder: Path, keys: str, *, but: Path | None = None) -> None:
    for file in folder.glob(f"{keys}-*.safetensors"):
        if file != but:
            file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def key_of(depends: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of all that a number depends on, by name."""
    return hashlib.sha256(json.dumps({**depends, "format": FORMAT}, sort_keys=True).encode()).hexdigest()[:16]


def digest(network: nn.Module) -> str:
    """Sixteen hexadecimal digits of a network's weights and buffers, and of the files that somebody else's
    modules in it were written in.
    """
    found = hashlib.sha256()
    for file in sorted(_sources(network)):
        found.update(Path(file).read_bytes())
    for name, tensor in sorted({**dict(network.named_buffers()), **network.state_dict()}.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def identity(module: nn.Module, images: Tensor) -> list[Any]:
    """What tells a classifier or a defence from any other: its weights, the settings of a purifier, and of
    all but our own purifiers what it answers to a few images, since it may hold what no hash sees.
    """
    found: list[Any] = [digest(module)]
    if isinstance(module, Purifier):
        found.append(module.settings())
    if not (isinstance(module, Purifier) and is_ours(module)):
        found.append(_answers(module, images))
    return found


def _answers(network: nn.Module, images: Tensor) -> str:
    """A hash of what a network makes of images, to the third digit."""
    with drawn_from(0), torch.no_grad():
        found = network(images.clone()).float().cpu()
    scale = found.abs().max().clamp_min(1e-12)
    return hashlib.sha256((found / scale * 1000).round().int().numpy().tobytes()).hexdigest()[:16]


def _sources(network: nn.Module) -> set[str]:
    """The files of the functions of a network's modules, but for this package's and installed ones."""
    kinds = {kind for module in network.modules() for kind in type(module).__mro__}
    members = [member for kind in kinds for member in vars(kind).values()]
    members += [module.function for module in network.modules() if isinstance(module, Wrapped)]
    code = (getattr(getattr(member, "__func__", member), "__code__", None) for member in members)
    own = _of_somebody({found.co_filename for found in code if found is not None})
    # What they import from beside them may matter to a gradient and not to an answer.
    folders = tuple(f"{Path(file).resolve().parent}/" for file in own)
    loaded = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    return own | _of_somebody({file for file in loaded if file.startswith(folders)})


def _of_somebody(files: Iterable[str]) -> set[str]:
    """Those that are there, and neither this package's nor installed."""
    return {file for file in files if not file.startswith(_KNOWN) and Path(file).is_file()}
