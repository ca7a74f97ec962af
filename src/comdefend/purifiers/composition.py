"""Purifiers put together: none at all, one after another, and in front of a classifier."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from comdefend.errors import RequestError
from comdefend.purifiers.base import Purifier


class Identity(Purifier):
    """No defence: the images as they came."""

    def purify(self, images: Tensor) -> Tensor:
        return images


class Chain(Purifier):
    """Purifiers one after another: the output of each is the input of the next."""

    def __init__(self, purifiers: Sequence[Purifier]) -> None:
        super().__init__()
        if not purifiers:
            raise RequestError("a chain needs at least one purifier")
        self.purifiers = nn.ModuleList(purifiers)
        self.stochastic = any(p.stochastic for p in purifiers)
        self.image_channels = next((p.image_channels for p in purifiers if p.image_channels), None)

    def purify(self, images: Tensor) -> Tensor:
        for purifier in self.purifiers:
            images = purifier(images)
        return images

    def settings(self) -> dict[str, Any]:
        parts = [p for p in self.purifiers if isinstance(p, Purifier)]
        return {f"{index} {type(p).__name__}": p.settings() for index, p in enumerate(parts)}

    def surrogate(self, images: Tensor) -> Tensor:
        for purifier in self.purifiers:
            assert isinstance(purifier, Purifier)
            images = purifier.surrogate(images)
        return images


class Defended(nn.Module):
    """A classifier that sees purified images: `classifier(purifier(images))`."""

    def __init__(self, classifier: nn.Module, purifier: nn.Module) -> None:
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.purifier(images))
        return logits


def defend(classifier: nn.Module, purifier: nn.Module) -> Defended:
    """Put a purifier in front of a classifier; neither is changed.

    The classifier takes images in [0, 1], N x C x H x W, and normalises inside: the purifier must
    see them before normalisation.
    """
    return Defended(classifier, purifier)
