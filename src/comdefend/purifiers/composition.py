"""Purifiers put together: none at all, one after another, and in front of a classifier."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from comdefend.errors import RequestError
from comdefend.purifiers.base import Purifier, purifiers


@purifiers.register("none")
class Identity(Purifier):
    """No defence: the images as they came."""

    gradient_modes = ("autograd",)

    def purify(self, images: Tensor) -> Tensor:
        return images

    def knows(self, mode: str) -> bool:
        return mode == "autograd"  # where nothing stands, the others are the same


class Chain(Purifier):
    """Purifiers one after another: the output of each is the input of the next."""

    def __init__(self, purifiers: Sequence[Purifier]) -> None:
        super().__init__()
        if not purifiers:
            raise RequestError("a chain needs at least one purifier")
        self.purifiers = nn.ModuleList(purifiers)
        self.stochastic = any(p.stochastic for p in purifiers)
        channels = {p.image_channels for p in purifiers if p.image_channels is not None}
        if len(channels) > 1:
            kinds = " and ".join(map(str, sorted(channels)))
            raise RequestError(f"purifiers for images of {kinds} channels cannot follow one another")
        self.image_channels = channels.pop() if channels else None
        self.gradient_modes = tuple(dict.fromkeys(mode for p in purifiers for mode in p.gradient_modes))

    def purify(self, images: Tensor) -> Tensor:
        for purifier in self.purifiers:
            images = purifier(images)
        return images

    def settings(self) -> dict[str, Any]:
        return {f"{index} {type(p).__name__}": p.settings() for index, p in enumerate(self._parts)}

    def surrogate(self, images: Tensor) -> Tensor:
        for purifier in self._parts:
            images = purifier.surrogate(images)
        return images

    @property
    def has_surrogate(self) -> bool:
        return any(p.has_surrogate for p in self._parts)

    def through(self, images: Tensor, mode: str) -> Tensor:
        """Each in that mode, and those that do not know it in the best of their own. Raises
        `RequestError` for a mode that none of them knows.
        """
        if not self.knows(mode):
            return super().through(images, mode)
        for purifier in self._parts:
            best = (*purifier.gradient_modes, "surrogate")[0]
            images = purifier.through(images, mode if purifier.knows(mode) else best)
        return images

    def knows(self, mode: str) -> bool:
        return any(p.knows(mode) for p in self._parts)

    def beside(self, mode: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(other for p in self._parts for other in p.beside(mode)))

    @property
    def _parts(self) -> list[Purifier]:
        return [p for p in self.purifiers if isinstance(p, Purifier)]


class Defended(nn.Module):
    """A classifier that sees purified images: `classifier(purifier(images))`."""

    def __init__(self, classifier: nn.Module, purifier: nn.Module) -> None:
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.purifier(images))
        return logits
