"""Labelled images by reference: a named set, a folder, a Parquet file, a hub name, a shipped sample.

Everything is read through Hugging Face `datasets`, so whatever it can open, comdefend can.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comdefend.errors import MissingExtraError, RequestError

if TYPE_CHECKING:
    import datasets

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

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


class DifferentSizesError(RequestError):
    """Images that would have to form one batch have different sizes."""


class ImageSet:
    """Images of one split of a data set, with labels where it has them; decoded when asked for.

    `channels` is 1 where the images are grey and 3 otherwise. `classes` are the names of the labels,
    empty where the data set does not tell. `split` is the one that was opened; "all" where there is
    only one. `side`: images are brought to this height and width (`sized`).
    """

    def __init__(self, rows: "datasets.Dataset", *, name: str, split: str, side: int | None = None) -> None:
        if len(rows) == 0:
            raise RequestError(f"data {name!r}: the split {split!r} holds no images")
        self.name = name
        self.split = split
        self._rows, self._side = rows, side
        self._image_column = _find_column(rows, _IMAGE_COLUMNS, name)
        labels = [c for c in _LABEL_COLUMNS if c in rows.column_names]
        self._label_column = labels[0] if labels else None
        self.channels = 1 if _is_grey(self._pil(0)) else 3
        self.classes = _class_names(rows, self._label_column)

    @property
    def class_count(self) -> int | None:
        """How many classes there are, or None where a part of them may be all that is here: a folder's."""
        named = NAMED.get(self.name.removeprefix("sample:"))
        return named.classes if named else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def has_labels(self) -> bool:
        return self._label_column is not None

    def _pil(self, index: int) -> Image.Image:
        try:
            image = self._rows[index][self._image_column]
        except Exception as error:
            raise RequestError(f"data {self.name!r}: image {index} cannot be read: {error}") from error
        if isinstance(image, dict) and image.get("bytes"):  # Parquet that does not say they are images
            try:
                return Image.open(BytesIO(image["bytes"]))
            except OSError as error:
                raise RequestError(f"data {self.name!r}: image {index} cannot be read: {error}") from error
        if not isinstance(image, Image.Image):
            raise RequestError(
                f"data {self.name!r}: column {self._image_column!r} holds {type(image).__name__}, not images"
            )
        return image

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
        if self._label_column is None:
            raise RequestError(
                f"data {self.name!r} has no labels (columns: {', '.join(self._rows.column_names)}; "
                f"looked for {', '.join(_LABEL_COLUMNS)}); a folder of images needs a folder for each class"
            )
        values = list(self._rows[self._label_column])
        odd = next((v for v in values if not isinstance(v, int) or isinstance(v, bool)), None)
        if odd is not None or None in values:
            raise RequestError(
                f"data {self.name!r}: column {self._label_column!r} holds {odd!r}; labels are whole numbers"
            )
        labels = torch.as_tensor(values, dtype=torch.int64)
        return labels if indices is None else labels[torch.as_tensor(list(indices))]

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """The images at `indices` alone."""
        rows = self._rows.select(list(indices))
        return ImageSet(rows, name=self.name, split=self.split, side=self._side)

    def sized(self, side: int) -> "ImageSet":
        """The same images at `side` x `side`: the shorter side scaled to it, the middle cut out."""
        name = f"{self.name} at {side}x{side}"
        return ImageSet(self._rows, name=name, split=self.split, side=side)

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

    A named set is looked for in $COMDEFEND_DATA, then on the hub. A folder or file with a single
    split serves it whatever `split` says; a validation split serves as "test".

    Raises `RequestError` for an unknown name, a missing path, or data without images.
    """
    if not reference:
        raise RequestError(f"no data is named: give data=PATH of images of your own, or a set{_suggest('')}")
    kind, _, rest = reference.partition(":")
    if kind == "sample":
        return _open(str(_sample_path(rest)), split="test", name=reference)
    if kind == "hf" and rest:
        return _open_hub(rest, split=split, name=reference)
    if reference in NAMED:
        return _load_named(reference, split=split)
    if Path(reference).exists():
        return _open(reference, split=split, name=reference)
    raise RequestError(
        f"data {reference!r} is neither a file or folder nor a known name{_suggest(reference)}"
    )


def _sample_path(name: str) -> Path:
    if name not in SAMPLES:
        raise RequestError(f"there is no sample {name!r}; these ship: {', '.join(SAMPLES)}")
    return Path(str(resources.files("comdefend") / "samples" / f"{name}.parquet"))


def _load_named(name: str, *, split: str) -> ImageSet:
    root = os.environ.get(DATA_VARIABLE)
    if root:
        for folder in (NAMED[name].folder, name):
            if (Path(root) / folder).is_dir():
                return _open(str(Path(root) / folder), split=split, name=name)
    try:
        return _open_hub(NAMED[name].hub, split=split, name=name)
    except MissingExtraError:
        raise
    except RequestError as error:
        raise RequestError(
            f"data {name!r} was not found: no folder {NAMED[name].folder!r} in ${DATA_VARIABLE}"
            f"{f' ({root})' if root else ', which is not set'}, and the hub did not answer. "
            f"Set ${DATA_VARIABLE} to a folder that holds it, or use sample:NAME"
        ) from error


def _open(path: str, *, split: str, name: str) -> ImageSet:
    found = Path(path)
    try:
        if found.is_file():
            if found.suffix != ".parquet":
                raise RequestError(f"data {path!r}: a file must be Parquet (*.parquet)")
            splits = _datasets().load_dataset("parquet", data_files={split: str(found)})
        elif any(found.glob("*.parquet")) or any(found.glob("*/*.parquet")):
            splits = _datasets().load_dataset(str(found))
        else:
            splits = _datasets().load_dataset("imagefolder", data_dir=str(found))
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(
            f"data {path!r} cannot be read as Parquet or as a folder of images: {str(error).splitlines()[0]}"
        ) from error
    return _choose(splits, split, name)


def _open_hub(repository: str, *, split: str, name: str) -> ImageSet:
    if Path(repository).exists():
        return _open(repository, split=split, name=name)
    log.info("looking for %s on the Hugging Face hub", repository)
    try:
        splits = _datasets().load_dataset(repository)
    except MissingExtraError:
        raise
    except Exception as error:
        raise RequestError(
            f"data {name!r}: the hub has no data set {repository!r}, or it cannot be reached: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return _choose(splits, split, name)


def _choose(splits: Any, wanted: str, name: str) -> ImageSet:
    names = list(splits)
    if len(names) == 1:
        return ImageSet(splits[names[0]], name=name, split="all")
    for candidate in (wanted, *({"test": ("validation", "valid", "val")}.get(wanted, ()))):
        if candidate in names:
            return ImageSet(splits[candidate], name=name, split=candidate)
    raise RequestError(f"data {name!r} has no split {wanted!r}; it has {', '.join(names)}")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("reading data sets", extra="data", package="datasets") from error
    # Its own messages (bars, retries) would stand between the user and ours.
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    return datasets


def _find_column(rows: "datasets.Dataset", candidates: Sequence[str], name: str) -> str:
    for column in candidates:
        if column in rows.column_names:
            return column
    raise RequestError(
        f"data {name!r} has no column of images: it has {', '.join(rows.column_names) or 'none'}, "
        f"and one of {', '.join(candidates)} is needed"
    )


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "I", "I;16", "F")


def _class_names(rows: "datasets.Dataset", column: str | None) -> tuple[str, ...]:
    if column is None:
        return ()
    return tuple(getattr(rows.features[column], "names", None) or ())


def _suggest(name: str) -> str:
    known = [*NAMED, *(f"sample:{s}" for s in SAMPLES)]
    near = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else f" ({', '.join(known)})"
