"""Training ComDefend, as in section 4.1 of the paper; and what a purifier may be taught beside it.

Not the paper's: noise on the images that are compressed, and guidance by classifiers (by their logits as
HGD, Liao et al., 2018, and by their features), so that what a code of few bits keeps is what classifiers
look at. All of it needs clean images only.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comdefend.data import ImageSet
from comdefend.image import code_picture, picture_grid, psnr
from comdefend.model import ComDefend, channels_last, comdefend_loss, initialise
from comdefend.training.base import Training
from comdefend.training.guides import Guide
from comdefend.training.recipe import Recipe


class PurifierTraining(Training):
    """ComDefend under the loss of Eq. 3, validated by the PSNR of its binary code."""

    network: ComDefend
    kind = "purifier"
    score_name, unit = "psnr", "dB"

    def __init__(self, recipe: Recipe, data: ImageSet, validation: ImageSet, *, grids: Path) -> None:
        channels = recipe.purifier.image_channels or data.channels
        super().__init__(recipe, data, validation, channels)
        self.network = ComDefend(recipe.purifier.config(channels), gain=recipe.purifier.gain)
        initialise(self.network, seed=recipe.seed)
        channels_last(self.network)
        self.grids = grids
        features = recipe.purifier.matching > 0
        self.guides = [
            Guide(reference, data, channels=channels, features=features)
            for reference in recipe.purifier.guides
        ]
        self.flip = bool(self.guides)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images = batch[0]
        random = self.random()
        options = self.recipe.purifier
        most, octaves = options.noise / 255, options.noise_octaves
        inputs = with_noise(images, most, octaves=octaves, generator=random)
        loss, purified = comdefend_loss(self.network, images, inputs=inputs, generator=random)
        total = loss.total
        parts = {"mse": loss.reconstruction, "ones": loss.sparsity}
        if self.guides:
            parts["guidance"], parts["matching"] = self._apart(images, purified, random)
            total = total + options.guidance * parts["guidance"] + options.matching * parts["matching"]
        self.stop_on_nan(total)
        self.log_dict({"loss": total, **parts})
        return total

    def _apart(self, images: Tensor, purified: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """What one guide, each in its turn, sees between images and purified ones, both under one noise."""
        guide = self.guides[self.global_step % len(self.guides)]
        if most := self.recipe.purifier.guide_noise / 255:
            sizes = torch.rand((len(images), 1, 1, 1), generator=random, device=images.device)
            noise = most * sizes * torch.randn(images.shape, generator=random, device=images.device)
            images, purified = images + noise, purified + noise
        return guide.apart(images, purified)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images = batch[0]
        code = self.network.compress(images)
        purified = self.network.decompress(code, images).float()
        self.report(psnr(purified, images).mean())
        if batch_idx == 0 and self.global_rank == 0 and not self.trainer.sanity_checking:
            self._draw(images[:8], code[:8], purified[:8])

    def _draw(self, images: Tensor, code: Tensor, purified: Tensor) -> None:
        drawn = code_picture(code, block=self.network.config.block)
        drawn = drawn[..., : images.shape[2], : images.shape[3]]
        grid = picture_grid([images, drawn, purified], scale=3)
        self.grids.mkdir(parents=True, exist_ok=True)
        grid.save(self.grids / f"step-{self.global_step:06d}.png")

    def architecture(self) -> dict[str, Any]:
        return asdict(self.network.config)

    def trained(self) -> nn.Module:
        self.network.com.fold_gain()
        return self.network


def with_noise(images: Tensor, most: float, *, generator: torch.Generator, octaves: int = 0) -> Tensor:
    """Images with noise of a size of their own, uniform up to `most`: each value that much up or down.

    Of all noise within a budget this moves every value farthest, as the one-step attacks do. With `octaves`
    neighbours and colours go the same way more often than by chance, as they do in adversarial perturbations:
    see `_correlated`.
    """
    if not most:
        return images
    sizes = torch.rand((len(images), 1, 1, 1), generator=generator, device=images.device)
    if octaves:
        signs = _correlated(images, octaves, generator).sign()
    else:
        signs = torch.randint(0, 2, images.shape, generator=generator, device=images.device) * 2 - 1
    return (images + most * sizes * signs).clamp(0, 1)


def _correlated(images: Tensor, octaves: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise in the shape of `images`: values by themselves, coarser ones drawn at a half of the
    resolution, a quarter and so on for so many octaves, and a part that all colours share. How much of each
    coarser one, and how large that part is, is drawn for every image.
    """
    count, channels, height, width = images.shape

    def drawn(channels: int, height: int, width: int) -> Tensor:
        shape = (count, channels, height, width)
        return torch.randn(shape, generator=generator, device=images.device)

    def share() -> Tensor:
        return torch.rand((count, 1, 1, 1), generator=generator, device=images.device)

    noise = drawn(channels, height, width)
    for octave in range(1, octaves + 1):
        coarse = drawn(channels, -(-height // 2**octave), -(-width // 2**octave))
        smooth = functional.interpolate(coarse, size=(height, width), mode="bilinear")
        # On images so small that there is one coarse value, it has no deviation.
        noise = noise + share() * smooth / smooth.std().clamp(min=1e-3)
    common = noise.mean(1, keepdim=True) * channels**0.5
    part = share()
    mixed: Tensor = (1 - part) * noise + part * common
    return mixed
