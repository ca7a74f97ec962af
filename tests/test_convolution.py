"""Convolutions in bfloat16 on processors with and without instructions for it."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import comdefend
from comdefend import convolution
from comdefend.convolution import Conv2d

GRAIN = 2.0**-8
"""Half the distance from 1 to the next number of bfloat16: what one rounding is worth."""


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "HAS_BFLOAT16", False)


def convolved_in(network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> set[torch.dtype]:
    """The number formats of all that the convolutions of a network are given."""
    seen = set()
    convolve = nn.Conv2d._conv_forward

    def spied(layer: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.update({images.dtype, weight.dtype})
        found: Tensor = convolve(layer, images, weight, bias)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(nn.Conv2d, "_conv_forward", spied)
        network(images)
    return seen


@pytest.mark.parametrize("reference", ["comdefend:weights=cifar10-guided", "hgd"])
def test_purifiers_convolve_in_float32_where_the_processor_has_no_bfloat16(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    purifier = comdefend.load(reference, channels=3, data="cifar10", dtype="bfloat16")
    images = torch.rand(1, 3, 32, 32)
    monkeypatch.setattr(convolution, "HAS_BFLOAT16", False)
    assert convolved_in(purifier, images, monkeypatch) == {torch.float32}
    monkeypatch.setattr(convolution, "HAS_BFLOAT16", True)
    assert convolved_in(purifier, images, monkeypatch) == {torch.bfloat16}


@pytest.mark.usefixtures("without_bfloat16")
def test_numbers_of_two_formats_are_refused_as_by_any_convolution() -> None:
    with pytest.raises(RuntimeError, match="type"):
        Conv2d(3, 4, 3)(torch.rand(1, 3, 8, 8).bfloat16())


@given(
    seed=st.integers(0, 99),
    channels=st.integers(1, 9),
    size=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
def test_it_is_one_rounding_away_from_the_exact_sums(
    seed: int, channels: int, size: int, stride: int, *, bias: bool
) -> None:
    torch.manual_seed(seed)
    layer = Conv2d(channels, 5, size, stride=stride, padding=size // 2, bias=bias).bfloat16()
    images = torch.rand(2, channels, 6, 7).bfloat16()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "HAS_BFLOAT16", False)
        found = layer(images)
    exact = layer.double()(images.double())
    assert found.dtype == torch.bfloat16
    assert ((found - exact).abs() <= 1.01 * GRAIN * exact.abs() + 1e-6).all()


@pytest.mark.usefixtures("without_bfloat16")
def test_its_gradients_are_those_of_the_numbers_it_was_given() -> None:
    torch.manual_seed(0)
    layer = Conv2d(4, 6, 3, padding=1).bfloat16()
    images = torch.rand(2, 4, 5, 5).bfloat16().requires_grad_()
    layer(images).float().square().sum().backward()
    found = [images.grad, *(p.grad for p in layer.parameters())]

    exact, inputs = deepcopy(layer).double(), images.detach().double().requires_grad_()
    exact.zero_grad()
    exact(inputs).square().sum().backward()
    for got, wanted in zip(found, [inputs.grad, *(p.grad for p in exact.parameters())], strict=True):
        assert got is not None
        assert wanted is not None
        assert got.dtype == torch.bfloat16
        assert (got - wanted).norm() < 4 * GRAIN * wanted.norm()


@pytest.mark.usefixtures("without_bfloat16")
def test_float32_is_left_alone() -> None:
    layer = Conv2d(3, 4, 3)
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(layer(images), nn.functional.conv2d(images, layer.weight, layer.bias))


def test_a_purifier_answers_the_same_whatever_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    purifier = comdefend.load("comdefend:weights=cifar10-guided", dtype="bfloat16")
    found = []
    for has in (True, False):
        monkeypatch.setattr(convolution, "HAS_BFLOAT16", has)
        found.append(purifier(images))
    assert (found[0] - found[1]).abs().mean() < 1 / 255
    assert not torch.equal(found[0], purifier(1 - images))


def test_torch_compile_traces_it_without_a_break() -> None:
    torch.manual_seed(0)
    layer = Conv2d(3, 4, 3).bfloat16()
    images = torch.rand(1, 3, 8, 8).bfloat16()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images), layer(images))
