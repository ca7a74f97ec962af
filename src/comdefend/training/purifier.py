"""Training ComDefend, as in section 4.1 of the paper."""

from pathlib import Path
from typing import Any

from torch import Tensor

from comdefend.data import ImageSet
from comdefend.image import code_picture, picture_grid, psnr
from comdefend.model import ComDefend, channels_last, comdefend_loss, initialise
from comdefend.training.base import Training
from comdefend.training.recipe import Recipe


class PurifierTraining(Training):
    """ComDefend under the loss of Eq. 3, validated by the PSNR of its hard code."""

    network: ComDefend
    score_name, unit = "psnr", "dB"

    def __init__(self, recipe: Recipe, data: ImageSet, validation: ImageSet, *, grids: Path) -> None:
        channels = recipe.purifier.image_channels or data.channels
        super().__init__(recipe, data, validation, channels)
        self.network = ComDefend(recipe.purifier.config(channels), gain=recipe.purifier.gain)
        initialise(self.network, seed=recipe.seed)
        channels_last(self.network)
        self.grids = grids

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, _ = comdefend_loss(self.network, batch[0], generator=self.random())
        self.stop_on_nan(loss.total)
        self.log_dict({"loss": loss.total, "mse": loss.reconstruction, "ones": loss.sparsity})
        return loss.total

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images = batch[0]
        code = self.network.compress(images)
        purified = self.network.decompress(code).float()
        self.report(psnr(purified, images).mean())
        if batch_idx == 0 and self.global_rank == 0 and not self.trainer.sanity_checking:
            self._draw(images[:8], code[:8], purified[:8])

    def _draw(self, images: Tensor, code: Tensor, purified: Tensor) -> None:
        grid = picture_grid([images, code_picture(code), purified], scale=3)
        self.grids.mkdir(parents=True, exist_ok=True)
        grid.save(self.grids / f"step-{self.global_step:06d}.png")

    def architecture(self) -> dict[str, Any]:
        return self.network.config.to_dict()

    def finish(self) -> None:
        self.network.com.fold_gain()
