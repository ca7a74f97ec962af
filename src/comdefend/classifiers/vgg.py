"""A network without shortcuts for images of about 32x32, after VGG (Simonyan and Zisserman, 2015)."""

from collections.abc import Sequence

from torch import Tensor, nn

from comdefend.classifiers.architectures import architectures
from comdefend.classifiers.resnet import Normalise


@architectures.register("vgg")
class VGG(nn.Module):
    """For each width two 3x3 convolutions with batch normalisation and a pooling to half the size; a mean.

    Takes images in [0, 1], of at least 2^(number of widths) pixels a side, and normalises inside.
    """

    def __init__(self, *, channels: int, classes: int, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        layers: list[nn.Module] = [Normalise()]
        inputs = channels
        for width in widths:
            for _ in range(2):
                layers += [
                    nn.Conv2d(inputs, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(images).mean((2, 3)))
        return logits
