"""The rival defences that need no training: what each does, and what all of them promise."""

from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from comdefend import load
from comdefend.attacks import find_attack, fooled
from comdefend.classifiers import load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.errors import RequestError
from comdefend.purifiers import (
    JPEG,
    Chain,
    FeatureSqueezing,
    GaussianSmoothing,
    Purifier,
    ResizePad,
    TotalVariation,
)
from comdefend.purifiers.resize_pad import place

DEFENCES: tuple[Purifier, ...] = (
    FeatureSqueezing(), GaussianSmoothing(), JPEG(), ResizePad(), TotalVariation(),
)  # fmt: skip
EACH = pytest.mark.parametrize("defence", DEFENCES, ids=lambda d: type(d).__name__)


@EACH
@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(0, 3),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_shape_dtype_and_range_are_kept(
    defence: Purifier, count: int, channels: int, height: int, width: int, dtype: torch.dtype
) -> None:
    images = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = images.clone()
    purified = defence(images)
    assert purified.shape == images.shape
    assert purified.dtype == dtype
    assert torch.equal(images, before)
    if count:
        assert 0 <= purified.min() <= purified.max() <= 1


@EACH
def test_it_says_whether_two_calls_may_differ(defence: Purifier) -> None:
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(defence(images), defence(images)) is not defence.stochastic


@EACH
def test_its_surrogate_is_near_and_passes_gradients(defence: Purifier, sample: ImageSet) -> None:
    images = sample.images(range(4)).requires_grad_(True)
    torch.manual_seed(1)
    stand_in = defence.surrogate(images)
    torch.manual_seed(1)
    assert float((stand_in - defence(images)).detach().abs().mean()) < 0.03
    (gradient,) = torch.autograd.grad(stand_in.square().sum(), images)
    assert float((gradient != 0).float().mean()) > 0.5


@pytest.fixture(scope="module")
def turned() -> tuple[nn.Module, Tensor, Tensor]:
    """A shipped classifier, the smallest DeepFool perturbations that fool it, and the true labels."""
    classifier = load_classifier("cifar10-resnet9-plain")
    data = load_data("sample:cifar10")
    images, labels = data.images(range(60)), data.labels(range(60))
    attack = find_attack("deepfool", "minimal")
    assert attack is not None
    adversarial = attack(classifier, images, labels, epsilon=8 / 255)
    rows = fooled(classifier, adversarial, labels) & ~fooled(classifier, images, labels)
    return classifier, adversarial[rows], labels[rows]


@pytest.mark.parametrize(
    "reference",
    ["comdefend", "feature-squeezing", "gaussian", "hgd", "jpeg", "pixeldefend", "resize-pad", "tv"],
)
def test_it_turns_minimal_adversarial_images_back(
    reference: str, turned: tuple[nn.Module, Tensor, Tensor]
) -> None:
    classifier, adversarial, labels = turned
    assert len(labels) > 30
    if reference == "pixeldefend":  # which takes its time for each pixel
        adversarial, labels = adversarial[:16], labels[:16]
    defence = load(reference, channels=3, data="cifar10")
    still = fooled(classifier, defence(adversarial), labels)
    assert float(still.float().mean()) < 0.6


def test_a_chain_of_them_has_the_gradient_of_autograd() -> None:
    first, second = GaussianSmoothing(sigma=0.8), TotalVariation(steps=5)
    images = torch.rand(2, 3, 9, 7, requires_grad=True)
    weights = torch.rand(2, 3, 9, 7)
    (ours,) = torch.autograd.grad((Chain([first, second])(images) * weights).sum(), images)
    (plain,) = torch.autograd.grad((second(first(images)) * weights).sum(), images)
    torch.testing.assert_close(ours, plain)
    (stand_in,) = torch.autograd.grad((Chain([first, second]).surrogate(images) * weights).sum(), images)
    torch.testing.assert_close(stand_in, plain)


def test_jpeg_is_what_pillow_makes_of_the_file() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=40)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(JPEG(quality=40)(images), expected)


