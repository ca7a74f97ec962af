"""ComDefend on one page: the two networks, the binary code between them, and the loss.

Jia, Wei, Cao, Foroosh: "ComDefend: An Efficient Image Compression Model to Defend Adversarial
Examples", CVPR 2019. Table, equation and section numbers below are the paper's.

        image                     logits                  code                     image
    N x 3 x H x W  --ComCNN-->  N x 12 x H x W  --(>0)-->  {0, 1}  --RecCNN-->  N x 3 x H x W
                                      |                      ^
                       training:      +---- minus noise, sigmoid

No layer has a stride, so any H and W pass, and a pixel of the output depends on the input pixels
at most `ComDefendConfig.reach` (18) rows and columns away.

What is not the paper's is `ComDefendConfig.block`: one code for each 2x2 or 4x4 block of pixels, at a
lower rate and a fraction of the arithmetic. With `block=1`, everything here is as published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from comdefend.convolution import Conv2d

COM_WIDTHS = (16, 32, 64, 128, 256, 128, 64, 32)
"""Hidden channels of ComCNN (Table 1, where "356" is a misprint for 256)."""

REC_WIDTHS = (32, 64, 128, 256, 128, 64, 32, 16)
"""Hidden channels of RecCNN (Table 2)."""

BLOCKS = (1, 2, 4, 8)
"""Sides of the squares of pixels that may share one code. The paper's is 1: a code for each pixel."""


@dataclass(frozen=True)
class ComDefendConfig:
    """What has to be known to build the networks and to train them.

    `image_channels`: 3 (RGB) or 1 (grey). `bits`: length of the code of one pixel (the paper: 12 for
    colour, 8 to 16 in Table 3; the released Fashion-MNIST weights use 4). `phi`: standard deviation
    of the noise on the logits in training (section 3.3). `lam`: lambda, the price of a one in the
    code (Eq. 3). `com_widths`, `rec_widths`: hidden channels, where they are not the paper's (the
    released Fashion-MNIST networks are a little wider). `block`: side of the square of pixels that
    shares one code of `bits` bits; the paper's is 1. Its pixels are folded into channels, so all
    layers run on an image that is smaller by this factor in height and width.
    """

    image_channels: int = 3
    bits: int = 12
    phi: float = 20.0
    lam: float = 1e-4
    com_widths: tuple[int, ...] = COM_WIDTHS
    rec_widths: tuple[int, ...] = REC_WIDTHS
    block: int = 1

    def __post_init__(self) -> None:
        # Read back from JSON they are lists.
        object.__setattr__(self, "com_widths", tuple(self.com_widths))
        object.__setattr__(self, "rec_widths", tuple(self.rec_widths))
        if self.image_channels not in (1, 3):
            raise ValueError(f"image_channels is {self.image_channels}; it must be 1 or 3")
        if self.block not in BLOCKS:
            raise ValueError(f"block is {self.block!r}; it must be one of {', '.join(map(str, BLOCKS))}")
        if not (isinstance(self.bits, int) and 1 <= self.bits <= 32 * self.block**2):
            raise ValueError(
                f"bits is {self.bits!r}; it must lie between 1 and 32 for a pixel ({32 * self.block**2})"
            )
        if not (0 <= self.phi < inf and 0 <= self.lam < inf):
            raise ValueError(f"phi ({self.phi}) and lam ({self.lam}) must be finite and not negative")
        named = [("com_widths", w) for w in self.com_widths] + [("rec_widths", w) for w in self.rec_widths]
        for name, width in named:
            if not (isinstance(width, int) and 1 <= width <= 1024):
                raise ValueError(f"{name} holds {width!r}; numbers of channels must lie between 1 and 1024")

    @property
    def reach(self) -> int:
        """How many pixels a change can travel through both networks: a block for each 3x3 convolution.

        A multiple of `block`; above 1, one more, from one side of the block where it began to the other.
        """
        convolutions = len(self.com_widths) + len(self.rec_widths) + 2
        return convolutions if self.block == 1 else self.block * (convolutions + 1)

    @property
    def rate(self) -> float:
        """Bits of the code for one pixel of the image, of 24 (RGB) or 8 (grey)."""
        return self.bits / self.block**2


class ComCNN(nn.Module):
    """The compressor (Table 1): image in [0, 1] to the logits of its code, N x bits x H x W.

    With blocks the code is N x bits x ceil(H / block) x ceil(W / block): an image whose sides are no
    multiples is continued by its last row and column.

    `gain` multiplies the output. It changes no function that the network can express, only how it
    is trained: the logits must outgrow noise of size phi, which takes a fresh network, whose outputs
    are near 1, thousands of steps; with `gain = phi` it starts there. `fold_gain` puts it into the
    last layer's weights, which is how trained weights are stored.
    """

    def __init__(self, config: ComDefendConfig, *, gain: float = 1.0) -> None:
        super().__init__()
        folded = config.image_channels * config.block**2
        self.layers = _convolutions((folded, *config.com_widths, config.bits))
        self.block = config.block
        self.gain = gain

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(_folded(images - 0.5, self.block))
        return logits if self.gain == 1.0 else self.gain * logits

    @torch.no_grad()
    def fold_gain(self) -> None:
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.weight *= self.gain
        last.bias *= self.gain
        self.gain = 1.0


