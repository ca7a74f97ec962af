"""Adapters for other people's classifiers: a real one with random weights, and recorded fakes.

timm and torchvision cannot be imported beside the CPU build of torch that is tested here, so modules
that answer as they do stand in for them.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comdefend.classifiers import check_classifier, load_classifier
from comdefend.errors import MissingExtraError, RequestError


class Mean(nn.Module):
    """Logits that tell what the network saw: the mean of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_a_folder_in_the_format_of_the_hub_is_a_classifier(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=7
    )
    network = transformers.ResNetForImageClassification(config)
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ConvNextImageProcessor", "image_mean": [0.1, 0.2, 0.3], '
        '"image_std": [0.5, 0.5, 0.5]}'
    )
    classifier = load_classifier(f"hf:{tmp_path}")
    images = torch.rand(2, 3, 40, 36)
    assert check_classifier(classifier, images, torch.tensor([0, 6]), name="hf") == 7
    shifted = (images - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / 0.5
    torch.testing.assert_close(classifier(images), network.eval()(shifted).logits)
    assert not classifier.training


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
