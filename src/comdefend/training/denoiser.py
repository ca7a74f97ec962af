"""Training HGD: the denoiser is guided by the logits of the classifier that it will stand before."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from comdefend.attacks import BIM, FGSM
from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import ImageSet
from comdefend.model import channels_last
from comdefend.purifiers.hgd import DUNet
from comdefend.seeding import drawn_from
from comdefend.training.base import Training, central_pixels
from comdefend.training.batches import seeded
from comdefend.training.recipe import Recipe

ATTACKS = (FGSM(), BIM(steps=2, step=0.6), BIM(steps=4, step=0.35))
"""One of these, drawn for each step, makes the images to be denoised."""


class DenoiserTraining(Training):
    """The L1 distance of logits, denoised against clean (LGD, Liao et al., 2018, Eq. 4 at the logits).

    Validated by the accuracy of the classifier on denoised FGSM images at the middle of the budgets.
    """

    network: DUNet
    kind = "denoiser"
    score_name, unit = "accuracy", "%"

    def __init__(self, recipe: Recipe, data: ImageSet, validation: ImageSet) -> None:
        super().__init__(recipe, data, validation, data.channels)
        self.flip = True
        with drawn_from(recipe.seed):
            self.network = DUNet(recipe.denoiser.config(data.channels))
        channels_last(self.network)
        # In a list it is no part of this module: it is not trained and not in the checkpoint.
        self._target: list[nn.Module] = [load_classifier(recipe.denoiser.classifier).requires_grad_(False)]
        side = recipe.crop or max(data.array(0).shape[:2])
        first = data.subset(range(min(2, len(data))))
        seen = central_pixels(first, channels=data.channels, side=side).float() / 255
        check_classifier(self._target[0], seen, data.labels(), name=recipe.denoiser.classifier)

    @property
    def target(self) -> nn.Module:
        return self._target[0].to(self.device)

    def architecture(self) -> dict[str, Any]:
        return asdict(self.network.config)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        draw = seeded(self.recipe.seed, 5, self.global_step)
        attack = ATTACKS[int(torch.randint(len(ATTACKS), (), generator=draw))]
        epsilon = self.recipe.denoiser.epsilon * (1 - 0.9 * float(torch.rand((), generator=draw))) / 255
        attacked = attack(self.target, images, labels, epsilon=epsilon)
        with torch.no_grad():
            wanted = self.target(images)
        # A classifier's logits in half precision are too coarse for their differences.
        found = self.target(self.network(attacked))
        loss: Tensor = (found.float() - wanted.float()).abs().mean()
        self.stop_on_nan(loss)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        attacked = FGSM()(self.target, images, labels, epsilon=self.recipe.denoiser.epsilon / 2 / 255)
        denoised = self.network(attacked).clamp(0, 1)
        self.report((self.target(denoised).argmax(1) == labels).float().mean())
