"""Training a classifier behind a purifier under attack, and, where asked for, both networks together.

Not the paper's. Two uses, told apart by what the attacker of the training knows (`pair.knowledge`):

"gray-box": the classifier alone is attacked and its images are purified afterwards, so that the
classifier learns what is left of a perturbation behind its purifier. Assumes that the attacker does
not know the purifier. Known break: a perturbation that was made with the label tells the label to whoever
can read it (label leaking, Kurakin et al., "Adversarial machine learning at scale", 2017). Both networks
tuned against their own classifier learn to read it within epochs, are righter on attacked images than on
clean ones, and no longer trained against attack; `pair.goal: random` has no label to tell, and with
`pair.sources` there are other networks' perturbations to withstand. The bare classifier's gradient may become
a decoy: attacks on it fail then, and images made on networks trained under attack go through.

"white-box": adversarial training (Madry et al., "Towards deep learning models resistant to adversarial
attacks", 2018) of classifier and purifier as one network, through the hard code; with `steps: 1` the
fast form (Wong et al., "Fast is better than free", 2020). Assumes the norm and budget trained with.
Known break: the fast form may overfit to its single step all at once; validation attacks with several
steps and so would show it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from comdefend.attacks import PGD
from comdefend.attacks.adaptive import AdaptiveView
from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import ImageSet
from comdefend.errors import RequestError
from comdefend.model import channels_last
from comdefend.purifiers import ComDefendPurifier, load_purifier
from comdefend.seeding import drawn_from
from comdefend.training.base import WEIGHTS, Part, Training
from comdefend.training.batches import seeded
from comdefend.training.classifier import classifier_architecture, cutout, new_classifier
from comdefend.training.purifier import with_noise
from comdefend.training.recipe import Recipe

WATCH = PGD(steps=10, step=0.25)
"""What validation attacks with, whatever training does."""

WATCHED = 500
"""As many images as this, in whole batches: attacks take their time."""


class Pair(nn.Module):
    """A classifier, behind the purifier it is trained for; without one (None), alone.

    `mode`: how the purifier passes gradients, see `Purifier.through`.
    """

    def __init__(self, purifier: ComDefendPurifier | None, classifier: nn.Module, *, mode: str) -> None:
        super().__init__()
        self.purifier, self.classifier, self.mode = purifier, classifier, mode

    def forward(self, images: Tensor) -> Tensor:
        """The logits, N x K, of images N x C x H x W in [0, 1]."""
        logits: Tensor = self.classifier(self.purified(images))
        return logits

    def purified(self, images: Tensor) -> Tensor:
        """What the classifier sees, N x C x H x W, passing gradients back in the manner of `mode`."""
        if self.purifier is None:
            return images
        if torch.is_grad_enabled():
            return self.purifier.through(images, self.mode)
        purified: Tensor = self.purifier(images)
        return purified

    def attacked(self, knowledge: str, modes: Sequence[str] = ()) -> list[nn.Module]:
        """What an attacker of that knowledge differentiates: the pair in each of some modes, by default its
        own, or the classifier alone.
        """
        if knowledge == "gray-box" or self.purifier is None:
            return [self.classifier]
        return [AdaptiveView(self.classifier, self.purifier, mode=mode) for mode in modes or (self.mode,)]


class PairTraining(Training):
    """Cross-entropy on attacked and clean images, against the labels and a mean teacher's answers
    (`PairOptions.mean_teacher`), or TRADES' loss (`PairOptions.trades`), and the squared error of
    what the purifier makes of them against the clean ones; validated by accuracy, clean and under `WATCH` on
    all that training attacks, the worst case image by image.
    """

    network: Pair
    kind = "classifier"
    score_name, unit = "accuracy", "%"
    also = ("robust_accuracy",)

    def __init__(self, recipe: Recipe, data: ImageSet, validation: ImageSet) -> None:
        super().__init__(recipe, data, validation, data.channels)
        self.options = recipe.pair
        self.shift, self.flip = recipe.classifier.shift, recipe.classifier.flip
        classifier = new_classifier(recipe, data)
        self.network = Pair(_purifier(recipe, data), classifier, mode=self.options.mode)
        channels_last(self.network)
        # A plain list: what is attacked beside the network is no part of it.
        self.sources = [load_classifier(reference) for reference in self.options.sources]
        self.classes = int(data.labels().max()) + 1
        for reference, source in zip(self.options.sources, self.sources, strict=True):
            first = data.images([0], channels=data.channels)
            check_classifier(source, first, data.labels([0]), name=reference, classes=self.classes)
        self.averaged = (
            AveragedModel(
                self.network, multi_avg_fn=get_ema_multi_avg_fn(self.options.average), use_buffers=True
            )
            if self.options.average
            else None
        )
        self._watched = 0
        if self.averaged is not None:  # followed, not trained
            self.averaged.requires_grad_(False)

    @property
    def judged(self) -> Pair:
        """The network that is validated and kept: with the mean of the weights where there is one."""
        return self.network if self.averaged is None else self.averaged.module  # type: ignore[return-value]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        options, random = self.options, self.random()
        if self.recipe.classifier.cutout:
            images = cutout(images, self.recipe.classifier.cutout, random)
        inputs = with_noise(images, options.noise / 255, generator=random)
        if options.attack != "none":
            many = round(options.share * len(images))
            left = inputs if options.trades else inputs[many:]
            inputs = torch.cat([self._attacked(inputs[:many], labels[:many]), left])
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(options.tuned), self._drawn(8, self.global_step):
            purified = self.network.purified(inputs)
        if options.bare:  # every so many images, of the attacked and the clean ones
            rows = torch.arange(len(images), device=self.device)
            past = (rows * options.bare).floor() != ((rows + 1) * options.bare).floor()
            purified = torch.where(past[:, None, None, None], inputs, purified)
        logits = self.network.classifier(purified)
        if options.trades:
            attacked, logits = logits.float().chunk(2)
        smoothing = self.recipe.classifier.label_smoothing
        loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        parts = {"cross_entropy": loss}
        if options.mean_teacher:
            # Cross-entropy is linear in what is asked for, so a mixture of goals is one of losses.
            parts["taught"] = functional.cross_entropy(logits, self._taught(images))
            loss = loss + options.mean_teacher * (parts["taught"] - loss)
        if options.trades:
            parts["divergence"] = functional.kl_div(
                attacked.log_softmax(1), logits.log_softmax(1), log_target=True, reduction="batchmean"
            )
            loss = loss + options.trades * parts["divergence"]
        if options.fidelity:
            target = torch.cat([images, images]) if options.trades else images
            parts["mse"] = (purified.float() - target).square().mean()
            loss = loss + options.fidelity * parts["mse"]
        self.stop_on_nan(loss)
        self.log_dict({"loss": loss, **parts})
        return loss

    @torch.no_grad()
    def _taught(self, images: Tensor) -> Tensor:
        """What the mean of the weights answers to clean images: N x K, rows summing to 1."""
        self.judged.eval()  # as it will be used: its own statistics follow those of the network
        with self._drawn(10, self.global_step):
            answers: Tensor = self.judged(images).float().softmax(1)
        return answers

    def on_train_batch_end(self, *_: Any) -> None:
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def on_validation_epoch_start(self) -> None:
        self._watched = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        pair = self.judged
        with self._drawn(9, batch_idx):
            self.report((pair(images).argmax(1) == labels).float().mean())
            if self._watched >= WATCHED:
                return
            self._watched += len(images)
            right = torch.ones_like(labels, dtype=torch.bool)
            for target in self._targets(pair):
                with torch.inference_mode(False), torch.enable_grad():
                    attacked = self._attack(WATCH, target, images.clone(), labels.clone(), batch_idx)
                right &= pair(attacked).argmax(1) == labels
        self.log("robust_accuracy", right.float().mean(), on_epoch=True, sync_dist=True)

    def judged_on(self) -> dict[str, int]:
        images = len(self.validation)
        return {"images": images, "robust_images": min(images, self._watched * self.trainer.world_size)}

    def _attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        """Attacked as the recipe wants it, at this step."""
        options = self.options
        attack = PGD(steps=options.steps, step=options.step)
        turns = self._targets(self.network)
        target = turns[self.global_step % len(turns)]
        aims = None
        if options.goal == "random":
            numbers = seeded(self.recipe.seed, 7, self.global_step, self.global_rank)
            aims = torch.randint(self.classes, labels.shape, generator=numbers).to(self.device)
            labels = (aims + 1) % self.classes  # not read by an attack with targets, but they must differ
        return self._attack(attack, target, images, labels, self.global_step, aims)

    def _targets(self, pair: Pair) -> list[nn.Module]:
        """What is attacked: what an attacker sees of the pair, and the other classifiers."""
        own = pair.attacked(self.options.knowledge, self.options.attack_modes)
        return [*own, *(s.to(self.device) for s in self.sources)]

    def _attack(
        self, attack: PGD, target: nn.Module, images: Tensor, labels: Tensor, draw: int,
        aims: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attacked images; `draw` says which of the random starts, besides the seed and the process."""
        with self._drawn(6, draw):
            return attack(target, images, labels, epsilon=self.options.epsilon / 255, targets=aims)

    def _drawn(self, purpose: int, draw: int) -> AbstractContextManager[None]:
        """A stretch in which torch's global numbers, which attacks and noise on the code are drawn from, are
        a function of the seed, as the training's own are, and not of what was drawn before.
        """
        return drawn_from(seeded(self.recipe.seed, purpose, draw, self.global_rank).initial_seed())

    def architecture(self) -> dict[str, Any]:
        return classifier_architecture(self.recipe, self.data)

    def parts(self) -> list[Part]:
        """The classifier, and the purifier where it was trained, too; then they are named `x-resnet9` and
        `x`, whether the recipe is called `x` or `x-resnet9`.
        """
        name, pair, suffix = self.recipe.name, self.judged, f"-{self.recipe.classifier.architecture}"
        found = [Part(WEIGHTS, name, "classifier", pair.classifier, self.architecture())]
        if pair.purifier is not None and self.options.tuned:
            stem, model = name.removesuffix(suffix), pair.purifier.model
            config = replace(model.config, code_noise=pair.purifier.noise)
            found[0] = replace(found[0], name=stem + suffix)
            found.append(Part("purifier", stem, "purifier", model, config.to_dict()))
        return found


