"""The groups of settings of a recipe, one for each kind of training, and what they accept."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal

from comdefend.model import COM_WIDTHS, REC_WIDTHS, ComDefendConfig
from comdefend.purifiers.hgd import DUNetConfig
from comdefend.purifiers.pixelcnn import PixelCNNConfig


@dataclass(frozen=True)
class PurifierOptions:
    """The purifier that is trained: fields of `ComDefendConfig`, and how training starts."""

    image_channels: int | None = None
    """1 or 3; by default what the data has."""
    bits: int = 12
    phi: float = 20.0
    lam: float = 1e-4
    gain: float = 1.0
    """See `ComCNN`."""
    block: int = 1
    com_widths: tuple[int, ...] = COM_WIDTHS
    rec_widths: tuple[int, ...] = REC_WIDTHS
    noise: float = 0.0
    """Up to so much of it (in units of 1/255, each value up or down, as much in the whole image) is put on
    what is compressed, while the clean image is asked for."""
    noise_octaves: int = 0
    """So many coarser copies of the noise, at 1/2, 1/4, ... of the resolution, are mixed in before its sign
    is taken, and above 0 a part that all colours share: neighbours and colours then move together, as we
    saw them do in perturbations that are made on our classifiers. 0: every value by itself."""
    guides: tuple[str, ...] = ()
    """References of classifiers that shall see in the purified image what they see in the clean one; each
    step asks the next of them."""
    guidance: float = 0.01
    """The weight, beside the loss, of how far their logits are apart."""
    matching: float = 0.0
    """The weight of how far apart their features are: what each of their convolutions gives."""
    guide_noise: float = 0.0
    """Normal noise on both images when guides see them, with a standard deviation of an image's own, uniform
    up to so much (in units of 1/255): what only a classifier without it would see counts less."""

    def config(self, image_channels: int) -> ComDefendConfig:
        return ComDefendConfig(
            image_channels=image_channels if self.image_channels is None else self.image_channels,
            bits=self.bits,
            phi=self.phi,
            lam=self.lam,
            com_widths=self.com_widths,
            rec_widths=self.rec_widths,
            block=self.block,
        )

    def problems(self) -> Iterator[str]:
        if not 0 < self.gain < inf:
            yield f"gain is {self.gain}; it must be positive"
        if not 0 <= self.noise <= 255:
            yield f"noise is {self.noise}; it must be from 0 to 255"
        if not 0 <= self.noise_octaves <= 8:
            yield f"noise_octaves is {self.noise_octaves}; it must be from 0 to 8"
        if self.noise_octaves and not self.noise:
            yield "noise_octaves needs noise"
        if not 0 <= self.guidance < inf:
            yield f"guidance is {self.guidance}; it must be finite and not negative"
        if not 0 <= self.matching < inf:
            yield f"matching is {self.matching}; it must be finite and not negative"
        if not 0 <= self.guide_noise <= 255:
            yield f"guide_noise is {self.guide_noise}; it must be from 0 to 255"
        if (self.matching or self.guide_noise) and not self.guides:
            yield "matching and guide_noise need guides"
        yield from _of_network(self.config)


@dataclass(frozen=True)
class ClassifierOptions:
    """The classifier that is trained, and what is done to its images and labels."""

    architecture: str = "resnet9"
    start: str | None = None
    """Trained weights of the same architecture to begin with, by zoo name or path; otherwise random ones."""
    label_smoothing: float = 0.0
    shift: int = 0
    """Images are moved by up to so many pixels, mirrored at the border."""
    flip: bool = False
    """Mirrored left to right in every second epoch."""
    cutout: int = 0
    """The side of a grey square put at a random place (0: none)."""
    adversarial: Literal["none", "fgsm", "bim", "pgd"] = "none"
    """The attack of the training: on half of every batch ("fgsm", "bim") or on all of it ("pgd")."""
    pgd_steps: int = 2
    """Steps of PGD in training; together they are one and a half times `epsilon` long."""
    average: float = 0.0
    """The decay of a running mean of the weights, which is kept instead of the last ones (0: no mean)."""
    epsilon: float = 8.0
    """In units of 1/255."""
    purifier: str = "none"
    """A reference; the network sees purified images only."""
    widths: tuple[int, ...] | None = None
    mirror: bool = False
    """Of the network: see `ResNet9`, and for widths also `VGG`."""

    def options(self) -> dict[str, Any]:
        """What the architecture is built with, beside channels and classes, where it is not the usual."""
        given = {"widths": self.widths, "mirror": self.mirror or None}
        return {key: value for key, value in given.items() if value is not None}

    def problems(self) -> Iterator[str]:
        for key in ("shift", "cutout"):
            if getattr(self, key) < 0:
                yield f"{key} is {getattr(self, key)}; it must not be negative"
        if not 0 <= self.label_smoothing < 1:
            yield f"label_smoothing is {self.label_smoothing}; it must be in [0, 1)"
        if self.widths is not None and not (len(self.widths) > 1 and min(self.widths) >= 1):
            yield "widths must be two numbers or more, from 1 up"
        if self.pgd_steps < 1:
            yield f"pgd_steps is {self.pgd_steps}; it must be at least 1"
        if not 0 <= self.average < 1:
            yield f"average is {self.average}; it must be in [0, 1)"
        yield from _of_budget(self.epsilon)


@dataclass(frozen=True)
class PixelCNNOptions:
    """The PixelCNN that is trained: the fields of `PixelCNNConfig`."""

    features: int = 48
    layers: int = 6
    mixtures: int = 5

    def config(self, image_channels: int) -> PixelCNNConfig:
        return PixelCNNConfig(image_channels=image_channels, **asdict(self))

    def problems(self) -> Iterator[str]:
        yield from _of_network(self.config)


@dataclass(frozen=True)
class DenoiserOptions:
    """The denoiser that is trained, and the attack on what guides it."""

    widths: tuple[int, ...] = (32, 64, 128)
    classifier: str = "cifar10-resnet9-plain"
    """The reference of the classifier that guides it."""
    epsilon: float = 16.0
    """The largest budget, in units of 1/255; each step draws one from a tenth of it up."""

    def config(self, image_channels: int) -> DUNetConfig:
        return DUNetConfig(image_channels=image_channels, widths=self.widths)

    def problems(self) -> Iterator[str]:
        yield from _of_budget(self.epsilon)
        yield from _of_network(self.config)


def _of_budget(epsilon: float) -> Iterator[str]:
    if not 0 < epsilon <= 255:
        yield f"epsilon is {epsilon}; it must lie above 0 and at most at 255"


def _of_network(config: Callable[[int], object]) -> Iterator[str]:
    """What the network's own settings say of themselves."""
    try:
        config(3)
    except ValueError as error:
        yield str(error)
