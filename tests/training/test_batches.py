"""Batches are functions of seed and step."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from comdefend.data import ImageSet, load_data
from comdefend.errors import RequestError
from comdefend.training.batches import Batches, seeded

Made = list[tuple[Tensor, Tensor]]


def batches(data: ImageSet, start: int, stop: int, **options: int | bool) -> Made:
    settings: dict[str, int | bool] = {
        "batch": 100,
        "seed": 0,
        "crop": 16,
        "shift": 2,
        "flip": True,
        "channels": 3,
    }
    return list(Batches(data, **{**settings, **options}).between(start, stop))  # type: ignore[arg-type]


def same(first: Made, second: Made) -> bool:
    return all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_a_later_start_sees_the_batches_it_would_have_seen(sample: ImageSet) -> None:
    assert same(batches(sample, 0, 14)[9:], batches(sample, 9, 14))


def test_the_seed_changes_them(sample: ImageSet) -> None:
    assert not same(batches(sample, 0, 1), batches(sample, 0, 1, seed=1))


def test_an_epoch_shows_every_image_once_in_a_new_order(sample: ImageSet) -> None:
    first = torch.cat([labels for _, labels in batches(sample, 0, 10)])
    second = torch.cat([labels for _, labels in batches(sample, 10, 20)])
    assert torch.equal(first.bincount(), sample.labels().bincount())
    assert not torch.equal(first, second)


def test_several_devices_share_each_batch(sample: ImageSet) -> None:
    whole = batches(sample, 0, 2)
    parts = [batches(sample, 0, 2, rank=rank, world=2) for rank in (0, 1)]
    for step in range(2):
        assert torch.equal(whole[step][1], torch.cat([part[step][1] for part in parts]))
    with pytest.raises(RequestError, match="multiple of the 3 devices"):
        batches(sample, 0, 1, world=3)


def test_flips_mirror_every_image_in_every_second_epoch(sample: ImageSet) -> None:
    plain = torch.cat([i for i, _ in batches(sample, 0, 10, crop=32, shift=0, flip=False)])
    flipped = torch.cat([i for i, _ in batches(sample, 0, 10, crop=32, shift=0)])
    share = (plain != flipped).flatten(1).any(1).float().mean()
    assert 0.3 < share < 0.7
    assert bool(((plain == flipped) | (plain.flip(3) == flipped)).flatten(1).all())


def test_images_of_many_sizes_are_cropped_one_by_one(image_file: Callable[..., Path], tmp_path: Path) -> None:
    for number, size in enumerate([(20, 30), (16, 16), (40, 17)]):
        image_file(f"in/{number}.png", size=size)
    data = load_data(str(tmp_path / "in"))
    ((images, labels),) = batches(data, 0, 1, batch=3, flip=False, shift=0)
    assert images.shape == (3, 3, 16, 16)
    assert labels.tolist() == [-1, -1, -1]
    with pytest.raises(RequestError, match="needs a crop"):
        list(Batches(data, batch=3, seed=0, channels=3).between(0, 1))
    with pytest.raises(RequestError, match="smaller than the recipe's crop of 18"):
        batches(data, 0, 1, batch=3, crop=18)


def test_a_batch_larger_than_the_data_is_refused(sample: ImageSet) -> None:
    with pytest.raises(RequestError, match="batch is 1001"):
        batches(sample, 0, 1, batch=1001)


def test_seeded_generators_differ_in_every_number() -> None:
    draws = {
        float(torch.rand((), generator=seeded(*numbers), dtype=torch.float64))
        for numbers in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 2), (0, 2, 1)]
    }
    assert len(draws) == 8
