"""How faithfully a purifier gives back clean images: PSNR over a data set, with its interval."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from comdefend.data import ImageSet
from comdefend.image import psnr
from comdefend.purifiers import Purifier


@dataclass(frozen=True)
class Reconstruction:
    """Mean over `images` images of each one's PSNR in dB, with the 95 % interval of that mean."""

    psnr: float
    interval: tuple[float, float]
    images: int


def reconstruction(
    purifier: Purifier,
    data: ImageSet,
    *,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 100,
    progress: Callable[[int, int, str], None] | None = None,
) -> Reconstruction:
    """The PSNR of purified clean images, `batch` at a time; they must have one size."""
    chosen = data.pick(limit, seed=seed)
    values = []
    for start in range(0, len(chosen), batch):
        if progress:
            progress(start, len(chosen), "reconstruction")
        images = data.images(chosen[start : start + batch], channels=purifier.image_channels)
        with torch.no_grad():
            values.append(psnr(purifier(images), images))
    found = torch.cat(values)
    mean = float(found.mean())
    spread = 1.959964 * float(found.std()) / len(found) ** 0.5 if len(found) > 1 else 0.0
    return Reconstruction(mean, (mean - spread, mean + spread), len(found))
