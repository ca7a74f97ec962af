"""Training the PixelCNN that PixelDefend walks with, on clean images, by likelihood."""

from dataclasses import asdict
from typing import Any

from torch import Tensor

from comdefend.data import ImageSet
from comdefend.model import channels_last
from comdefend.purifiers.pixelcnn import PixelCNN
from comdefend.seeding import drawn_from
from comdefend.training.base import Training
from comdefend.training.recipe import Recipe


class PixelCNNTraining(Training):
    """Maximum likelihood, validated by bits per dimension (less is better)."""

    network: PixelCNN
    kind = "pixelcnn"
    score_name, unit = "bits_per_dimension", "bits"

    def __init__(self, recipe: Recipe, data: ImageSet, validation: ImageSet) -> None:
        super().__init__(recipe, data, validation, data.channels)
        with drawn_from(recipe.seed):
            self.network = PixelCNN(recipe.pixelcnn.config(data.channels))
        channels_last(self.network)

    def architecture(self) -> dict[str, Any]:
        return asdict(self.network.config)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self.network.bits_per_dimension(batch[0]).mean()
        self.stop_on_nan(loss)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.report(self.network.bits_per_dimension(batch[0]).mean())
