"""Seconds for one image: ComDefend, HGD and PixelDefend on the same machine in the same run."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comdefend import provenance
from comdefend.atomic import write_json
from comdefend.model import ComDefend
from comdefend.paper.numbers import PAPER_SECONDS
from comdefend.paper.settings import Grid, Progress, Settings, Shown
from comdefend.paper.trainings import read_content
from comdefend.purifiers import HGD, ComDefendPurifier, PixelDefend, Purifier
from comdefend.purifiers.hgd import DUNet, DUNetConfig
from comdefend.purifiers.pixelcnn import PixelCNN

ORIGINAL_HGD = (64, 128, 256, 256, 256)


def contestants() -> dict[str, Callable[[], Purifier]]:
    """Each as it is used at that size; speed does not depend on what the weights are."""
    return {
        "comdefend": lambda: ComDefendPurifier(ComDefend()),
        "comdefend bfloat16": lambda: ComDefendPurifier(ComDefend(), dtype=torch.bfloat16),
        "hgd": lambda: HGD(DUNet(DUNetConfig(widths=ORIGINAL_HGD))),
        "pixeldefend": lambda: PixelDefend(PixelCNN()),
    }


def speed(
    settings: Settings,
    *,
    output: Path,
    progress: Progress | None = None,
    sizes: Sequence[tuple[int, int]] = ((32, 100), (224, 1)),
) -> Shown:
    """Each purifier on images of each size, `(side, how many at once)`: the best of three runs of each.

    `limit` bounds how many go at once.
    """
    entries: list[dict[str, Any]] = []
    total = len(sizes) * len(contestants())
    for side, count in sizes:
        images = torch.rand(min(count, settings.limit or count), 3, side, side)
        for name, make in contestants().items():
            if progress:
                progress(len(entries), total, f"{name}, {side}x{side}")
            purifier = make().eval().requires_grad_(False).to(settings.device)
            seconds = _best(purifier, images.to(settings.device)) / len(images)
            entries.append({"purifier": name, "side": side, "images": len(images), "seconds": seconds})
    content = {"entries": entries, "seed": settings.seed, **provenance.made()}
    write_json(output / "speed.json", content)
    return show_speed(output / "speed.json")


def show_speed(file: Path) -> Shown:
    """The comparison from its results file."""
    content = read_content(file)
    sides = list(dict.fromkeys(entry["side"] for entry in content["entries"]))
    lines = []
    for name in dict.fromkeys(entry["purifier"] for entry in content["entries"]):
        cells = []
        for side in sides:
            of_side = {e["purifier"]: e["seconds"] for e in content["entries"] if e["side"] == side}
            ratio = of_side[name] / of_side["comdefend"]
            cells.append(f"{1000 * of_side[name]:.1f} ({ratio:.2g} x)")
        paper = PAPER_SECONDS.get(name)
        lines.append([name, *cells, "" if paper is None else f"{1000 * paper:.0f}"])
    headings = ["purifier", *(f"{side}x{side}, ms an image" for side in sides), "paper, ms an image"]
    notes = [
        "Milliseconds for one image, best of three, and in brackets the ratio to ComDefend in float32; HGD "
        "at its original widths. The paper: ImageNet images, one GPU, no more is said.",
    ]
    return Shown("speed", [Grid("Speed", headings, lines)], notes, [file], content)


def _best(purifier: Purifier, images: Tensor) -> float:
    found = []
    for _ in range(3):
        began = time.perf_counter()
        with torch.no_grad():
            purifier(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)
