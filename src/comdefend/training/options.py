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
    code_noise: float = 0.0
    """Noise on the logits of the finished purifier, in use; its training has `phi`."""
    cuts: int = 1
    """At how many heights the finished purifier cuts logits: see `ComDefendConfig`."""
    spread: float = 0.0
    """How far from zero these heights go: a standard deviation."""
    settling: int = 0
    """So many of the last steps train for codes as they are in use: cut, at several heights where there are
    `cuts`, and with `code_noise`."""
    settling_temperature: float = 0.0
    """What the compressor learns while settling: 0 nothing, the reconstructor is trained alone; above 0 the
    cut of a logit z counts as sigmoid(z / T) for its gradient."""
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
            code_noise=self.code_noise,
            cuts=self.cuts,
            spread=self.spread,
        )

    def problems(self) -> Iterator[str]:
        if not 0 < self.gain < inf:
            yield f"gain is {self.gain}; it must be positive"
        if self.settling < 0:
            yield f"settling is {self.settling}; it must not be negative"
        if not 0 <= self.settling_temperature < inf:
            yield f"settling_temperature is {self.settling_temperature}; it must be finite and not negative"
        if self.settling_temperature and not self.settling:
            yield "settling_temperature needs settling"
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
    adversarial: Literal["none", "fgsm", "bim"] = "none"
    """Half of every batch is attacked so, at `epsilon`."""
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
        yield from _of_budget(self.epsilon)


@dataclass(frozen=True)
class PairOptions:
    """How a classifier (that of `ClassifierOptions`) is trained behind a purifier; see `pair.py`."""

    purifier: str = "none"
    """The reference of a comdefend to begin with, or "none"."""
    tuned: bool = False
    """Whether its networks are trained too, through the hard code."""
    mode: str = "straight-through"
    """The gradient that the hard code passes back: see `Purifier.through`."""
    fidelity: float = 0.0
    """The weight, beside the cross-entropy, of the squared error of the purified against the clean image, so
    that what is tuned stays a purifier."""
    noise: float = 0.0
    """As for `PurifierOptions`, before the attack, whose perturbation comes on top of it."""
    attack: Literal["none", "pgd"] = "none"
    """What `share` of every batch is attacked with."""
    knowledge: Literal["gray-box", "white-box"] = "white-box"
    """Whether the attacker of the training knows the classifier alone, or both."""
    goal: Literal["untargeted", "random"] = "untargeted"
    """Away from the label, or towards a class drawn for each image, which tells nothing of the label."""
    attack_modes: tuple[str, ...] = ()
    """Gradient modes that a white-box attack takes in turn, since one who attacks the pair later has the
    choice (none: `mode`)."""
    sources: tuple[str, ...] = ()
    """References of other classifiers that are attacked in turn with this one."""
    epsilon: float = 8.0
    """The budget, in units of 1/255; attacks start at a random point within it."""
    steps: int = 1
    step: float = 1.25
    """Of an attack; a step as a fraction of epsilon."""
    share: float = 1.0
    trades: float = 0.0
    """Above 0, cross-entropy is asked of clean images, and so many times how far the answers to attacked ones
    are from theirs, in place of cross-entropy of attacked images (TRADES: Zhang et al., "Theoretically
    principled trade-off between robustness and accuracy", 2019; this is their 1 / lambda)."""
    average: float = 0.0
    """How much of the running mean of the weights stays at each step; the mean is what is kept (0: the last
    weights are)."""
    mean_teacher: float = 0.0
    """The share of that mean's answer to the clean image in what is asked for the attacked one, beside the
    label (Tarvainen & Valpola, "Mean teachers are better role models", 2017): softer goals are learned by
    heart less."""
    bare: float = 0.0
    """The share of every batch that goes past the purifier: a classifier that sees attacked images as they
    are, too, stays robust itself and becomes no decoy."""

    def problems(self) -> Iterator[str]:
        if not 0 <= self.noise <= 255:
            yield f"noise is {self.noise}; it must be from 0 to 255"
        if self.steps < 1:
            yield f"steps is {self.steps}; it must be at least 1"
        if not 0 < self.step <= 2:
            yield f"step is {self.step}; it must lie above 0 and at most at 2"
        if not 0 < self.share <= 1:
            yield f"share is {self.share}; it must lie above 0 and at most at 1"
        if not 0 <= self.trades < inf or (self.trades and (self.attack, self.share) != ("pgd", 1.0)):
            yield f"trades is {self.trades}; it must be from 0 up, finite, and 0 unless all are attacked"
        if self.trades and self.bare:
            yield f"bare is {self.bare}; with pair.trades it must be 0"
        if not 0 <= self.bare < 1 or (self.bare and self.purifier == "none"):
            yield f"bare is {self.bare}; it must be from 0 to below 1, and 0 without a purifier"
        if not 0 <= self.average < 1:
            yield f"average is {self.average}; it must be from 0 to below 1"
        if not 0 <= self.mean_teacher < 1 or (self.mean_teacher and (not self.average or self.trades)):
            yield (
                f"mean_teacher is {self.mean_teacher}; it must be from 0 to below 1, and 0 without "
                "pair.average or with pair.trades"
            )
        if self.attack == "none" and (self.sources or self.goal != "untargeted"):
            yield "sources and pair.goal need a pair.attack"
        if self.attack_modes and (self.attack, self.knowledge) != ("pgd", "white-box"):
            yield (
                f"attack_modes need attack pgd and knowledge white-box, and these are {self.attack} and "
                f"{self.knowledge}"
            )
        if self.attack_modes and self.purifier == "none":
            yield "attack_modes need a pair.purifier"
        if self.tuned and self.purifier == "none":
            yield "tuned needs a pair.purifier"
        if not 0 <= self.fidelity < inf or (self.fidelity and not self.tuned):
            yield f"fidelity is {self.fidelity}; it must be finite and not negative, and 0 without pair.tuned"
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
