"""A compact PixelCNN: the probability of each pixel given those above it and to its left.

van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", NIPS 2016 (two stacks, so
that nothing above is missed) with the output of Salimans et al., "PixelCNN++", ICLR 2017 (a mixture of
logistics over the 256 values, the channels of a pixel one after another).

    rows above  -> vertical stack   --+--> + --+-->   (each layer: 2 x 3 pixels of the vertical stack,
                                      |        |       1 x 2 of the horizontal one, and a link)
    row so far  -> horizontal stack --+--> + --+-->  mixture of logistics for this pixel

Both stacks can be evaluated for a whole image (training), or one pixel at a time with everything that
later pixels need again kept (`walk`), which is what makes PixelDefend bearable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS, COLUMNS = 3, 3
"""How many rows above, and pixels to the left, the first layer sees."""


@dataclass(frozen=True)
class PixelCNNConfig:
    """`image_channels` 3 (RGB) or 1 (grey); `mixtures`: logistics in the mixture of one pixel."""

    image_channels: int = 3
    features: int = 48
    layers: int = 6
    mixtures: int = 5

    def __post_init__(self) -> None:
        if self.image_channels not in (1, 3):
            raise ValueError(f"image_channels is {self.image_channels}; it must be 1 or 3")
        for key in ("features", "layers", "mixtures"):
            value = getattr(self, key)
            if not (isinstance(value, int) and 1 <= value <= 512):
                raise ValueError(f"{key} is {value!r}; it must lie between 1 and 512")

    @property
    def parameters_of_a_pixel(self) -> int:
        """For each logistic a weight; for each channel mean and scale; for each two channels a slope."""
        slopes = self.image_channels * (self.image_channels - 1) // 2
        return self.mixtures * (1 + 2 * self.image_channels + slopes)


class Layer(nn.Module):
    """One step of both stacks, gated and residual."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.above = nn.Conv2d(features, 2 * features, (2, 3))
        self.left = nn.Conv2d(features, 2 * features, (1, 2))
        self.link = nn.Conv2d(features, 2 * features, 1)

    def forward(self, vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
        vertical = vertical + gate(self.above(functional.pad(functional.elu(vertical), (1, 1, 1, 0))))
        left = self.left(functional.pad(functional.elu(horizontal), (1, 0)))
        return vertical, horizontal + gate(left + self.link(functional.elu(vertical)))


class PixelCNN(nn.Module):
    """Images in [0, 1], N x C x H x W, to the parameters of each pixel's mixture, N x P x H x W."""

    def __init__(self, config: PixelCNNConfig | None = None) -> None:
        super().__init__()
        self.config = config or PixelCNNConfig()
        features, channels = self.config.features, self.config.image_channels
        # The further channel is 1 inside the image: it tells the border's zeros from grey.
        self.first_above = nn.Conv2d(channels + 1, features, (ROWS, 5))
        self.first_left = nn.Conv2d(channels + 1, features, (1, COLUMNS))
        self.layers = nn.ModuleList(Layer(features) for _ in range(self.config.layers))
        self.head = nn.Conv2d(features, self.config.parameters_of_a_pixel, 1)

    def forward(self, images: Tensor) -> Tensor:
        inputs = _inputs(images)
        vertical = self.first_above(functional.pad(inputs, (2, 2, ROWS, 0))[:, :, :-1])
        left = self.first_left(functional.pad(inputs, (COLUMNS, 0))[..., :-1])
        horizontal = vertical + left
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal)
        parameters: Tensor = self.head(functional.elu(horizontal))
        return parameters

    def bits_per_dimension(self, images: Tensor) -> Tensor:
        """How many bits each value of each image costs under the model, N. Images hold multiples of 1/255."""
        parameters = self(images).float().movedim(1, -1)
        values = images.float().movedim(1, -1) * 2 - 1
        weights, others = self._mixture(parameters)
        for channel in range(self.config.image_channels):
            weights = weights + log_logistic(values[..., channel, None], *others(channel, values))
        nats = -torch.logsumexp(weights, -1).flatten(1).mean(1)
        return nats / log(2) / self.config.image_channels

    @torch.no_grad()
    def walk(self, images: Tensor, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Visit the pixels in reading order and put `choose(parameters, pixel)` in the place of each.

        `parameters` (N x P) are those of the pixel given the new values of all before it; `pixel` and
        the result are N x C in [0, 1]. Every activation that is needed again is kept: a row of the
        vertical stack is computed once, and a pixel costs a 1 x 2 convolution for each layer.
        """
        layers = [layer for layer in self.layers if isinstance(layer, Layer)]
        result = images.clone()
        count, _, height, width = images.shape
        features = self.config.features
        inputs = functional.pad(_inputs(result), (COLUMNS, 2, ROWS, 0))
        above = [images.new_zeros(count, features, 1, width) for _ in layers]
        for row in range(height):
            seen = inputs[:, :, row : row + ROWS, COLUMNS - 2 :]
            vertical = first = self.first_above(seen)
            links = []
            for index, layer in enumerate(layers):
                own = functional.elu(vertical)
                both = torch.cat([above[index], own], 2)
                above[index] = own
                vertical = vertical + gate(layer.above(functional.pad(both, (1, 1))))
                links.append(layer.link(functional.elu(vertical)))
            left = [images.new_zeros(count, features, 1, 1) for _ in layers]
            for column in range(width):
                here = slice(column, column + 1)
                before = inputs[:, :, row + ROWS : row + ROWS + 1, column : column + COLUMNS]
                horizontal = first[..., here] + self.first_left(before)
                for index, layer in enumerate(layers):
                    own = functional.elu(horizontal)
                    both = torch.cat([left[index], own], 3)
                    left[index] = own
                    horizontal = horizontal + gate(layer.left(both) + links[index][..., here])
                parameters = self.head(functional.elu(horizontal))[:, :, 0, 0]
                chosen = choose(parameters, images[:, :, row, column])
                result[:, :, row, column] = chosen
                inputs[:, :-1, row + ROWS, column + COLUMNS] = chosen * 2 - 1
        return result

    def likeliest(self, parameters: Tensor, candidates: Tensor) -> Tensor:
        """Channel after channel the likeliest candidate, each given the choices before it.

        `parameters` N x P; `candidates` N x C x M in [0, 1]; the result N x C.
        """
        values = candidates * 2 - 1
        chosen = torch.zeros_like(values[:, :, 0])
        weights, others = self._mixture(parameters)
        for channel in range(self.config.image_channels):
            mean, log_scale = others(channel, chosen)
            each = log_logistic(values[:, channel, :, None], mean[:, None], log_scale[:, None])
            best = torch.logsumexp(weights[:, None] + each, -1).argmax(1)
            rows = torch.arange(len(best), device=best.device)
            chosen[:, channel] = values[rows, channel, best]
            # What was chosen tells which logistic of the mixture the pixel belongs to.
            weights = weights + each[rows, best]
        return (chosen + 1) / 2

    def _mixture(self, parameters: Tensor) -> tuple[Tensor, Callable[[int, Tensor], tuple[Tensor, Tensor]]]:
        """Log weights (... x K), and a function from channel and values (... x C) to means and log scales."""
        channels, mixtures = self.config.image_channels, self.config.mixtures
        parts = parameters.float().unflatten(-1, (-1, mixtures))
        weights = parts[..., 0, :].log_softmax(-1)
        means, scales = parts[..., 1 : 1 + channels, :], parts[..., 1 + channels : 1 + 2 * channels, :]
        slopes = parts[..., 1 + 2 * channels :, :].tanh()

        def of(channel: int, values: Tensor) -> tuple[Tensor, Tensor]:
            mean = means[..., channel, :]
            for earlier in range(channel):
                slope = slopes[..., channel * (channel - 1) // 2 + earlier, :]
                mean = mean + slope * values[..., earlier, None]
            return mean, scales[..., channel, :].clamp_min(-7)

        return weights, of


def gate(features: Tensor) -> Tensor:
    values, doors = features.chunk(2, 1)
    return values * torch.sigmoid(doors)


def log_logistic(values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """The log probability of values on the 256 levels of [-1, 1] under a logistic, edges open.

    Salimans et al., 2017, Eq. 2.
    """
    half = 1 / 255
    precision = torch.exp(-log_scale)
    centred = values - mean
    upper, lower = precision * (centred + half), precision * (centred - half)
    inside = (torch.sigmoid(upper) - torch.sigmoid(lower)).clamp_min(1e-12)
    # Far from the mean the difference is lost to rounding; there it is the density times the width.
    middle = precision * centred
    density = middle - log_scale - 2 * functional.softplus(middle) + log(2 * half)
    found = torch.where(inside > 1e-5, torch.log(inside), density)
    found = torch.where(values < -0.999, functional.logsigmoid(upper), found)
    return torch.where(values > 0.999, -functional.softplus(lower), found)


def _inputs(images: Tensor) -> Tensor:
    return torch.cat([images * 2 - 1, torch.ones_like(images[:, :1])], 1)
