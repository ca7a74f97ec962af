"""Labelled images by reference: a named set, a folder, a Parquet file, a hub name, a shipped sample.

What lies here is listed by this module alone: every image counts, whatever it or its folder is called.
Hugging Face `datasets` downloads what is on the hub, and holds what does not fit in memory.
"""

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comdefend.errors import MissingExtraError, RequestError
from comdefend.image import FORMATS, files_in, is_grey, open_image

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger(__name__)

DATA_VARIABLE = "COMDEFEND_DATA"
"""Environment variable: the folder in which named data sets are looked for before the hub."""


@dataclass(frozen=True)
class NamedSet:
    """A data set that has a name of its own: its folder under $COMDEFEND_DATA, its place on the hub, and
    how many classes it has.
    """

    folder: str
    hub: str
    classes: int = 10


NAMED = {
    "cifar10": NamedSet(folder="cifar10", hub="uoft-cs/cifar10"),
    "fashion-mnist": NamedSet(folder="fashion_mnist", hub="zalando-datasets/fashion_mnist"),
    "mnist": NamedSet(folder="mnist", hub="ylecun/mnist"),
}

SAMPLES = ("cifar10", "fashion-mnist")
"""Data sets of which the first 1,000 test images ship with the package, as `sample:NAME`."""

IN_MEMORY = 2**31
"""Bytes of Parquet files up to which they are read into memory; more of them go through a disk cache."""

_SPLITS = ("train", "test", "validation", "valid", "val")
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


class DifferentSizesError(RequestError):
    """Images that would have to form one batch have different sizes."""


@dataclass(frozen=True)
class Source:
    """Where the images and labels of one split are, before any is decoded.

    `images`: paths, or a column of Parquet. `labels`: one for each image, or None; `unlabelled` says why
    there are none. `classes`: the names of the labels. `notes`: what was left out, in sentences.
    """

    images: "Sequence[Path] | pyarrow.ChunkedArray"
    labels: "Sequence[Any] | pyarrow.ChunkedArray | None"
    classes: tuple[str, ...] = ()
    unlabelled: str = ""
    notes: tuple[str, ...] = ()


