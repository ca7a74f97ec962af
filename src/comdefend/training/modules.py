"""What Lightning drives: one module for purifiers and one for classifiers, over a common base."""

from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from comdefend.classifiers import build_classifier
from comdefend.data import ImageSet
from comdefend.errors import WorkError
from comdefend.image import code_picture, picture_grid, psnr
from comdefend.model import ComDefend, channels_last, comdefend_loss, initialise
from comdefend.training.batches import Batches, seeded
from comdefend.training.optimisers import make_optimiser, schedule_factor
from comdefend.training.recipe import Recipe

VALIDATION_SIDE = 128
"""Validation images larger than this are cut to their middle."""


class Training(lightning.LightningModule):
    """What both kinds of training share: batches, optimiser, schedule, the check for NaN.

    One Lightning epoch is one interval of the recipe. Every random choice is drawn from (seed,
    step), and checkpoints lie between intervals, so a resumed run takes the path of an unbroken one.
    """

    network: nn.Module
    score_name: str

    def __init__(self, recipe: Recipe, data: ImageSet, validation: ImageSet, channels: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.data = data
        self.validation = validation
        self.channels = channels
        self.total_steps = recipe.total_steps(len(data))
        self._batches: Batches | None = None

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        if self._batches is None:
            options = self.recipe.classifier
            classifier = self.recipe.trains == "classifier"
            self._batches = Batches(
                self.data,
                batch=self.recipe.batch,
                seed=self.recipe.seed,
                channels=self.channels,
                crop=self.recipe.crop,
                shift=options.shift if classifier else 0,
                flip=options.flip if classifier else False,
                rank=self.trainer.global_rank,
                world=self.trainer.world_size,
            )
        start = self.global_step
        stop = min(start + self.recipe.interval, self.total_steps)
        return DataLoader(self._batches.between(start, stop), batch_size=None)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        images = central_pixels(self.validation, channels=self.channels)
        has_labels = self.validation.has_labels
        labels = self.validation.labels() if has_labels else torch.zeros(len(images))
        dataset = torch.utils.data.TensorDataset(images, labels)
        # Whole images of 32x32 go a hundred at a time, larger ones fewer.
        batch = max(1, 100 * 32**2 // (images.shape[2] * images.shape[3]))
        return DataLoader(dataset, batch_size=batch)

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


def central_pixels(data: ImageSet, *, channels: int) -> Tensor:
    """Images as one uint8 tensor: whole where they are small and of one size, else their middles."""
    arrays = [data.array(index, channels=channels) for index in range(len(data))]
    height, width = (min(VALIDATION_SIDE, *(a.shape[axis] for a in arrays)) for axis in (0, 1))
    middles = []
    for array in arrays:
        top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
        middles.append(torch.from_numpy(array[top : top + height, left : left + width].copy()))
    return torch.stack(middles).permute(0, 3, 1, 2).contiguous()


class PurifierTraining(Training):
    """ComDefend under the loss of Eq. 3, validated by the PSNR of its hard code."""

    network: ComDefend
    score_name = "psnr"

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


class ClassifierTraining(Training):
    """A classifier under cross-entropy, validated by its accuracy."""

    score_name = "accuracy"

    def __init__(self, recipe: Recipe, data: ImageSet, validation: ImageSet) -> None:
        super().__init__(recipe, data, validation, data.channels)
        self.labels = data.labels()
        self.network = build_classifier(
            recipe.classifier.architecture,
            channels=data.channels,
            classes=int(self.labels.max()) + 1,
            seed=recipe.seed,
        )
        channels_last(self.network)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        options = self.recipe.classifier
        if options.cutout:
            images = cutout(images, options.cutout, self.random())
        loss = functional.cross_entropy(self.network(images), labels, label_smoothing=options.label_smoothing)
        self.stop_on_nan(loss)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.report((self.network(images).argmax(1) == labels).float().mean())


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A grey square of `side` pixels at a random place of each image (DeVries & Taylor, 2017)."""
    count, _, height, width = images.shape

    def covered(length: int) -> Tensor:
        centre = torch.randint(0, length, (count, 1), generator=generator, device=images.device)
        offset = torch.arange(length, device=images.device) - centre + side // 2
        return (offset >= 0) & (offset < side)

    hidden = (covered(height)[:, :, None] & covered(width)[:, None, :])[:, None]
    return images.masked_fill(hidden, 0.5)
