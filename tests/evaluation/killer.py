"""Defences that only look strong, and one that means well: to see that an evaluation is not fooled."""

import numpy as np
import torch
from torch import Tensor, nn

from comdefend.purifiers import Purifier
from comdefend.purifiers.base import with_gradient_of


class GradientKiller(Purifier):
    """Does nothing but cut the gradient off."""

    def purify(self, images: Tensor) -> Tensor:
        return images.detach().clone()


class SecretlyRandom(Purifier):
    """Adds noise and does not say so."""

    gradient_modes = ("autograd",)

    def purify(self, images: Tensor) -> Tensor:
        return (images + 0.05 * torch.randn_like(images)).clamp(0, 1)


class RandomOffTheGrid(Purifier):
    """Adds noise, and says so nowhere, to images that no file of 8 bits gives: to attacked ones."""

    gradient_modes = ("autograd",)

    def purify(self, images: Tensor) -> Tensor:
        levels = images * 255
        off = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(1)[:, None, None, None]
        return (images + off * 0.05 * torch.randn_like(images)).clamp(0, 1)


class Misleading(Purifier):
    """Does nothing, turns most of its gradient the wrong way, and declares that gradient alone."""

    gradient_modes = ("autograd",)

    def purify(self, images: Tensor) -> Tensor:
        signs = torch.randint(0, 2, images.shape[1:], generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        return with_gradient_of(images, images * signs)


class FalselyRandom(Purifier):
    """Does nothing, and says that it is random."""

    stochastic = True

    def purify(self, images: Tensor) -> Tensor:
        return images


class Decoy(Purifier):
    """Rounds to eight levels, and offers a gradient mode that attacks something else."""

    gradient_modes = ("soft",)

    def purify(self, images: Tensor) -> Tensor:
        return (images * 7).round() / 7

    def through(self, images: Tensor, mode: str) -> Tensor:
        return images if mode == "soft" else super().through(images, mode)


class HardlyRandom(Purifier):
    """Claims to be random for the sake of a noise that changes nothing."""

    stochastic = True
    gradient_modes = ("autograd",)

    def purify(self, images: Tensor) -> Tensor:
        return (images + 1e-7 * torch.randn_like(images)).clamp(0, 1)


class Turned(Purifier):
    """Turns images upside down, which the declared gradient does not know of. With `seed` it seeds torch's
    generator in passing.
    """

    gradient_modes = ("identity",)

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed = seed

    def purify(self, images: Tensor) -> Tensor:
        if self.seed is not None:
            torch.manual_seed(self.seed)
        return images.detach().flip(2, 3)


class SeededRandom(Purifier):
    """Random, as it says, but always with the same numbers, and different ones in half of a batch."""

    stochastic = True
    gradient_modes = ("autograd",)

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def purify(self, images: Tensor) -> Tensor:
        torch.manual_seed(0)
        self.calls += 1
        return (images + 0.1 * (self.calls % 7 - 3) * torch.rand_like(images)).clamp(0, 1)


class NumpyRandom(Purifier):
    """Adds noise, as it says, drawn by NumPy or by a generator of its own."""

    stochastic = True
    gradient_modes = ("autograd",)

    def __init__(self, *, own: bool = False) -> None:
        super().__init__()
        self.draw = np.random.default_rng(0).normal if own else np.random.normal

    def purify(self, images: Tensor) -> Tensor:
        return (images + torch.from_numpy(self.draw(0, 0.05, images.shape)).to(images)).clamp(0, 1)


class Remembering(Purifier):
    """Keeps the images it sees, and gives back the nearest of them where one is near."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def purify(self, images: Tensor) -> Tensor:
        return torch.stack([self._nearest(image) for image in images.detach()])

    def _nearest(self, image: Tensor) -> Tensor:
        for known in self.seen:
            if float((known - image).abs().max()) < 10 / 255:
                return known
        self.seen.append(image.clone())
        return image


class Averaging(Purifier):
    """Moves every image towards the mean of those that come with it."""

    gradient_modes = ("autograd",)

    def purify(self, images: Tensor) -> Tensor:
        return images.lerp(images.mean(0, keepdim=True), 0.3)


class NoNumber(Purifier):
    """Does nothing, and has no number for a gradient."""

    gradient_modes = ("autograd",)

    def purify(self, images: Tensor) -> Tensor:
        return with_gradient_of(images, images * torch.inf * 0)


class WrongBehind(nn.Module):
    """A classifier whose logits pass through something that turns their gradient the wrong way."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return with_gradient_of(logits, 0 * logits + torch.sin(1e4 * images).sum((1, 2, 3))[:, None])


def make_killer() -> Purifier:
    return GradientKiller()
