"""Training classifiers: on clean images, and with the defences that change the training.

Adversarial training (`classifier.adversarial`): with FGSM (Goodfellow et al., "Explaining and harnessing
adversarial examples", 2015) or BIM (Kurakin et al., "Adversarial machine learning at scale", 2017) on half of
every batch, or with PGD on all of it (Madry et al., "Towards deep learning models resistant to adversarial
attacks", 2018). Assumes the norm and the budget of the training. Known breaks: trained with one step, a
network may learn to hide its gradient and fall to several (Tramer et al., 2018; Wong et al., 2020);
trained in one norm, it holds little in another.

Label smoothing (`classifier.label_smoothing`): Szegedy et al., "Rethinking the Inception architecture",
2016; as a defence Warde-Farley & Goodfellow, 2016. Assumes that an attack is led by the size of the
gradient. Known break: it hardly moves the boundary, so iterative attacks find it where it was.

Purified images (`classifier.purifier`): ComDefend "at training and test time" (Jia et al., 2019). Assumes,
as the purifier does, an attacker who does not know it.
"""

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from comdefend import purifiers, zoo
from comdefend.atomic import replacing
from comdefend.attacks import BIM, FGSM, PGD, Attack
from comdefend.classifiers import build_classifier
from comdefend.data import ImageSet
from comdefend.errors import RequestError
from comdefend.model import channels_last
from comdefend.seeding import drawn_from
from comdefend.training.base import Training, central_pixels
from comdefend.training.batches import seeded
from comdefend.training.recipe import Recipe

log = logging.getLogger(__name__)

KEPT_EVERY = 5000
"""Purified images between one saving and the next: a minute or two of a wide purifier on one core."""

HALF_ATTACKED = {"fgsm": FGSM(), "bim": BIM(steps=5, step=0.3)}
"""Attacks of which adversarial training sees half a batch, as their papers do; PGD attacks all of it."""

VALIDATION_ATTACK = PGD(steps=10, step=0.25)
"""What validation attacks with: more steps than training, to see a network that withstands a few
steps only."""

MAX_VALIDATION_ATTACKED = 500
"""So many validation images are attacked, in whole batches."""


