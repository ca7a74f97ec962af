"""Adversarial images of the attack that is under way, batch by batch: interrupted, it loses one of them. The
first batch of each attack stays until the evaluation has drawn its pictures.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from comdefend.atomic import replacing

WORTH = 10.0
"""Seconds from which on a batch is kept. The others are made anew in no time."""


@dataclass(frozen=True)
class Made:
    """What an attack made of a batch, N x C x H x W in [0, 1], in how many seconds, and what it warned of."""

    images: Tensor
    seconds: float
    flags: tuple[str, ...] = ()


class Batches:
    """Those of one attack in a folder: safetensors, each named by the `fingerprint` of what was attacked, as
    that of a `Result`, and by the place of its first image.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

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
        if made.seconds < WORTH:
            return
        facts = json.dumps({"seconds": made.seconds, "flags": made.flags})
        with replacing(self._file(start)) as temporary:
            save_file({"images": made.images.cpu().contiguous()}, temporary, {"facts": facts})

    def forget(self, *, but_first: bool = False) -> None:
        """Remove all, or all but the first batch: the attack is done. The folder goes with the last that is
        in it.
        """
        _remove(self.folder, self.fingerprint, but=self._file(0) if but_first else None)

    def _file(self, start: int) -> Path:
        return self.folder / f"{self.fingerprint}-{start}.safetensors"


def forget_all(folder: Path) -> None:
    """Remove the batches of all attacks, of those that were never finished, too, and nothing else."""
    _remove(folder, "[0-9a-f]" * 16)


def _remove(folder: Path, fingerprints: str, *, but: Path | None = None) -> None:
    for file in folder.glob(f"{fingerprints}-*.safetensors"):
        if file != but:
            file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