@pytest.mark.parametrize("window", [2, 3])
def test_feature_squeezing_is_scipys_median_of_fewer_values(window: int) -> None:
    from scipy.ndimage import median_filter

    images = torch.rand(2, 3, 9, 10)
    coarse = torch.round(images * 31) / 31
    expected = median_filter(coarse.numpy(), size=(1, 1, window, window), mode="nearest")
    squeezed = FeatureSqueezing(bits=5, window=window)(images)
    torch.testing.assert_close(squeezed, torch.from_numpy(expected))
    assert len(FeatureSqueezing(bits=2, window=1)(images).unique()) == 4


def test_smoothing_keeps_flat_images_and_narrows_noise() -> None:
    flat = torch.full((1, 3, 12, 12), 0.3)
    noisy = (flat + 0.05 * torch.randn(flat.shape)).clamp(0, 1)
    for defence in (GaussianSmoothing(sigma=1.5), TotalVariation(weight=0.1)):
        torch.testing.assert_close(defence(flat), flat)
        assert defence(noisy).std() < 0.7 * noisy.std()


def test_total_variation_is_at_its_minimum() -> None:
    weight = 0.1
    image = torch.rand(1, 1, 10, 10, dtype=torch.float64)

    def cost(u: Tensor) -> Tensor:
        down = functional.pad(u[:, :, 1:] - u[:, :, :-1], (0, 0, 0, 1))
        right = functional.pad(u[:, :, :, 1:] - u[:, :, :, :-1], (0, 1))
        variation = (down.square() + right.square()).add(1e-18).sqrt().sum()
        return variation + (u - image).square().sum() / (2 * weight)

    found = TotalVariation(weight=weight, steps=2000)(image)
    least = cost(found)
    assert least < cost(image)
    for _ in range(50):
        assert least <= cost(found + 0.01 * torch.randn_like(found)) + 1e-6


def test_resize_pad_is_a_resized_image_on_black() -> None:
    images = torch.rand(2, 3, 12, 10)
    size, offset = torch.tensor([[8.0, 9.0], [10.0, 12.0]]), torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    placed = place(images, size, offset)
    small = functional.interpolate(images[:1], (9, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(placed[:1], functional.pad(small, (1, 1, 2, 1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(placed[1:], images[1:], atol=1e-5, rtol=0)


def test_resize_pad_draws_anew_for_each_image_and_follows_the_seed() -> None:
    images = torch.rand(1, 3, 16, 16).expand(6, -1, -1, -1)
    defence = ResizePad(smallest=0.5)
    torch.manual_seed(3)
    first = defence(images)
    assert not all(torch.equal(first[0], other) for other in first[1:])
    torch.manual_seed(3)
    assert torch.equal(first, defence(images))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("jpeg:quality=0", "quality is 0; it must be a whole number from 1 to 95"),
        ("jpeg:quality=high", "quality is 'high'"),
        ("feature-squeezing:bits=9", "bits is 9"),
        ("feature-squeezing:window=0", "window is 0"),
        ("gaussian:sigma=0", "sigma is 0"),
        ("tv:weight=-1", "weight is -1"),
        ("tv:steps=0", "steps is 0"),
        ("resize-pad:smallest=1.5", r"smallest is 1.5"),
        ("feature-squeezing:bits=5,windw=2", "windw"),
        ("feature-sqeezing", "did you mean feature-squeezing"),
    ],
)
def test_impossible_settings_are_refused(reference: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(reference)


def test_references_reach_them_and_their_settings_are_known() -> None:
    chain = load("jpeg:quality=50+feature-squeezing:bits=4,window=3+resize-pad")
    assert chain.stochastic
    assert chain.settings() == {
        "0 JPEG": {"quality": 50},
        "1 FeatureSqueezing": {"bits": 4, "window": 3},
        "2 ResizePad": {"smallest": 0.9},
    }
    assert isinstance(chain, nn.Module)