class ImageSet:
    """Images of one split of a data set, with labels where it has them; decoded when asked for.

    `channels` is 1 where all images of the split are grey and 3 otherwise, also in a part of it. `classes`
    are the names of the labels, empty where the data set does not tell. `split` is the one that was opened;
    "all" where there is only one. `notes` say in sentences what was left out or changed; they are logged.

    Raises `RequestError` for a split without images, and for an image whose header cannot be read.
    """

    def __init__(self, source: Source, *, name: str, split: str) -> None:
        count = len(source.images)
        if count == 0:
            raise RequestError(f"data {name!r}: the split {split!r} holds no images")
        self.name = name
        self.split = split
        self.classes = source.classes
        self.notes = source.notes
        self._source = source
        self._indices: Sequence[int] = range(count)
        self._side: int | None = None
        grey = sum(is_grey(self._file(place), self._called(place)) for place in range(count))
        self.channels = 1 if grey == count else 3
        if 0 < grey < count:
            mixed = f"{grey} of {count} images are grey, the others in colour; all are read as colour."
            self.notes = (*self.notes, f"Data {name!r}: {mixed}")
        for note in self.notes:
            log.info(note)

    @property
    def class_count(self) -> int | None:
        """How many classes there are, or None where a part of them may be all that is here: a folder's."""
        named = NAMED.get(self.name.removeprefix("sample:"))
        return named.classes if named else None

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def has_labels(self) -> bool:
        return self._source.labels is not None

    def _called(self, place: int) -> str:
        where = self._source.images[place]
        return f"data {self.name!r}: image {where if isinstance(where, Path) else place}"

    def _file(self, place: int) -> Path | bytes:
        """What is stored at a place of the source: a path, or an image file's content."""
        image = self._source.images[place]
        if isinstance(image, Path):
            return image
        image = image.as_py()
        if isinstance(image, dict):
            image = image.get("bytes") or Path(image.get("path") or "")
        if not isinstance(image, bytes | Path) or image == Path():
            raise RequestError(f"{self._called(place)} is no image file but {type(image).__name__}")
        return image

    def _pil(self, index: int) -> Image.Image:
        place = self._indices[index]
        return open_image(self._file(place), self._called(place))

    def array(self, index: int, *, channels: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Image `index` as uint8, H x W x channels."""
        mode = "L" if (channels or self.channels) == 1 else "RGB"
        image = self._pil(index)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise RequestError(f"data {self.name!r}: image {index} has 32-bit pixels; 8 or 16 are read")
        image = image.convert(mode)
        if self._side is not None:
            scale = self._side / min(image.size)
            width, height = (max(self._side, round(length * scale)) for length in image.size)
            left, top = (width - self._side) // 2, (height - self._side) // 2
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + self._side, top + self._side))
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels[:, :, None] if mode == "L" else pixels

    def pixels(self, indices: Sequence[int] | None = None, *, channels: int | None = None) -> Tensor:
        """Images as one uint8 tensor N x C x H x W (all of them by default).

        Raises `DifferentSizesError` where they are not all of one size.
        """
        chosen = range(len(self)) if indices is None else indices
        arrays: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        for index in chosen:
            array = self.array(index, channels=channels)
            if arrays and array.shape != arrays[0].shape:
                (h, w), (other_h, other_w) = arrays[0].shape[:2], array.shape[:2]
                raise DifferentSizesError(
                    f"data {self.name!r}: images of {w}x{h} and {other_w}x{other_h} "
                    "cannot form one batch; all must have one size here (evaluate: --size)"
                )
            arrays.append(array)
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

    def images(self, indices: Sequence[int] | None = None, *, channels: int | None = None) -> Tensor:
        """Images as float32 in [0, 1], N x C x H x W."""
        return self.pixels(indices, channels=channels).float() / 255

    def labels(self, indices: Sequence[int] | None = None) -> Tensor:
        """Labels as int64, N. Raises `RequestError` where the data set has none."""
        column = self._source.labels
        if column is None:
            raise RequestError(f"data {self.name!r} has no labels: {self._source.unlabelled}")
        values: list[Any] = column if isinstance(column, list) else column.to_pylist()  # type: ignore[union-attr]
        odd = [v for v in values if not isinstance(v, int) or isinstance(v, bool)]
        if odd:
            raise RequestError(f"data {self.name!r}: a label is {odd[0]!r}; labels are whole numbers")
        chosen = self._indices if indices is None else [self._indices[index] for index in indices]
        return torch.as_tensor(values, dtype=torch.int64)[torch.as_tensor(list(chosen), dtype=torch.int64)]

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """The images at `indices` alone."""
        part = copy(self)
        part._indices = [self._indices[index] for index in indices]
        return part

    def sized(self, side: int) -> "ImageSet":
        """The same images at `side` x `side`: the shorter side scaled to it, the middle cut out."""
        other = copy(self)
        other.name, other._side = f"{self.name} at {side}x{side}", side
        return other

    def sizes(self, indices: Sequence[int]) -> set[tuple[int, int]]:
        """The sizes of these images, (width, height)."""
        if self._side is not None:
            return {(self._side, self._side)}
        return {self._pil(index).size for index in indices}

    def digest(self, indices: Sequence[int]) -> str:
        """Sixteen hexadecimal digits of these images and their labels, where they have them."""
        found = hashlib.sha256()
        for index in indices:
            array = self.array(index)
            found.update(f"{array.shape}".encode() + array.tobytes())
        if self.has_labels:
            found.update(self.labels(indices).numpy().tobytes())
        return found.hexdigest()[:16]

    def pick(self, limit: int | None, *, seed: int) -> list[int]:
        """`limit` indices drawn without replacement, in order; all of them without a limit."""
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise RequestError(f"limit is {limit!r}; it must be a whole number of at least 1")
        if limit is None or limit >= len(self):
            return list(range(len(self)))
        generator = torch.Generator().manual_seed(seed)
        return sorted(torch.randperm(len(self), generator=generator)[:limit].tolist())


def load_data(reference: str, *, split: str = "test") -> ImageSet:
    """Open a data set by reference (see the module's list of kinds); `split` is "train" or "test".

    A named set is looked for in $COMDEFEND_DATA, then as a folder of its name, then on the hub. A folder or
    file with a single split serves it whatever `split` says; a validation split serves as "test".

    In a folder of images, each folder is a class. It has splits where all of its folders are named as splits
    are (train, test, validation) and hold class folders. Images are PNG, JPEG, WebP, TIFF or BMP; how many
    files were left out is logged.

    Raises `RequestError` for an unknown name, a missing path, or data without images.
    """
    if not reference:
        raise RequestError(f"no data is named: give data=PATH of images of your own, or a set{_suggest('')}")
    kind, _, rest = reference.partition(":")
    if kind == "sample":
        return _open(_sample_path(rest), split="test", name=reference)
    if kind == "hf" and rest:
        return _open_hub(rest, split=split, name=reference)
    if reference in NAMED:
        return _load_named(reference, split=split)
    if Path(reference).exists():
        return _open(Path(reference), split=split, name=reference)
    raise RequestError(
        f"data {reference!r} is neither a file or folder nor a known name{_suggest(reference)}"
    )


def _sample_path(name: str) -> Path:
    if name not in SAMPLES:
        raise RequestError(f"there is no sample {name!r}; these ship: {', '.join(SAMPLES)}")
    return Path(str(resources.files("comdefend") / "samples" / f"{name}.parquet"))


def _load_named(name: str, *, split: str) -> ImageSet:
    root = os.environ.get(DATA_VARIABLE)
    for above in (Path(root), Path()) if root else (Path(),):
        for folder in (NAMED[name].folder, name):
            if (above / folder).is_dir():
                log.info("data %r is read from the folder %s", name, above / folder)
                return _open(above / folder, split=split, name=name)
    try:
        return _open_hub(NAMED[name].hub, split=split, name=name)
    except MissingExtraError:
        raise
    except RequestError as error:
        raise RequestError(
            f"data {name!r} was not found: no folder {NAMED[name].folder!r} in ${DATA_VARIABLE}"
            f"{f' ({root})' if root else ', which is not set'} or here, and the hub did not answer. "
            f"Set ${DATA_VARIABLE} to a folder that holds it, or use sample:NAME"
        ) from error


def _open(path: Path, *, split: str, name: str) -> ImageSet:
    if path.is_dir():
        files = list(files_in(path))
        tables = [file for file in files if file.suffix == ".parquet"]
        beside = sum(file.suffix.lower() in FORMATS for file in files)
        if tables and beside:
            log.info("data %r: Parquet files are read, and not the %d images beside them", name, beside)
        splits = _parquet(tables, path, name) if tables else _folder(path, files, name)
    elif path.suffix == ".parquet":
        splits = {"all": _parquet_split([path], name)}
    else:
        raise RequestError(f"data {str(path)!r}: a file must be Parquet (*.parquet)")
    return _choose(splits, split, name)


def _parquet(files: Sequence[Path], root: Path, name: str) -> dict[str, Source]:
    """The splits of a folder of Parquet files, by the words that file or folder names begin with. Where one
    has no such word, all files are one split.
    """
    splits: dict[str, list[Path]] = {}
    for file in files:
        words = [re.split(r"[-_.]", part)[0] for part in reversed(file.relative_to(root).parts)]
        splits.setdefault(next((word for word in words if word in _SPLITS), ""), []).append(file)
    if "" in splits:
        splits = {"all": list(files)}
    return {split: _parquet_split(paths, name) for split, paths in splits.items()}


def _parquet_split(files: Sequence[Path], name: str) -> Source:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("reading data sets", extra="data", package="pyarrow") from error
    try:
        if sum(file.stat().st_size for file in files) > IN_MEMORY:
            table = _datasets().Dataset.from_parquet([str(file) for file in files]).data.table
        else:
            table = parquet.read_table([str(file) for file in files], partitioning=None)
        named = {str(file): _class_names(parquet.read_schema(file)) for file in files}
    except Exception as error:  # a damaged file can raise anything
        raise RequestError(
            f"data {name!r}: {str(files[0].parent)!r} cannot be read as Parquet: {_first_line(error)}"
        ) from error
    first = next(iter(named.values()))
    other = next((file for file, names in named.items() if names != first), None)
    if other is not None:
        raise RequestError(f"data {name!r}: {other!r} names other classes than {str(files[0])!r}")
    return _columns(table, name, first)


def _columns(table: "pyarrow.Table", name: str, classes: dict[str, tuple[str, ...]]) -> Source:
    columns = table.column_names
    image = next((column for column in _IMAGE_COLUMNS if column in columns), None)
    if image is None:
        raise RequestError(
            f"data {name!r} has no column of images: it has {', '.join(columns) or 'none'}, "
            f"and one of {', '.join(_IMAGE_COLUMNS)} is needed"
        )
    label = next((column for column in _LABEL_COLUMNS if column in columns), None)
    if label is None:
        why = f"its columns are {', '.join(columns)}, and one of {', '.join(_LABEL_COLUMNS)} is needed"
        return Source(table.column(image), None, unlabelled=why)
    return Source(table.column(image), table.column(label), classes.get(label, ()))


def _class_names(schema: "pyarrow.Schema") -> dict[str, tuple[str, ...]]:
    """The names of the classes of each column that has some, as `datasets` writes them."""
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = written.get("info", {}).get("features", {})
    return {c: tuple(f["names"]) for c, f in features.items() if isinstance(f, dict) and f.get("names")}


def _folder(path: Path, files: Sequence[Path], name: str) -> dict[str, Source]:
    """The splits of a folder of image files."""
    places = [file.relative_to(path) for file in files]
    images = [place for place in places if place.suffix.lower() in FORMATS and not _is_hidden(place)]
    if not images:
        raise RequestError(f"data {name!r} cannot be read: {str(path)!r} holds no images or Parquet files")
    others = sorted(set(places) - set(images))
    ignored = Counter("hidden" if _is_hidden(place) else place.suffix or place.name for place in others)
    kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.items())
    left_out = f"Data {name!r}: files that are no PNG, JPEG, WebP, TIFF or BMP are left out: {kinds}."
    notes = (left_out,) if ignored else ()
    folders = [folder.name for folder in path.iterdir() if folder.is_dir() and folder.name[0] != "."]
    if set(folders) <= set(_SPLITS) and all(len(place.parts) > 2 for place in images):
        classes = {folder.name for split in folders for folder in (path / split).iterdir() if folder.is_dir()}
        return {
            split: _classes([i for i in images if i.parts[0] == split], path, classes, 1, name, notes)
            for split in sorted(folders)
        }
    if folders and set(folders) <= set(_SPLITS):
        note = f"Data {name!r}: {', '.join(sorted(folders))} hold images themselves and so count as classes."
        notes = (*notes, note)
    return {"all": _classes(images, path, set(folders), 0, name, notes)}


def _is_hidden(place: Path) -> bool:
    return any(part.startswith(".") for part in place.parts)


def _classes(
    images: Sequence[Path], path: Path, names: set[str], depth: int, name: str, notes: tuple[str, ...]
) -> Source:
    """Images with their class, the folder `depth` folders below `path`."""
    files = [path / image for image in images]
    loose = [image for image in images if len(image.parts) < depth + 2]
    if loose:
        why = f"{str(path / loose[0])!r} is in no class folder; there must be a folder for each class"
        return Source(files, None, unlabelled=why, notes=notes)
    classes = sorted(folder for folder in names if folder[0] != ".")
    present = [image.parts[depth] for image in images]
    empty = [folder for folder in classes if folder not in set(present)]
    if empty:
        notes = (*notes, f"Data {name!r}: class folders without images, which count: {', '.join(empty)}.")
    number = {folder: index for index, folder in enumerate(classes)}
    return Source(files, [number[folder] for folder in present], tuple(classes), notes=notes)


def _open_hub(repository: str, *, split: str, name: str) -> ImageSet:
    if Path(repository).exists():
        return _open(Path(repository), split=split, name=name)
    log.info("looking for %s on the Hugging Face hub", repository)
    try:
        found = _datasets().load_dataset(repository)
    except MissingExtraError:
        raise
    except Exception as error:
        raise RequestError(
            f"data {name!r}: the hub has no data set {repository!r}, or it cannot be reached: "
            f"{_first_line(error)}"
        ) from error
    splits = {}
    for key, rows in found.items():
        classes = {c: tuple(getattr(f, "names", None) or ()) for c, f in rows.features.items()}
        splits[key] = _columns(rows.data.table, name, classes)
    return _choose(splits, split, name)


def _choose(splits: dict[str, Source], wanted: str, name: str) -> ImageSet:
    if len(splits) == 1:
        return ImageSet(next(iter(splits.values())), name=name, split="all")
    for candidate in (wanted, *({"test": ("validation", "valid", "val")}.get(wanted, ()))):
        if candidate in splits:
            return ImageSet(splits[candidate], name=name, split=candidate)
    raise RequestError(f"data {name!r} has no split {wanted!r}; it has {', '.join(splits)}")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("reading data sets", extra="data", package="datasets") from error
    # Its own messages (bars, retries) would stand between the user and ours.
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    return datasets


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _suggest(name: str) -> str:
    known = [*NAMED, *(f"sample:{s}" for s in SAMPLES)]
    near = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else f" ({', '.join(known)})"
