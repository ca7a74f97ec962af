"""PixelDefend's walk is the model's own, and every step of it raises the likelihood."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from comdefend.errors import RequestError
from comdefend.purifiers import PixelDefend
from comdefend.purifiers.pixelcnn import PixelCNN, PixelCNNConfig, log_logistic


def tiny(channels: int = 3) -> PixelCNN:
    torch.manual_seed(2)
    config = PixelCNNConfig(image_channels=channels, features=6, layers=2, mixtures=2)
    return PixelCNN(config).eval().requires_grad_(False)


def bytes_(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape) / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_walking_gives_the_parameters_of_the_whole_image(channels: int) -> None:
    model, images, seen = tiny(channels), bytes_(2, channels, 5, 7), []

    def keep(parameters: Tensor, pixel: Tensor) -> Tensor:
        seen.append(parameters)
        return pixel

    assert torch.equal(model.walk(images, keep), images)
    walked = torch.stack(seen, -1).unflatten(-1, (5, 7))
    torch.testing.assert_close(walked, model(images), atol=1e-5, rtol=1e-5)


def test_a_pixel_depends_on_all_before_it_and_on_none_after() -> None:
    torch.manual_seed(0)
    model = PixelCNN(PixelCNNConfig(features=6, layers=8, mixtures=1))
    images = torch.rand(1, 3, 7, 7, requires_grad=True)
    row, column = 3, 3
    (gradient,) = torch.autograd.grad(model(images)[0, :, row, column].square().sum(), images)
    reached = gradient[0].abs().sum(0) > 0
    before = torch.zeros(7, 7, dtype=torch.bool)
    before[:row] = True
    before[row, :column] = True
    assert torch.equal(reached, before)


@settings(max_examples=30, deadline=None)
@given(mean=st.floats(-1.5, 1.5), log_scale=st.floats(-7, 1))
def test_the_probabilities_of_all_levels_sum_to_one(mean: float, log_scale: float) -> None:
    levels = torch.arange(256) / 127.5 - 1
    each = log_logistic(levels, torch.tensor(mean), torch.tensor(log_scale))
    assert abs(float(each.exp().sum()) - 1) < 2e-3


def test_bits_are_those_of_each_channel_in_turn() -> None:
    """A model that knows nothing pays what its one logistic says for every value."""
    model = tiny(1)
    for parameter in model.parameters():
        parameter.zero_()
    images = bytes_(2, 1, 4, 4)
    one = log_logistic(images * 2 - 1, torch.tensor(0.0), torch.tensor(0.0))
    expected = -one.flatten(1).mean(1) / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(model.bits_per_dimension(images), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_purified_images_are_likelier_and_within_epsilon(channels: int) -> None:
    model, images = tiny(channels), bytes_(3, channels, 6, 5)
    purified = PixelDefend(model, epsilon=10 / 255)(images)
    assert (purified - images).abs().max() <= 10 / 255 + 1e-6
    assert (model.bits_per_dimension(purified) < model.bits_per_dimension(images)).all()
    torch.testing.assert_close(PixelDefend(model, epsilon=0)(images), images)


def test_images_between_two_levels_move_no_farther() -> None:
    images = torch.rand(2, 1, 5, 4, generator=torch.Generator().manual_seed(3))
    purified = PixelDefend(tiny(1), epsilon=2 / 255)(images)
    assert (purified - images).abs().max() <= 2 / 255 + 2e-6


def test_the_first_value_is_the_likeliest_of_its_window() -> None:
    model, images = tiny(1), bytes_(1, 1, 3, 3)
    reach = 20
    parameters = model(images)[:, :, 0, 0]
    levels = torch.arange(256) / 255
    near = levels[(levels - images[0, 0, 0, 0]).abs() <= reach / 255 + 1e-6]
    expected = model.likeliest(parameters, near[None, None])
    purified = PixelDefend(model, epsilon=reach / 255)(images)
    torch.testing.assert_close(purified[:, :, 0, 0], expected)


def test_batches_do_not_matter() -> None:
    # In double precision: a tie broken by rounding would change all pixels after it.
    model, images = tiny().double(), bytes_(5, 3, 4, 4)
    torch.testing.assert_close(PixelDefend(model, batch=2)(images), PixelDefend(model)(images))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(RequestError, match="epsilon is 2 as a fraction"):
        PixelDefend(tiny(), epsilon=2)
    with pytest.raises(RequestError, match="batch is 0"):
        PixelDefend(tiny(), batch=0)
    with pytest.raises(ValueError, match="mixtures is 0"):
        PixelCNNConfig(mixtures=0)
