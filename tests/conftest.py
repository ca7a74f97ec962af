"""What tests share: the shared data if it is there, tiny networks, images on disk."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from comdefend.data import ImageSet, load_data
from comdefend.model import ComDefend, ComDefendConfig, initialise
from comdefend.purifiers import ComDefendPurifier

ROOT = Path(__file__).parent.parent

# Read when the hub's client is imported: tests need no network, and must not wait for one.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("COMDEFEND_SHARED", ROOT.parent / "shared"))
    if not folder.is_absolute():
        folder = ROOT / folder
    if not (folder / "official").is_dir():
        pytest.skip(f"the shared data is not at {folder} (COMDEFEND_SHARED)")
    return folder


@pytest.fixture(scope="session")
def sample() -> ImageSet:
    return load_data("sample:cifar10")


@pytest.fixture(scope="session")
def grey_sample() -> ImageSet:
    return load_data("sample:fashion-mnist")


def tiny_model(channels: int = 3, bits: int = 6, *, block: int = 1) -> ComDefend:
    """A ComDefend of a few hundred weights, with the same parts and a reach of six pixels (or blocks)."""
    config = ComDefendConfig(
        image_channels=channels, bits=bits, com_widths=(5, 4), rec_widths=(4, 5), block=block
    )  # fmt: skip
    model = ComDefend(config, gain=20.0)
    initialise(model, seed=1)
    return model.eval().requires_grad_(False)


@pytest.fixture
def tiny_purifier() -> ComDefendPurifier:
    return ComDefendPurifier(tiny_model())


class TinyClassifier(nn.Module):
    """Five classes told apart by linear features of a pooled image."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weights = nn.Parameter(torch.randn(classes, channels * 16, generator=generator) * 4)

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(images - 0.5, 4).flatten(1)
        # A bend, so that attacks on it are not solved exactly by one step.
        return torch.tanh(pooled * 3) @ self.weights.T


@pytest.fixture
def tiny_classifier() -> nn.Module:
    return TinyClassifier().eval()


@pytest.fixture
def image_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes an image of random pixels: `image_file("a.png", size=(7, 5), mode="L")`."""

    def write(name: str, *, size: tuple[int, int] = (12, 9), mode: str = "RGB") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
        image = Image.fromarray(values, "RGBA")
        (image if "A" in mode else image.convert("RGB")).convert(mode).save(path)
        return path

    return write
