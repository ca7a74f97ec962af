"""Trained classifiers that tell a purifier's training what an image must keep."""

import torch
from torch import Tensor, nn

from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import ImageSet


class Guide:
    """A classifier, by reference, that is shown an image and its purified form.

    Neither trained nor part of what is trained. What it makes of images are its logits, and its features:
    what each of its convolutions gives, as in the perceptual losses of Johnson et al., 2016, section 3.2.
    Without `features` these are not looked at: they cost memory and time in every step.

    Raises `RequestError` where it does not take images such as those of `data` with `channels` channels.
    """

    def __init__(self, reference: str, data: ImageSet, *, channels: int, features: bool = True) -> None:
        self.classifier = load_classifier(reference).requires_grad_(False)
        first = data.images(range(min(2, len(data))), channels=channels)
        check_classifier(self.classifier, first, torch.zeros(2), name=reference)
        self._features: list[Tensor] = []
        for module in self.classifier.modules() if features else ():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(self._keep)

    def apart(self, images: Tensor, purified: Tensor) -> tuple[Tensor, Tensor]:
        """How far logits and features of `purified` are from those of `images`, in relation to these.

        Mean absolute differences, each divided by the mean absolute value at the images; of the features
        the mean over convolutions (0 where there is none). Gradients flow to `purified` alone.
        """
        self.classifier.to(images.device)
        with torch.no_grad():
            wanted_logits, wanted_features = self._seen(images)
        logits, features = self._seen(purified.to(images.dtype))
        distances = [_distance(a, b) for a, b in zip(features, wanted_features, strict=True)]
        matching = torch.stack(distances).mean() if distances else logits.new_zeros(())
        return _distance(logits, wanted_logits), matching

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._features.append(output)

    def _seen(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        self._features = []
        logits: Tensor = self.classifier(images)
        features, self._features = self._features, []  # else the last graph would live until the next step
        return logits, features


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    # In half precision small differences of logits are lost.
    return (found.float() - wanted.float()).abs().mean() / wanted.float().abs().mean()
