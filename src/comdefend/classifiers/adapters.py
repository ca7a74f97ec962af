"""Other people's trained classifiers by reference: `hf:`, `timm:` and `torchvision:`.

Each is wrapped so that it takes images in [0, 1] and returns logits; the normalisation that it was
trained with goes inside. Images are not resized: their size is the data's, and a network that does not
take it says so before any work.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from comdefend.errors import MissingExtraError, RequestError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalised(nn.Module):
    """`network((images - mean) / std)` for images in [0, 1]; `mean` and `std` hold one number a channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        output = self.network((images - self.mean) / self.std)
        logits: Tensor = getattr(output, "logits", output)  # networks of transformers return a record
        return logits


def load_hf(name: str) -> nn.Module:
    """A classifier of the Hugging Face hub (ORG/NAME), or a folder in its format, through transformers."""
    try:
        from transformers import AutoModelForImageClassification
        from transformers.image_processing_utils import ImageProcessingMixin
    except ImportError as error:
        raise MissingExtraError("hf: classifiers", extra="hf", package="transformers") from error
    try:
        network = AutoModelForImageClassification.from_pretrained(name, use_safetensors=True)
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(f"classifier 'hf:{name}' cannot be loaded: {reason}") from error
    normalises = settings.get("do_normalize", True)
    mean = settings.get("image_mean") if normalises else None
    std = settings.get("image_std") if normalises else None
    return Normalised(network, mean=mean or (0.0,), std=std or (1.0,))


def load_timm(name: str) -> nn.Module:
    """A pretrained network of timm."""
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm: classifiers", extra="timm", package="timm") from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*", pretrained=True)[:3]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RequestError(f"timm has no network {name!r}{hint}")
    network = _downloaded(f"timm:{name}", lambda: timm.create_model(name, pretrained=True))
    trained_with = timm.data.resolve_model_data_config(network)
    return Normalised(network, mean=trained_with["mean"], std=trained_with["std"])


def load_torchvision(name: str) -> nn.Module:
    """A network of torchvision with its best weights, which were trained under ImageNet's normalisation."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # beside another build of torch it fails so
        raise MissingExtraError(
            "torchvision: classifiers", extra="torchvision", package="torchvision"
        ) from error
    if name not in models.list_models():
        raise RequestError(f"torchvision has no network {name!r}")
    network = _downloaded(f"torchvision:{name}", lambda: models.get_model(name, weights="DEFAULT"))
    return Normalised(network, mean=IMAGENET_MEAN, std=IMAGENET_STD)


ADAPTERS: dict[str, Callable[[str], nn.Module]] = {
    "hf": load_hf,
    "timm": load_timm,
    "torchvision": load_torchvision,
}
"""What makes a classifier of the rest of a reference, by what stands before its colon."""


def _downloaded(reference: str, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        return make()
    except Exception as error:  # each library raises its own when the network fails
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RequestError(f"classifier {reference!r} cannot be loaded: {reason}") from error
