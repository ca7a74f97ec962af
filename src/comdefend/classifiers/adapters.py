"""Other people's trained classifiers by reference: `hf:`, `timm:` and `torchvision:`.

Each is wrapped so that it takes images in [0, 1] and returns logits; the normalisation that it was
trained with goes inside. Images are not resized: their size is the data's, and a network that does not
take it, or whose image processor would change it, says so before any work.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from comdefend.classifiers.foreign import Foreign
from comdefend.errors import MissingExtraError, RequestError, reason

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalised(Foreign):
    """`network((images - mean) / std)` for images in [0, 1], N x C x H x W.

    `mean` and `std` are one number for all channels, or one for each. With `order`, channels go in so:
    (2, 1, 0) gives a network of BGR images what it wants. `name` stands in messages, by default the network's
    type. Raises `RequestError` where a deviation is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | float,
        std: Sequence[float] | float,
        *,
        name: str = "",
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__(network, name=name or type(network).__name__)
        self.order = order
        for key, given in (("mean", mean), ("std", std)):
            values = [float(given)] if isinstance(given, int | float) else [float(value) for value in given]
            if key == "std" and min(values) <= 0:
                raise RequestError(f"std is {given}; deviations must lie above 0")
            self.register_buffer(key, torch.tensor(values).view(1, -1, 1, 1))

    def prepare(self, images: Tensor) -> Tensor:
        if self.order:
            images = images.expand(-1, len(self.order), -1, -1)[:, self.order]  # grey ones have one channel
        return (images - self.mean) / self.std


class Processed(Normalised):
    """A network behind its image processor of transformers: what that does to each pixel happens here too.

    Raises `RequestError` where the processor does more to pixels than to order and scale their channels, and
    in use for images that it would bring to another size.
    """

    def __init__(self, network: nn.Module, processor: Any, *, name: str) -> None:
        channels = int(getattr(getattr(network, "config", None), "num_channels", 3))
        mean, std, order = _pixelwise(processor, channels, name=name)
        super().__init__(network, name=name, mean=mean, std=std, order=order)
        self.processor, self.channels = processor, channels
        self.sizes: set[tuple[int, ...]] = set()  # that the processor leaves as they are

    def prepare(self, images: Tensor) -> Tensor:
        size = tuple(images.shape[2:])
        if size not in self.sizes:
            found = tuple(_processed(self.processor, np.zeros((1, *size, self.channels), np.uint8)).shape[2:])
            if found != size:
                raise RequestError(
                    f"its image processor brings them to {'x'.join(map(str, found))}; give it images of that "
                    "size (--size, or sized() of the data)"
                )
            self.sizes.add(size)
        return super().prepare(images)


def _pixelwise(
    processor: Any, channels: int, *, name: str
) -> tuple[list[float], list[float], list[int] | None]:
    """Mean, deviation and order of the channels that do to an image in [0, 1] what an image processor does to
    one of 8 bits, its changes of size aside. They are read off what it makes of black and of single channels:
    each kind of processor has settings of its own.
    """
    sizeless = copy.copy(processor)
    for setting in _OF_SIZE:
        if hasattr(sizeless, setting):
            setattr(sizeless, setting, False)
    probes = np.zeros((channels + 2, 8, 8, channels), np.uint8)
    for channel in range(channels):
        probes[channel + 1, ..., channel] = 255
    probes[-1] = np.random.default_rng(0).integers(0, 256, probes[-1].shape)
    active = ", ".join(k for k in sorted(vars(processor)) if k.startswith("do_") and getattr(processor, k))
    cannot = f"classifier {name!r}: its {type(processor).__name__} ({active}) cannot be followed here"
    try:
        made = _processed(sizeless, probes)
    except Exception as error:  # each kind raises its own
        raise RequestError(f"{cannot}: {reason(error)}") from error
    if made.shape == (len(probes), channels, 8, 8):
        black = made[0, :, 0, 0]
        slopes = made[1:-1, :, 0, 0].T - black[:, None]
        order = slopes.abs().argmax(1)
        std = 1 / slopes.gather(1, order[:, None])[:, 0]
        mean = -black * std
        image = torch.from_numpy(probes[-1]).permute(2, 0, 1)[order].double() / 255
        expected = (image - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        if torch.allclose(made[-1], expected, rtol=1e-4, atol=1e-4 * float(slopes.abs().max())):
            ordered = order.tolist() == list(range(channels))
            return mean.tolist(), std.tolist(), None if ordered else order.tolist()
    raise RequestError(f"{cannot}: it does more to pixels than to order and scale their channels")


_OF_SIZE = ("do_resize", "do_center_crop", "do_crop", "do_pad")


def _processed(processor: Any, images: NDArray[np.uint8]) -> Tensor:
    """What an image processor makes of images of 8 bits, N x H x W x C: N x C x H x W of float64."""
    made = processor(list(images), return_tensors="pt", input_data_format="channels_last")
    return torch.as_tensor(made["pixel_values"]).double()


def load_hf(name: str) -> nn.Module:
    """A classifier of the Hugging Face hub (ORG/NAME), or a folder in its format, through transformers."""
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        raise MissingExtraError("hf: classifiers", extra="hf", package="transformers") from error
    reference = f"hf:{name}"
    network, loading = _loaded(
        reference,
        lambda: AutoModelForImageClassification.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        ),
    )
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise RequestError(f"classifier {reference!r} has no weights for {missing}: it was not trained")
    # The processors that need no torchvision; the others do the same, but for rounding.
    load: Callable[..., Any] = AutoImageProcessor.from_pretrained
    processor = _loaded(reference, lambda: load(name, backend="pil", trust_remote_code=False))
    return Processed(network, processor, name=reference)


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
    network = _loaded(f"timm:{name}", lambda: timm.create_model(name, pretrained=True))
    trained_with = timm.data.resolve_model_data_config(network)
    return Normalised(network, name=f"timm:{name}", mean=trained_with["mean"], std=trained_with["std"])


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
    network = _loaded(f"torchvision:{name}", lambda: models.get_model(name, weights="DEFAULT"))
    return Normalised(network, name=f"torchvision:{name}", mean=IMAGENET_MEAN, std=IMAGENET_STD)


ADAPTERS: dict[str, Callable[[str], nn.Module]] = {
    "hf": load_hf,
    "timm": load_timm,
    "torchvision": load_torchvision,
}
"""What makes a classifier of the rest of a reference, by what stands before its colon."""


def _loaded(reference: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # each library raises its own when the network fails
        raise RequestError(f"classifier {reference!r} cannot be loaded: {reason(error)}") from error
