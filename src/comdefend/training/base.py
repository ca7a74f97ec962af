"""What every training shares: batches, optimiser, schedule, scores, the check for NaN."""

from abc import abstractmethod
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from comdefend.data import ImageSet
from comdefend.errors import WorkError
from comdefend.training.batches import Batches, check_batch, seeded
from comdefend.training.optimisers import make_optimiser, schedule_factor
from comdefend.training.recipe import Recipe
from comdefend.zoo import Kind

VALIDATION_SIDE = 128
"""Validation images larger than this, and than the crop of the recipe, are cut to their middle."""


class Training(lightning.LightningModule):
    """The base of one file for each thing that is trained.

    One Lightning epoch is one interval of the recipe. Every random choice is drawn from (seed,
    step), and checkpoints lie between intervals, so a resumed run takes the path of an unbroken one.
    """

    network: nn.Module
    kind: Kind
    """What the network is, in the zoo."""
    score_name: str
    """What validation measures, as logs and facts call it."""
    also: tuple[str, ...] = ()
    """What else validation measures, in the same unit."""
    unit: str = ""
    """What follows the score where people read it."""
    shift, flip = 0, False
    """How images are moved and mirrored in training; see `Batches`."""

    def __init__(self, recipe: Recipe, data: ImageSet, validation: ImageSet, channels: int) -> None:
        super().__init__()
        check_batch(recipe.batch, data)
        self.recipe = recipe
        self.data = data
        self.validation = validation
        self.channels = channels
        self.total_steps = recipe.total_steps(len(data))
        self._batches: Batches | None = None

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        if self._batches is None:
            self._batches = Batches(
                self.data,
                batch=self.recipe.batch,
                seed=self.recipe.seed,
                channels=self.channels,
                crop=self.recipe.crop,
                shift=self.shift,
                flip=self.flip,
                rank=self.trainer.global_rank,
                world=self.trainer.world_size,
                pixels=self.training_pixels(),
            )
        start = self.global_step
        stop = min(start + self.recipe.interval, self.total_steps)
        return DataLoader(self._batches.between(start, stop), batch_size=None)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        images = self.validation_pixels()
        has_labels = self.validation.has_labels
        labels = self.validation.labels() if has_labels else torch.zeros(len(images))
        dataset = torch.utils.data.TensorDataset(images, labels)
        # Whole images of 32x32 go a hundred at a time, larger ones fewer.
        batch = max(1, 100 * 32**2 // (images.shape[2] * images.shape[3]))
        return DataLoader(dataset, batch_size=batch)

    def training_pixels(self) -> Tensor | None:
        """All training images, uint8, where they are not those of the data set as they are."""
        return None

    def validation_pixels(self) -> Tensor:
        """All validation images as one uint8 tensor."""
        side = max(VALIDATION_SIDE, self.recipe.crop or 0)
        return central_pixels(self.validation, channels=self.channels, side=side)

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """The arguments that rebuild the network, for the facts."""

    def trained(self) -> nn.Module:
        """The network that is kept, called once after the last step."""
        return self.network

    def judged_on(self) -> dict[str, int]:
        """How many images the scores are of, for the facts."""
        return {"images": len(self.validation)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["recipe"] = self.recipe.to_dict()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        # Bytes cross to the device; floats are made there.
        return (images.float() / 255).to(memory_format=torch.channels_last), labels

    def configure_optimizers(self) -> Any:
        optimiser = make_optimiser(self.network, self.recipe)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, schedule_factor(self.recipe, self.total_steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def random(self) -> torch.Generator:
        """The random numbers of the present step, on the training device."""
        numbers = seeded(self.recipe.seed, 3, self.global_step, self.global_rank)
        if self.device.type == "cpu":
            return numbers
        return torch.Generator(self.device).manual_seed(numbers.initial_seed())

    def stop_on_nan(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise WorkError(
                f"the loss is {loss.item()} at step {self.global_step}: training cannot go on. "
                "Start again in another folder with a lower learning_rate, or set clip"
            )

    def report(self, score: Tensor) -> None:
        self.log(self.score_name, score, on_epoch=True, sync_dist=True)


def central_pixels(data: ImageSet, *, channels: int, side: int = VALIDATION_SIDE) -> Tensor:
    """Images as one uint8 tensor: whole where they are of one size up to `side`, else their middles."""
    arrays = [data.array(index, channels=channels) for index in range(len(data))]
    height, width = (min(side, *(a.shape[axis] for a in arrays)) for axis in (0, 1))
    middles = []
    for array in arrays:
        top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
        middles.append(torch.from_numpy(array[top : top + height, left : left + width].copy()))
    return torch.stack(middles).permute(0, 3, 1, 2).contiguous()
