"""Data by reference: samples, folders, Parquet, and what is refused."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comdefend.data import ImageSet, load_data
from comdefend.errors import RequestError

Writer = Callable[..., Path]


def test_samples_ship_with_labels_and_class_names(sample: ImageSet, grey_sample: ImageSet) -> None:
    assert (len(sample), sample.channels, sample.classes[3]) == (1000, 3, "cat")
    assert (len(grey_sample), grey_sample.channels) == (1000, 1)
    assert set(sample.labels().tolist()) == set(range(10))


def test_images_are_floats_in_the_unit_range(sample: ImageSet) -> None:
    images = sample.images(range(3))
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1


def test_pick_draws_by_seed_without_repetition(sample: ImageSet) -> None:
    chosen = sample.pick(50, seed=1)
    assert chosen == sample.pick(50, seed=1) != sample.pick(50, seed=2)
    assert len(set(chosen)) == 50
    assert sample.pick(None, seed=0) == list(range(1000)) == sample.pick(5000, seed=0)


def test_a_folder_of_class_folders_has_labels(image_file: Writer, tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        image_file(f"pets/{name}")
    data = load_data(str(tmp_path / "pets"))
    assert data.classes == ("cat", "dog")
    assert sorted(data.labels().tolist()) == [0, 0, 1]


def test_a_folder_of_loose_images_has_none(image_file: Writer, tmp_path: Path) -> None:
    image_file("loose/a.png")
    image_file("loose/b.png", size=(5, 5))
    data = load_data(str(tmp_path / "loose"))
    assert not data.has_labels
    with pytest.raises(RequestError, match="has no labels"):
        data.labels()
    with pytest.raises(RequestError, match="images of 12x9 and 5x5 cannot form one batch"):
        data.pixels()


def test_photographs_are_brought_to_one_size_by_their_middles(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200  # the middle third of a wide picture is all that is left of it
    for name, pixels in {"a": wide, "b": wide.transpose(1, 0, 2), "c": wide[:, 10:20]}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    data = load_data(str(tmp_path))
    assert data.sizes(range(3)) == {(30, 10), (10, 30), (10, 10)}
    sized = data.sized(20).subset([0, 1, 2])
    assert sized.sizes([1]) == {(20, 20)}
    assert sized.name.endswith("at 20x20")
    pixels_of = sized.pixels()
    assert pixels_of.shape == (3, 3, 20, 20)
    assert pixels_of[:, :, 5:15, 5:15].min() == pixels_of[2].max() == 200


def test_the_digest_is_that_of_pixels_and_labels(image_file: Writer, tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/a.png"):  # the same picture with two labels
        image_file(f"pets/{name}")
    data = load_data(str(tmp_path / "pets"))
    assert data.digest([0, 1]) == data.digest([0, 1]) != data.digest([1, 0])
    assert data.digest([0]) != data.sized(5).digest([0])


@pytest.mark.parametrize("labels", [[0.5, 1.5], [[0], [1]], [0, None], ["cat", "dog"]])
def test_labels_that_are_no_whole_numbers_are_refused(labels: list[object], tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    buffer = BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format="PNG")
    column = [{"bytes": buffer.getvalue(), "path": None}] * 2
    parquet.write_table(pyarrow.table({"image": column, "label": labels}), tmp_path / "a.parquet")
    data = load_data(str(tmp_path / "a.parquet"))
    assert data.images().shape == (2, 3, 4, 4)
    with pytest.raises(RequestError, match="labels are whole numbers"):
        data.labels()


@pytest.mark.parametrize("limit", [0, -1, 1.5])
def test_a_limit_must_be_a_positive_number(limit: int, sample: ImageSet) -> None:
    with pytest.raises(RequestError, match="limit is"):
        sample.pick(limit, seed=0)


def test_named_sets_come_from_the_data_folder(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMDEFEND_DATA", str(shared / "datasets"))
    data = load_data("mnist")
    assert (data.channels, data.array(0).shape) == (1, (28, 28, 1))


def test_named_sets_without_folder_or_hub_say_where_to_put_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMDEFEND_DATA", str(tmp_path))
    with pytest.raises(RequestError, match=r"no folder 'cifar10' in \$COMDEFEND_DATA"):
        load_data("cifar10")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("cifar", "did you mean cifar10"),
        ("sample:imagenet", "there is no sample 'imagenet'"),
        ("nothing-like-it", "neither a file or folder nor a known name"),
    ],
)
def test_unknown_references_name_the_known_ones(reference: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load_data(reference)


def test_files_that_are_no_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(RequestError, match="must be Parquet"):
        load_data(str(tmp_path / "a.csv"))
    (tmp_path / "b.parquet").write_text("no parquet")
    with pytest.raises(RequestError, match="cannot be read"):
        load_data(str(tmp_path / "b.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="cannot be read"):
        load_data(str(tmp_path / "empty"))
