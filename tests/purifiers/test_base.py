"""What every purifier accepts and refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from comdefend.errors import RequestError, WorkError
from comdefend.purifiers import ComDefendPurifier, Identity, Purifier
from comdefend.purifiers.base import with_gradient_of
from tests.conftest import tiny_model

PURIFIER = ComDefendPurifier(tiny_model(), tile=9, pixels_at_once=200)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 4),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    layout=st.sampled_from(["plain", "channels_last", "strided", "expanded"]),
)
def test_shape_and_dtype_are_kept_whatever_the_layout(
    count: int, height: int, width: int, dtype: torch.dtype, layout: str
) -> None:
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        images = images.repeat(1, 1, 2, 2)[:, :, ::2, ::2]
    elif layout == "expanded":
        images = images[:, :1].expand(-1, 3, -1, -1)
    before = images.clone()
    purified = PURIFIER(images)
    assert purified.shape == images.shape
    assert purified.dtype == dtype
    assert torch.equal(images, before)
    if count:
        assert purified.min() >= 0
        assert purified.max() <= 1
        torch.testing.assert_close(
            purified, PURIFIER(images.float().contiguous()).to(dtype), atol=1e-2, rtol=0
        )


@pytest.mark.parametrize("excess", [-3e-8, 1e-6, 5e-4])
def test_values_a_hair_outside_are_taken_for_rounding(excess: float) -> None:
    images = torch.rand(1, 3, 8, 8)
    images[0, 0, 0, 0] = 1 + excess if excess > 0 else excess
    torch.testing.assert_close(PURIFIER(images), PURIFIER(images.clamp(0, 1)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((torch.rand(1, 3, 4, 4) * 255).to(torch.uint8), r"uint8; floats .* images\.float\(\) / 255"),
        (torch.rand(1, 3, 4, 4) * 255, "divide by 255"),
        (torch.randn(1, 3, 4, 4) * 2, "normalise after"),
        (torch.full((1, 3, 4, 4), float("nan")), "NaN"),
        (torch.full((1, 3, 4, 4), float("inf")), "infinite"),
        (torch.rand(3, 4, 4), "N x C x H x W"),
        (torch.rand(1, 4, 4, 3), r"permute\(0, 3, 1, 2\)"),
        (torch.rand(1, 1, 4, 4), "1 channels; this purifier takes 3"),
        (torch.rand(1, 3, 0, 4), "no side may be empty"),
        (np.zeros((1, 3, 4, 4)), "from_numpy"),
    ],
)
def test_other_input_is_refused_with_the_remedy(images: Tensor, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        PURIFIER(images)


def test_one_nan_among_many_values_is_found() -> None:
    images = torch.rand(2, 3, 16, 16)
    images[1, 2, 3, 4] = float("nan")
    with pytest.raises(RequestError, match="NaN"):
        PURIFIER(images)


def test_the_surrogate_of_a_plain_purifier_is_the_identity() -> None:
    images = torch.rand(1, 3, 4, 4)
    assert Identity().surrogate(images) is images


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x * float("nan"), "Odd made NaN"),
        (lambda x: x[:, :, ::2, ::2], r"Odd made \(1, 3, 2, 2\) of images of \(1, 3, 4, 4\)"),
        (lambda x: x[:, :2], r"Odd made \(1, 2, 4, 4\)"),
        (id, "Odd made int"),
    ],
)
def test_a_purifier_that_gives_back_something_else_is_named(
    answer: Callable[[Tensor], Any], message: str
) -> None:
    class Odd(Purifier):
        def purify(self, images: Tensor) -> Tensor:
            return answer(images)  # type: ignore[no-any-return]

    with pytest.raises(WorkError, match=message):
        Odd()(torch.rand(1, 3, 4, 4))


def test_a_purifier_of_ones_own_needs_only_purify() -> None:
    class Darken(Purifier):
        def purify(self, images: Tensor) -> Tensor:
            return images / 2 - 0.1

    purified = Darken()(torch.rand(1, 3, 4, 4))
    assert purified.min() == 0
    assert purified.max() <= 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_borrowed_gradient_leaves_the_values_as_they_are(dtype: torch.dtype) -> None:
    values = torch.rand(2, 3, 4, 4, dtype=dtype)
    stand_in = (10_000 * torch.randn(2, 3, 4, 4)).to(dtype).requires_grad_()
    borrowed = with_gradient_of(values, stand_in)
    assert torch.equal(borrowed, values)
    borrowed.sum().backward()
    assert stand_in.grad is not None
    assert torch.equal(stand_in.grad, torch.ones_like(values))
