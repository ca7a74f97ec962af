"""The method: tables, code, noise and loss."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from comdefend.model import ComDefend, ComDefendConfig, comdefend_loss, initialise
from tests.conftest import tiny_model


def channels(network: nn.Module) -> list[int]:
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    return [convolutions[0].in_channels, *(c.out_channels for c in convolutions)]


def test_networks_have_the_channels_of_tables_1_and_2() -> None:
    model = ComDefend()
    assert channels(model.com) == [3, 16, 32, 64, 128, 256, 128, 64, 32, 12]
    assert channels(model.rec) == [12, 32, 64, 128, 256, 128, 64, 32, 16, 3]


def test_every_layer_but_the_last_is_followed_by_an_elu() -> None:
    for network in (ComDefend().com.layers, ComDefend().rec.layers):
        for layer, following in pairwise(network):
            if isinstance(layer, nn.Conv2d):
                assert isinstance(following, nn.ELU)
        assert isinstance(network[-1], nn.Conv2d)


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
@pytest.mark.parametrize("image_channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (32, 32)])
def test_code_and_image_keep_height_and_width(bits: int, image_channels: int, size: tuple[int, int]) -> None:
    model = ComDefend(ComDefendConfig(image_channels=image_channels, bits=bits))
    images = torch.rand(2, image_channels, *size)
    code = model.compress(images)
    assert code.shape == (2, bits, *size)
    assert code.dtype == torch.bool
    assert model.decompress(code).shape == images.shape


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (8, 16)])
@pytest.mark.parametrize("block", [2, 4])
def test_blocks_share_a_code_and_images_keep_their_size(block: int, size: tuple[int, int]) -> None:
    model = tiny_model(bits=24, block=block)
    images = torch.rand(2, 3, *size)
    blocks = [-(-side // block) for side in size]
    assert model.compress(images).shape == (2, 24, *blocks)
    assert model(images).shape == model.soft(images).shape == images.shape
    whole = model.decompress(model.compress(images))
    assert whole.shape[2:] == tuple(block * side for side in blocks)
    assert torch.equal(whole[..., : size[0], : size[1]], model(images))
    assert model.config.rate == 24 / block**2


def test_an_image_goes_on_past_its_border_as_its_last_row_and_column() -> None:
    model, images = tiny_model(block=2), torch.rand(1, 3, 5, 7)
    longer = torch.cat([images, images[:, :, -1:]], dim=2)
    longer = torch.cat([longer, longer[:, :, :, -1:]], dim=3)
    assert torch.equal(model.compress(images), model.compress(longer))


@pytest.mark.parametrize(("block", "bits"), [(0, 12), (3, 12), (2, 129)])
def test_impossible_blocks_are_refused(block: int, bits: int) -> None:
    with pytest.raises(ValueError, match="must"):
        ComDefendConfig(block=block, bits=bits)


def test_forward_is_compress_then_decompress() -> None:
    model, images = tiny_model(), torch.rand(2, 3, 9, 8)
    assert torch.equal(model(images), model.decompress(model.compress(images)))


def test_reconstruction_lies_in_the_unit_range() -> None:
    purified = tiny_model()(torch.rand(3, 3, 16, 16))
    assert purified.min() >= 0
    assert purified.max() <= 1


@pytest.mark.parametrize(("block", "reach"), [(1, 6), (2, 14)])
def test_a_change_travels_no_farther_than_the_reach(block: int, reach: int) -> None:
    model = tiny_model(block=block)
    images = torch.rand(1, 3, 31, 31)
    changed = images.clone()
    changed[:, :, 15, 15] = 1 - changed[:, :, 15, 15]
    differs = (model(images) != model(changed)).any(1)[0].nonzero()
    assert len(differs) > 0
    assert int((differs - 15).abs().max()) <= model.config.reach == reach


def test_the_papers_networks_reach_18_pixels() -> None:
    assert ComDefendConfig().reach == 18


def test_folding_the_gain_changes_nothing() -> None:
    model, images = tiny_model(), torch.rand(2, 3, 8, 8)
    before = model.com(images)
    model.com.fold_gain()
    assert model.com.gain == 1.0
    torch.testing.assert_close(model.com(images), before)


def test_noise_flips_small_logits_and_spares_large_ones() -> None:
    model = tiny_model()
    model.com.gain = 200.0
    images = torch.rand(8, 3, 16, 16)
    logits = model.com(images)
    noisy = model.noisy_code(images, generator=torch.Generator().manual_seed(0)) > 0.5
    flipped = noisy != (logits > 0)
    small = logits.abs() < 5
    large = logits.abs() > 3 * model.config.phi
    assert 0.2 < flipped[small].float().mean() < 0.6
    assert flipped[large].float().mean() < 0.01


def test_noise_is_drawn_from_the_generator() -> None:
    model, images = tiny_model(), torch.rand(1, 3, 8, 8)

    def draw(seed: int) -> torch.Tensor:
        return model.noisy_code(images, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_loss_is_equation_3() -> None:
    config = ComDefendConfig(phi=0.0, lam=0.5, com_widths=(4,), rec_widths=(4,))
    model = ComDefend(config)
    initialise(model, seed=0)
    images = torch.rand(2, 3, 8, 8)
    code = torch.sigmoid(model.com(images))
    error = (model.rec(code) - images).square().mean()
    loss, reconstruction = comdefend_loss(model, images)
    torch.testing.assert_close(loss.reconstruction, error)
    torch.testing.assert_close(loss.total, 0.5 * error + 0.5 * code.square().mean())
    torch.testing.assert_close(reconstruction, model.rec(code))


def test_a_step_down_the_gradient_lowers_the_loss() -> None:
    model = tiny_model().requires_grad_(True)
    images = torch.rand(4, 3, 16, 16)

    def loss() -> torch.Tensor:
        return comdefend_loss(model, images, generator=torch.Generator().manual_seed(0))[0].total

    before = loss()
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.05 * parameter.grad)
    assert loss() < before


def test_tempered_code_lets_gradients_through_where_the_soft_one_does_not() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.com.gain = 5000.0

    def share_of_zero_gradients(temperature: float) -> float:
        images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model.soft(images, temperature=temperature).sum().backward()
        assert images.grad is not None
        return float((images.grad == 0).float().mean())

    assert share_of_zero_gradients(5000.0) < share_of_zero_gradients(1.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_channels": 2},
        {"bits": 0},
        {"bits": 40},
        {"phi": -1.0},
        {"lam": -1.0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ComDefendConfig(**settings)  # type: ignore[arg-type]


def test_initialisation_depends_on_the_seed_alone() -> None:
    first, second, third = ComDefend(), ComDefend(), ComDefend()
    initialise(first, seed=1)
    torch.rand(5)
    initialise(second, seed=1)
    initialise(third, seed=2)
    weights = [m.com.layers[0].weight for m in (first, second, third)]
    assert torch.equal(weights[0], weights[1])  # type: ignore[arg-type]
    assert not torch.equal(weights[0], weights[2])  # type: ignore[arg-type]
