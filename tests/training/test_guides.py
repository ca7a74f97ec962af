"""What classifiers tell a purifier's training."""

from pathlib import Path

import pytest
import torch

from comdefend.data import load_data
from comdefend.errors import RequestError
from comdefend.training.guides import Guide

CLASSIFIERS = """
import torch
from torch import nn

class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, groups=3, bias=False)
        nn.init.constant_(self.conv.weight, 2.0)

    def forward(self, images):
        return self.conv(images).square().mean((2, 3))

class Means(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))
"""


@pytest.fixture
def reference(tmp_path: Path) -> str:
    file = tmp_path / "nets.py"
    file.write_text(CLASSIFIERS)
    return str(file)


def guide(reference: str) -> Guide:
    return Guide(reference, load_data("sample:cifar10"), channels=3)


def test_distances_are_in_relation_to_what_the_image_gives(reference: str) -> None:
    images = torch.full((2, 3, 4, 4), 0.4)
    logits, features = guide(f"{reference}:Doubling").apart(images, 1.5 * images)
    assert float(features) == pytest.approx(0.5)
    assert float(logits) == pytest.approx(1.25)  # squared: 1.5 * 1.5 - 1


def test_the_same_image_is_not_apart_from_itself() -> None:
    images = load_data("sample:cifar10").images(range(4))
    assert [float(d) for d in guide("cifar10-resnet9-plain").apart(images, images)] == [0, 0]


def test_features_are_those_of_the_call_at_hand(reference: str) -> None:
    ours = guide(f"{reference}:Doubling")
    images = torch.rand(2, 3, 4, 4)
    first = ours.apart(images, images.flip(3))
    ours.classifier(images)  # somebody else's call in between
    assert torch.equal(torch.stack(first), torch.stack(ours.apart(images, images.flip(3))))


def test_only_the_purified_image_is_taught(reference: str) -> None:
    ours = guide(f"{reference}:Doubling")
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    purified = torch.rand(2, 3, 4, 4, requires_grad=True)
    torch.stack(ours.apart(images, purified)).sum().backward()
    assert images.grad is None
    assert all(p.grad is None for p in ours.classifier.parameters())
    assert purified.grad is not None
    assert purified.grad.abs().min() > 0


def test_a_classifier_without_convolutions_guides_by_its_logits(reference: str) -> None:
    images = torch.rand(2, 3, 4, 4)
    logits, features = guide(f"{reference}:Means").apart(images, images / 2)
    assert float(logits) == pytest.approx(0.5)
    assert float(features) == 0


def test_features_that_nobody_asks_for_are_left_alone(reference: str) -> None:
    logits_alone = Guide(f"{reference}:Doubling", load_data("sample:cifar10"), channels=3, features=False)
    images = torch.rand(2, 3, 4, 4)
    logits, features = logits_alone.apart(images, images / 2)
    assert float(logits) == pytest.approx(0.75)
    assert float(features) == 0


def test_a_guide_must_take_the_images() -> None:
    with pytest.raises(RequestError, match="'fashion-mnist-resnet9-plain' does not take images of 3x32x32"):
        guide("fashion-mnist-resnet9-plain")
