"""HGD's denoiser takes any size, starts as the identity, and is differentiable."""

import pytest
import torch

from comdefend.purifiers import HGD
from comdefend.purifiers.hgd import DUNet, DUNetConfig


def tiny(channels: int = 3) -> DUNet:
    return DUNet(DUNetConfig(image_channels=channels, widths=(4, 5, 6))).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 14), (32, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_fresh_denoiser_takes_nothing_off_whatever_the_size(channels: int, size: tuple[int, int]) -> None:
    images = torch.rand(2, channels, *size)
    torch.testing.assert_close(HGD(tiny(channels))(images), images)


def test_its_surrogate_is_itself_with_gradients() -> None:
    model = tiny()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    purifier = HGD(model)
    images = torch.rand(2, 3, 12, 10, requires_grad=True)
    torch.testing.assert_close(purifier.surrogate(images), purifier(images))
    (gradient,) = torch.autograd.grad(purifier.surrogate(images).sum(), images)
    assert float(gradient.abs().max()) > 0


def test_the_original_shape_can_be_built() -> None:
    network = DUNet(DUNetConfig(widths=(64, 128, 256, 256, 256)))
    assert sum(p.numel() for p in network.parameters()) > 5_000_000
    with pytest.raises(ValueError, match="widths"):
        DUNetConfig(widths=(64,))
