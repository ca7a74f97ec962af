"""Adapters for other people's classifiers: a real one with random weights, and recorded fakes.

timm and torchvision cannot be imported beside the CPU build of torch that is tested here, so modules
that answer as they do stand in for them.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import comdefend
from comdefend.classifiers import Foreign, check_classifier, load_classifier
from comdefend.data import ImageSet
from comdefend.errors import MissingExtraError, RequestError


class Mean(nn.Module):
    """Logits that tell what the network saw: the mean of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    """Writes a small network and settings of an image processor in the hub's format: its reference."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=7
    )

    def write(network: Any = None, **settings: Any) -> str:
        network = network or transformers.ResNetForImageClassification(config)
        network.save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        return f"hf:{tmp_path}"

    return write


def seen(classifier: nn.Module, images: Tensor) -> Tensor:
    """What a classifier's network is given of images."""
    assert isinstance(classifier, Foreign)
    caught: list[Tensor] = []
    hook = classifier.network.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    classifier(images)
    hook.remove()
    return caught[0]


def test_a_folder_in_the_format_of_the_hub_is_a_classifier(hub: Any) -> None:
    reference = hub(
        image_processor_type="ConvNextImageProcessor", do_resize=False,
        image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.5, 0.5],
    )  # fmt: skip
    classifier = load_classifier(reference)
    images = torch.rand(2, 3, 40, 36)
    assert check_classifier(classifier, images, torch.tensor([0, 6]), name="hf") == 7
    shifted = (images - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / 0.5
    torch.testing.assert_close(seen(classifier, images), shifted)
    torch.testing.assert_close(classifier(images), classifier.network(shifted).logits)  # type: ignore[operator]
    assert not classifier.training


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {}),
        ("ViT", {"do_normalize": False}),
        ("ViT", {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [60.0] * 3}),
        ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": MEAN}),
        ("ViT", {"do_rescale": False, "do_normalize": False}),
        ("MobileViT", {"do_center_crop": False}),
        ("MobileViT", {"do_center_crop": False, "do_flip_channel_order": False}),
        ("EfficientNet", {"image_mean": MEAN, "image_std": STD}),
        ("EfficientNet", {"rescale_offset": True, "include_top": False}),
    ],
)
def test_a_network_of_the_hub_sees_what_its_image_processor_makes(
    kind: str, settings: dict[str, Any], hub: Any, sample: ImageSet
) -> None:
    transformers = pytest.importorskip("transformers")
    reference = hub(image_processor_type=f"{kind}ImageProcessor", do_resize=False, **settings)
    processor = transformers.AutoImageProcessor.from_pretrained(reference.removeprefix("hf:"), backend="pil")
    wanted = processor([sample.array(i) for i in range(4)], return_tensors="pt")["pixel_values"]
    found = seen(load_classifier(reference), sample.images(range(4)))
    torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"image_processor_type": "ViTImageProcessor", "size": 48}, (48, 48)),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 40}}, (40, 40)),
        (
            {
                "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 64},
                "crop_size": {"height": 56, "width": 48},
            },
            (56, 48),
        ),
    ],
)  # fmt: skip
def test_images_of_another_size_than_the_processor_makes_are_refused(
    settings: dict[str, Any], size: tuple[int, int], hub: Any
) -> None:
    classifier, labels = load_classifier(hub(**settings)), torch.tensor([0, 6])
    assert check_classifier(classifier, torch.rand(2, 3, *size), labels, name="hf") == 7
    message = (
        f"'hf:.* does not take images of 3x32x32 .*its image processor brings them to {size[0]}x{size[1]}"
    )
    with pytest.raises(RequestError, match=message):
        check_classifier(classifier, torch.rand(2, 3, 32, 32), labels, name="hf")


def test_an_image_processor_that_cannot_be_followed_is_refused_by_name(hub: Any) -> None:
    settings = {"image_processor_type": "ImageGPTImageProcessor", "clusters": [[0, 0, 0], [1, 1, 1]]}
    with pytest.raises(RequestError, match=r"'hf:.*ImageGPTImageProcessor.*do_color_quantize"):
        load_classifier(hub(**settings))
    with pytest.raises(RequestError, match=r"'hf:.*ViTImageProcessor"):
        load_classifier(hub(image_processor_type="ViTImageProcessor", image_mean=[0.5, 0.5]))


def test_a_network_of_the_hub_without_a_trained_last_layer_is_refused(hub: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    with pytest.raises(RequestError, match=r"'hf:.*has no weights for classifier.*it was not trained"):
        load_classifier(hub(transformers.ResNetModel(config), image_processor_type="ViTImageProcessor"))


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(RequestError, match=r"'hf:.*cannot be loaded"):
        load_classifier(f"hf:{tmp_path}")


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> Any:
    def create_model(name: str, *, pretrained: bool) -> nn.Module:
        if name == "offline":
            raise OSError("no route to host")
        assert pretrained
        return Mean()

    fake = SimpleNamespace(
        is_model=lambda name: name in ("resnet10t", "offline"),
        list_models=lambda pattern, pretrained: ["resnet10t"] if "resnet" in pattern else [],
        create_model=create_model,
        data=SimpleNamespace(
            resolve_model_data_config=lambda _: {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        ),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    return fake


def test_timm_networks_are_normalised_as_they_were_trained(timm: Any) -> None:
    images = torch.full((1, 3, 8, 8), 0.75)
    assert torch.equal(load_classifier("timm:resnet10t")(images), torch.ones(1, 3))
    with pytest.raises(RequestError, match="no network 'resnet11'; did you mean resnet10t"):
        load_classifier("timm:resnet11")
    with pytest.raises(RequestError, match="'timm:offline' cannot be loaded: OSError: no route to host"):
        load_classifier("timm:offline")


def test_torchvision_networks_are_normalised_as_they_were_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    models = SimpleNamespace(list_models=lambda: ["resnet101"], get_model=lambda name, weights: Mean())
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    images = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(load_classifier("torchvision:resnet101")(images), torch.zeros(1, 3))
    with pytest.raises(RequestError, match="torchvision has no network 'resnet1'"):
        load_classifier("torchvision:resnet1")


@pytest.mark.parametrize("library", ["timm", "torchvision", "hf"])
def test_a_library_that_is_not_there_is_named_with_its_extra(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, {"hf": "transformers"}.get(library, library), None)
    with pytest.raises(MissingExtraError, match=rf"comdefend\[{library}\]"):
        load_classifier(f"{library}:something")


def test_normalised_takes_one_number_or_one_a_channel() -> None:
    images = torch.rand(2, 3, 4, 4)
    flat = nn.Flatten()
    by_channel = comdefend.Normalised(flat, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    expected = (images - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor(
        [0.2, 0.25, 0.5]
    ).view(1, 3, 1, 1)
    torch.testing.assert_close(by_channel(images), expected.flatten(1))
    torch.testing.assert_close(
        comdefend.Normalised(flat, mean=0.5, std=0.25)(images), ((images - 0.5) / 0.25).flatten(1)
    )
    with pytest.raises(RequestError, match="std is 0; deviations must lie above 0"):
        comdefend.Normalised(flat, 0, 0)