class RecCNN(nn.Module):
    """The reconstructor (Table 2, and the released code's final sigmoid): code to image in [0, 1]."""

    def __init__(self, config: ComDefendConfig) -> None:
        super().__init__()
        folded = config.image_channels * config.block**2
        self.layers = _convolutions((config.bits, *config.rec_widths, folded))
        self.block = config.block

    def forward(self, code: Tensor) -> Tensor:
        return torch.sigmoid(functional.pixel_shuffle(self.layers(code), self.block))


class ComDefend(nn.Module):
    """Both networks and the binary code between them.

    Images are float tensors N x image_channels x H x W in [0, 1], RGB; codes N x bits x H x W (of
    blocks where `config.block` is not 1: see `ComCNN`).
    """

    def __init__(self, config: ComDefendConfig | None = None, *, gain: float = 1.0) -> None:
        super().__init__()
        self.config = config or ComDefendConfig()
        self.com = ComCNN(self.config, gain=gain)
        self.rec = RecCNN(self.config)

    def compress(
        self,
        images: Tensor,
        *,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The binary code, as booleans: the sigmoid of the logits cut at 0.5 (section 3.3).

        `noise`: standard deviation of normal noise on the logits, as the authors add at test time.
        """
        return self.logits(images, noise=noise, generator=generator) > 0

    def decompress(self, code: Tensor, like: Tensor | None = None) -> Tensor:
        """The image that a code (booleans, or numbers in [0, 1]) stands for, of whole blocks.

        Cut to the height and width of `like`, where that is given.
        """
        parameter = next(self.rec.parameters())
        reconstruction: Tensor = self.rec(code.to(parameter.dtype))
        return reconstruction if like is None else reconstruction[..., : like.shape[-2], : like.shape[-1]]

    def logits(
        self, images: Tensor, *, noise: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """What `compress` compares with 0, in the shape of the code: logits with normal noise of standard
        deviation `noise`.
        """
        logits: Tensor = self.com(images)
        if noise:
            logits = logits - noise * torch.empty_like(logits).normal_(generator=generator)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Compress and decompress: the purified images. Not differentiable; see `soft`."""
        return self.decompress(self.compress(images), images)

    def soft(self, images: Tensor, *, temperature: float = 1.0) -> Tensor:
        """The round trip with `sigmoid(logits / temperature)` for a code, differentiable.

        At temperature 1 the derivative of the sigmoid is exactly zero in float32 for most of a
        trained code; an attack needs a temperature nearer to the size of the logits.
        """
        return self.decompress(torch.sigmoid(self.logits(images) / temperature), images)

    def noisy_code(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The code seen in training: `sigmoid(Com(x) - noise)`, noise ~ N(0, phi^2) (section 3.3).

        Only logits far from zero survive the noise, so the code is pushed to be binary.
        """
        logits = self.com(images)
        noise = torch.randn(logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
        return torch.sigmoid(logits - self.config.phi * noise)


@dataclass(frozen=True)
class Loss:
    """The two terms of Eq. 3, kept apart so that both can be watched. `total` is what is minimised."""

    reconstruction: Tensor
    sparsity: Tensor
    total: Tensor


def comdefend_loss(
    model: ComDefend,
    images: Tensor,
    *,
    inputs: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Loss, Tensor]:
    """Eq. 3 for a batch of clean images, and the reconstruction it was measured on.

    As the authors' released code reads the equation: means instead of sums over the pixels, and the
    sigmoid's output, not the logits, in the second term, which asks for zeros in the code. `inputs`
    are what is compressed, where that is not the images themselves (images with noise).
    """
    code = model.noisy_code(images if inputs is None else inputs, generator=generator)
    reconstruction = model.decompress(code, images)
    error = (reconstruction.float() - images.float()).square().mean()
    sparsity = code.float().square().mean()
    total = 0.5 * error + model.config.lam * sparsity
    return Loss(reconstruction=error, sparsity=sparsity, total=total), reconstruction


def initialise(model: ComDefend, *, seed: int) -> None:
    """He initialisation (section 4.1) of every convolution, biases zero, from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def channels_last(network: nn.Module) -> nn.Module:
    """The network with its kernels laid out for convolutions over N x H x W x C memory, changed in place.

    On processors this is faster, most of all with bfloat16.
    """
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def _folded(images: Tensor, block: int) -> Tensor:
    """Each block x block square of pixels as the channels of one place; the last ones continued."""
    if block == 1:
        return images
    right, below = -images.shape[-1] % block, -images.shape[-2] % block
    if right or below:
        images = functional.pad(images, (0, right, 0, below), mode="replicate")
    return functional.pixel_unshuffle(images, block)


def _convolutions(widths: Sequence[int]) -> nn.Sequential:
    """3x3 convolutions, stride 1, same size, with an ELU between each two."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ELU(inplace=True)]
    return nn.Sequential(*layers[:-1])
