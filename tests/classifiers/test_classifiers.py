"""Classifiers: architectures, references, and the check before any work."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from comdefend.classifiers import architectures, build_classifier, check_classifier, load_classifier
from comdefend.errors import RequestError


@pytest.mark.parametrize("architecture", list(architectures))
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_architectures_take_grey_and_colour(architecture: str, channels: int, side: int) -> None:
    network = build_classifier(architecture, channels=channels, classes=7).eval()
    assert network(torch.rand(2, channels, side, side)).shape == (2, 7)


def test_resnets_have_the_published_sizes() -> None:
    def size(architecture: str) -> float:
        network = build_classifier(architecture, channels=3, classes=10)
        return sum(p.numel() for p in network.parameters()) / 1e6

    assert size("resnet20") == pytest.approx(0.27, abs=0.01)
    assert size("resnet18") == pytest.approx(11.17, abs=0.01)
    assert size("resnet50") == pytest.approx(23.52, abs=0.01)
    assert size("resnet9") < 1.5
    assert size("vgg") < 1.5


def test_vgg_halves_an_image_once_for_each_width() -> None:
    network = build_classifier("vgg", channels=3, classes=10, widths=(4, 6, 8)).eval()
    assert network(torch.rand(1, 3, 8, 8)).shape == (1, 10)
    with pytest.raises(RuntimeError, match="too small"):
        network(torch.rand(1, 3, 7, 7))
    with pytest.raises(RequestError, match=r"architecture .vgg.: .*mirror"):
        build_classifier("vgg", channels=3, classes=10, mirror=True)


def test_a_mirroring_network_judges_an_image_and_its_mirror_image_alike() -> None:
    plain = build_classifier("resnet9", channels=3, classes=5, seed=1).eval()
    both = build_classifier("resnet9", channels=3, classes=5, seed=1, mirror=True).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(both(images), (plain(images) + plain(images.flip(3))) / 2)
    torch.testing.assert_close(both(images), both(images.flip(3)))
    assert torch.equal(both.train()(images), plain.train()(images))
    with pytest.raises(RequestError, match=r"architecture .resnet20.: .*mirror"):
        build_classifier("resnet20", channels=3, classes=5, mirror=True)


def test_the_seed_decides_the_weights() -> None:
    first, second = (build_classifier("resnet20", channels=3, classes=10, seed=4) for _ in range(2))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_shared_third_party_classifier_loads_by_its_factory(shared: Path) -> None:
    network = load_classifier(f"{shared}/classifiers/classifiers.py:resnet20")
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("reference", ["resnet1000", "gone.py:make", "cifar10"])
def test_unknown_references_are_refused(reference: str) -> None:
    with pytest.raises(RequestError, match=reference):
        load_classifier(reference)


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match="resnet50"):
        build_classifier("lenet", channels=3, classes=10)


class Fixed(nn.Module):
    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.rand(2, 10).softmax(1), "returns probabilities"),
        (torch.rand(2, 3), "knows 3 classes, but the labels run from 0 to 5"),
        (torch.rand(2, 10, 1), "float logits N x K are needed"),
        (torch.full((2, 10), float("nan")), "NaN"),
    ],
)
def test_what_is_no_classifier_for_the_data_is_refused(answer: Tensor, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_classifier(Fixed(answer), torch.rand(2, 3, 8, 8), torch.tensor([0, 5]), name="it")


def test_images_of_the_wrong_kind_are_refused_before_any_work() -> None:
    network = build_classifier("resnet20", channels=3, classes=10).eval()
    with pytest.raises(RequestError, match="does not take images of 1x28x28"):
        check_classifier(network, torch.rand(2, 1, 28, 28), torch.tensor([0, 5]), name="it")