def _purifier(recipe: Recipe, data: ImageSet) -> ComDefendPurifier | None:
    """The purifier of a recipe's pair; `RequestError` for one that cannot stand there."""
    options, where = recipe.pair, f"recipe {recipe.name!r}"
    if options.purifier == "none":
        return None
    found = load_purifier(options.purifier, channels=data.channels, data=recipe.data)
    # What its file does not hold would be lost with the trained weights.
    if (
        not isinstance(found, ComDefendPurifier)
        or (found.order, found.dtype) != ("rgb", torch.float32)
        or found.halo < found.model.config.reach
    ):
        raise RequestError(
            f"{where}: pair.purifier is {options.purifier!r}; it must be none or a comdefend of float32, of "
            "order rgb, and with no halo below its networks' reach"
        )
    blind = {"autograd", "identity"} if options.tuned else {"autograd"}
    if options.mode in blind or not found.knows(options.mode):
        raise RequestError(
            f"{where}: pair.mode is {options.mode!r}, which passes no gradient to what is trained; "
            "straight-through, surrogate and tempered-200 (or another number) do"
        )
    for mode in options.attack_modes:
        if mode == "autograd" or not found.knows(mode):
            raise RequestError(f"{where}: pair.attack_modes has {mode!r}, which gives an attack no gradient")
    return found.requires_grad_(options.tuned)
