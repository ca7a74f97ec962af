"""How faithfully a purifier gives back clean images: PSNR over a data set, with its interval."""

from dataclasses import dataclass

import torch

from comdefend.data import ImageSet
from comdefend.device import device_of
from comdefend.evaluation.results import Z95
from comdefend.image import psnr
from comdefend.purifiers import Purifier


@dataclass(frozen=True)
class Reconstruction:
    """Mean over `images` images of each one's PSNR in dB, with the 95 % interval of that mean."""

    psnr: float
    interval: tuple[float, float]
    images: int


def reconstruction(purifier: Purifier, data: ImageSet, *, batch: int = 100) -> Reconstruction:
    """The mean PSNR in dB of purified clean images, `batch` at a time, with its 95 % interval; grey or in
    colour as the purifier takes them. Raises `DifferentSizesError` where they are not of one size.
    """
    values = []
    device = device_of(purifier)
    for start in range(0, len(data), batch):
        rows = range(start, min(start + batch, len(data)))
        images = data.images(rows, channels=purifier.image_channels)
        with torch.no_grad():
            purified = purifier(images.to(device)).cpu()
        values.append(psnr(purified, images))
    found = torch.cat(values)
    mean = float(found.mean())
    spread = Z95 * float(found.std()) / len(found) ** 0.5 if len(found) > 1 else 0.0
    return Reconstruction(mean, (mean - spread, mean + spread), len(found))
