"""Adversarial images of the attack that is under way, batch by batch: interrupted, it loses one of them."""

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
    """A folder of them: safetensors, each named by the fingerprint of what was attacked, as that of a
    `Result`, and by the place of its first image.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def made(self, fingerprint: str, start: int, like: Tensor) -> Made | None:
        """A batch that was kept, on the device of the images `like` that it was made of; None where there is
        none, or none of their shape.
        """
        try:
            with safe_open(self._file(fingerprint, start), "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                made = Made(file.get_tensor("images"), float(facts["seconds"]), tuple(facts["flags"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None  # what somebody damaged is made again
        if made.images.shape != like.shape or made.images.dtype != like.dtype:
            return None
        return replace(made, images=made.images.to(like.device))

    def keep(self, fingerprint: str, start: int, made: Made) -> None:
        """Keep a batch that is worth it."""
        if made.seconds < WORTH:
            return
        facts = json.dumps({"seconds": made.seconds, "flags": made.flags})
        with replacing(self._file(fingerprint, start)) as temporary:
            save_file({"images": made.images.cpu().contiguous()}, temporary, {"facts": facts})

    def forget(self, fingerprint: str) -> None:
        """Remove those of one attack, which is done, and the folder with the last of them."""
        self._remove(f"{fingerprint}-*.safetensors")

    def clear(self) -> None:
        """Remove all, those of attacks that were never finished, too, and nothing of anybody else's."""
        self._remove(f"{'[0-9a-f]' * 16}-*.safetensors")

    def _remove(self, pattern: str) -> None:
        for file in self.folder.glob(pattern):
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _file(self, fingerprint: str, start: int) -> Path:
        return self.folder / f"{fingerprint}-{start}.safetensors"