class ClassifierTraining(Training):
    """A classifier under cross-entropy, validated by its accuracy.

    With `classifier.purifier` every image, validation images too, is purified once before training.
    With `classifier.adversarial` half of every batch ("fgsm", "bim") or all of it ("pgd") is attacked at the
    network as it stands, and validation also measures the accuracy under `VALIDATION_ATTACK`. With
    `classifier.average` the running mean of the weights is validated and kept. With `classifier.start`
    training continues from those weights: a few epochs make a defended network of a trained one (for
    adversarial training: Jeddi et al., "A simple fine-tuning is all you need", 2020).
    """

    kind = "classifier"
    score_name, unit = "accuracy", "%"

    def __init__(self, recipe: Recipe, data: ImageSet, validation: ImageSet, *, cache: Path) -> None:
        super().__init__(recipe, data, validation, data.channels)
        self.shift, self.flip = recipe.classifier.shift, recipe.classifier.flip
        self.cache = cache
        self.network = new_classifier(recipe, data)
        channels_last(self.network)
        if recipe.classifier.adversarial != "none":
            self.also = ("robust_accuracy",)
        self.averaged: AveragedModel | None = None
        if average := recipe.classifier.average:
            self.averaged = AveragedModel(
                self.network, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True
            )
            self.averaged.requires_grad_(False)  # the optimiser trains the network, the mean follows
        self._attacked_images = 0

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: the mean of the weights where there is one."""
        return self.network if self.averaged is None else self.averaged.module

    def architecture(self) -> dict[str, Any]:
        return classifier_architecture(self.recipe, self.data)

    def training_pixels(self) -> Tensor | None:
        if self.recipe.classifier.purifier == "none":
            return None
        return self._purified(self.data, "train")

    def validation_pixels(self) -> Tensor:
        if self.recipe.classifier.purifier == "none":
            return super().validation_pixels()
        return self._purified(self.validation, "validation")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        options = self.recipe.classifier
        if options.cutout:
            images = cutout(images, options.cutout, self.random())
        if options.adversarial == "pgd":
            attack = PGD(steps=options.pgd_steps, step=1.5 / options.pgd_steps)
            images = self._attack(attack, self.network, images, labels, self.global_step)
        elif options.adversarial != "none":
            half = HALF_ATTACKED[options.adversarial]
            attacked = self._attack(half, self.network, images[::2], labels[::2], self.global_step)
            images = torch.cat([attacked, images[1::2]])
            labels = torch.cat([labels[::2], labels[1::2]])
        loss = functional.cross_entropy(self.network(images), labels, label_smoothing=options.label_smoothing)
        self.stop_on_nan(loss)
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def on_validation_epoch_start(self) -> None:
        self._attacked_images = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.report((self.judged(images).argmax(1) == labels).float().mean())
        if self.also and self._attacked_images < MAX_VALIDATION_ATTACKED:
            self._attacked_images += len(images)
            with torch.inference_mode(False), torch.enable_grad():
                attacked = self._attack(
                    VALIDATION_ATTACK, self.judged, images.clone(), labels.clone(), batch_idx
                )
            right = (self.judged(attacked).argmax(1) == labels).float().mean()
            self.log("robust_accuracy", right, on_epoch=True, sync_dist=True)

    def judged_on(self) -> dict[str, int]:
        images = len(self.validation)
        if not self.also:
            return {"images": images}
        return {"images": images, "robust_images": min(images, self._attacked_images)}

    def trained(self) -> nn.Module:
        return self.judged

    def _attack(
        self, attack: Attack, network: nn.Module, images: Tensor, labels: Tensor, draw: int
    ) -> Tensor:
        """Attacked images; `draw` seeds the random start, with the recipe's seed and the process."""
        epsilon = self.recipe.classifier.epsilon / 255
        # The attack runs in evaluation mode: statistics of its batches must not leak into the kept ones.
        with drawn_from(seeded(self.recipe.seed, 6, draw, self.global_rank).initial_seed()):
            attacked = attack(network, images, labels, epsilon=epsilon)
        return attacked.contiguous(memory_format=torch.channels_last)

    def _purified(self, data: ImageSet, name: str) -> Tensor:
        """All images of `data` through the purifier, uint8; kept in the run's folder as they are made, for
        resuming, under a name that another purifier or other images do not have.
        """
        purifier = purifiers.load(
            self.recipe.classifier.purifier,
            channels=self.channels,
            data=self.recipe.data,
            dtype=self.recipe.precision,
        ).to(self.device)
        pixels = central_pixels(data, channels=self.channels, side=max(data.array(0).shape[:2]))
        depends = [self.recipe.classifier.purifier, purifier.settings(), self.recipe.seed]
        made_of = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
        made_of.update(pixels.numpy().tobytes())
        file = self.cache / f"purified-{name}-{made_of.hexdigest()[:8]}.safetensors"
        if file.is_file():
            return load_file(file)["pixels"]
        log.info("purifying %d images (%s)", len(data), name)
        begun = file.with_suffix(".begun")
        parts = [load_file(begun)["pixels"]] if begun.is_file() else []
        first = done = sum(map(len, parts))
        started = time.monotonic()
        for part in pixels[done:].split(KEPT_EVERY):
            for few in part.split(500):
                with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                    parts.append((purifier(few.to(self.device).float() / 255) * 255).round().byte().cpu())
            done += len(part)
            rate = (done - first) / (time.monotonic() - started)
            left = (len(pixels) - done) / rate
            log.info(
                "purified %d/%d  %.1f images/s  %d:%02d left", done, len(pixels), rate, left // 60, left % 60
            )
            with replacing(file if done == len(pixels) else begun) as temporary:
                save_file({"pixels": torch.cat(parts).contiguous()}, temporary)
        begun.unlink(missing_ok=True)
        return torch.cat(parts).contiguous()


def new_classifier(recipe: Recipe, data: ImageSet) -> nn.Module:
    """The classifier of a recipe, fresh or with the weights that it starts from, ready to be trained.

    Raises `RequestError` where the data's labels or sizes are none to train on.
    """
    labels, side = data.labels(), min(data.array(0).shape[:2])
    if int(labels.min()) < 0:
        raise RequestError(f"data {data.name!r}: a label is {int(labels.min())}; they start at 0")
    if recipe.classifier.shift >= side:
        raise RequestError(f"classifier.shift is {recipe.classifier.shift}; images are {side} pixels wide")
    network = build_classifier(**classifier_architecture(recipe, data), seed=recipe.seed)
    if recipe.classifier.start is not None:
        _, tensors = zoo.read(recipe.classifier.start, kind="classifier")
        zoo.fill(network, tensors, name=recipe.classifier.start)
        network.train().requires_grad_(True)
    return network


def classifier_architecture(recipe: Recipe, data: ImageSet) -> dict[str, Any]:
    """The arguments of `build_classifier` for a recipe's classifier."""
    return {
        "architecture": recipe.classifier.architecture,
        "channels": data.channels,
        "classes": int(data.labels().max()) + 1,
        **recipe.classifier.options(),
    }


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A grey square of `side` pixels at a random place of each image (DeVries & Taylor, 2017)."""
    count, _, height, width = images.shape

    def covered(length: int) -> Tensor:
        centre = torch.randint(0, length, (count, 1), generator=generator, device=images.device)
        offset = torch.arange(length, device=images.device) - centre + side // 2
        return (offset >= 0) & (offset < side)

    hidden = (covered(height)[:, :, None] & covered(width)[:, None, :])[:, None]
    return images.masked_fill(hidden, 0.5)
