"""Data by reference: samples, folders, Parquet, and what is refused."""

import json
import sys
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


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_image_of_a_class_folder_counts_whatever_it_is_called(
    split: str, image_file: Writer, tmp_path: Path
) -> None:
    for name in ("cat/my-test.png", "cat/train.png", "train/a.png", "test/deep/b.jpg", "validation/c.png"):
        image_file(f"d[1]/{name}")
    data = load_data(str(tmp_path / "d[1]"), split=split)
    assert data.split == "all"
    assert data.classes == ("cat", "test", "train", "validation")
    assert data.labels().tolist() == [0, 0, 1, 2, 3]


def test_a_folder_whose_splits_hold_class_folders_has_splits(image_file: Writer, tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "train/dog/test.png", "val/dog/c.png"):
        image_file(f"pets/{name}")
    train, test = (load_data(str(tmp_path / "pets"), split=split) for split in ("train", "test"))
    assert (train.split, train.labels().tolist()) == ("train", [0, 1])
    assert (test.split, test.classes, test.labels().tolist()) == ("val", ("cat", "dog"), [1])


def test_folders_called_as_splits_that_hold_images_are_classes_and_it_is_said(
    image_file: Writer, tmp_path: Path
) -> None:
    for name in ("train/a.png", "test/b.png"):
        image_file(f"d/{name}")
    data = load_data(str(tmp_path / "d"))
    assert data.classes == ("test", "train")
    assert data.notes == (f"Data {data.name!r}: test, train hold images themselves and so count as classes.",)


def test_linked_class_folders_are_followed_and_no_class_shifts(image_file: Writer, tmp_path: Path) -> None:
    for name in ("pets/ant/a.png", "elsewhere/b.png", "pets/eel/c.png"):
        image_file(name)
    (tmp_path / "pets" / "bee").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "pets")
    (tmp_path / "pets" / "cow").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "pets" / "cow" / "d.gif")
    (tmp_path / "pets" / "eel" / "c.png").rename(tmp_path / "pets" / "eel" / "c.jfif")
    data = load_data(str(tmp_path / "pets"))
    assert data.classes == ("ant", "bee", "cow", "eel")
    assert data.labels().tolist() == [0, 1, 3]
    left_out, empty = data.notes
    assert "left out: 1 .gif" in left_out
    assert "class folders without images, which count: cow" in empty


def test_images_beside_class_folders_leave_no_labels_and_are_named(
    image_file: Writer, tmp_path: Path
) -> None:
    for name in ("cat/a.png", "b.png"):
        image_file(f"pets/{name}")
    data = load_data(str(tmp_path / "pets"))
    assert len(data) == 2
    with pytest.raises(RequestError, match=r"b\.png' is in no class folder"):
        data.labels()


@pytest.mark.parametrize("grey", [0, 2])
def test_a_set_of_grey_and_colour_is_colour_and_it_is_said(
    grey: int, image_file: Writer, tmp_path: Path
) -> None:
    for number in range(3):
        image_file(f"{number}.png", mode="L" if number == grey else "RGB")
    data = load_data(str(tmp_path))
    assert data.channels == data.subset([grey]).channels == data.sized(4).channels == 3
    assert data.images().shape == (3, 3, 9, 12)
    assert data.notes == (
        f"Data {data.name!r}: 1 of 3 images are grey, the others in colour; all are read as colour.",
    )


def parquet_file(path: Path, images: list[object], *, names: list[str] | None = None) -> None:
    """A Parquet file of images with labels 0, 1, ..., and class names as `datasets` writes them."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"image": images, "label": list(range(len(images)))})
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata(metadata), path)


def stored(mode: str = "RGB", format: str = "PNG") -> dict[str, object]:
    buffer = BytesIO()
    Image.new(mode, (4, 4)).save(buffer, format=format)
    return {"bytes": buffer.getvalue(), "path": None}


def test_parquet_files_are_splits_where_all_are_named_so(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "test-0"):
        parquet_file(tmp_path / "a" / "data" / f"{name}.parquet", [stored()], names=["cat"])
        parquet_file(tmp_path / "b" / f"my-{name}.parquet", [stored()])
    parquet_file(tmp_path / "b" / "test.parquet", [stored()])
    assert len(load_data(str(tmp_path / "a"), split="train")) == 2
    assert load_data(str(tmp_path / "a")).classes == ("cat",)
    assert len(load_data(str(tmp_path / "b"))) == len(load_data(str(tmp_path / "b"), split="train")) == 4


def test_parquet_files_that_name_other_classes_are_refused(tmp_path: Path) -> None:
    parquet_file(tmp_path / "train-0.parquet", [stored()], names=["cat"])
    parquet_file(tmp_path / "train-1.parquet", [stored()], names=["dog"])
    with pytest.raises(RequestError, match=r"train-1\.parquet' names other classes"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    "image", [stored(format="GIF"), {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n", "path": None}]
)
def test_only_the_named_formats_are_opened_in_parquet(image: object, tmp_path: Path) -> None:
    parquet_file(tmp_path / "a.parquet", [stored(), image])
    with pytest.raises(RequestError, match="image 1 is not an image that can be read"):
        load_data(str(tmp_path / "a.parquet"))


def test_parquet_that_does_not_fit_in_memory_reads_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parquet_file(tmp_path / "a.parquet", [stored(), stored("L")], names=["cat", "dog"])
    small = load_data(str(tmp_path / "a.parquet"))
    monkeypatch.setattr("comdefend.data.IN_MEMORY", 0)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    large = load_data(str(tmp_path / "a.parquet"))
    assert (large.classes, large.digest([0, 1])) == (small.classes, small.digest([0, 1]))
    assert (tmp_path / "cache").is_dir()


def test_what_lies_here_needs_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert load_data("sample:cifar10").array(0).shape == (32, 32, 3)


def test_a_folder_of_a_sets_name_is_used_before_the_hub(
    monkeypatch: pytest.MonkeyPatch, image_file: Writer, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMDEFEND_DATA", raising=False)
    image_file("cifar10/cat/a.png")
    assert load_data("cifar10").classes == ("cat",)
    image_file("data/cifar10/dog/a.png")
    monkeypatch.setenv("COMDEFEND_DATA", str(tmp_path / "data"))
    assert load_data("cifar10").classes == ("dog",)


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
