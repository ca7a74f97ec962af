"""Image files through a purifier: one, a thousand, folders, standard input and output."""

import mimetypes
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from comdefend.atomic import LOCK, check_writable, output_folder
from comdefend.device import device_of
from comdefend.errors import RequestError
from comdefend.image import FORMATS, MAX_BYTES, Picture, files_in, read_picture, write_picture
from comdefend.purifiers import load
from comdefend.purifiers.base import Purifier
from comdefend.seeding import drawn_from

STREAM = "-"
"""The name of standard input and standard output."""


@dataclass(frozen=True)
class Job:
    """One file to purify. None stands for standard input or output."""

    source: Path | None
    target: Path | None
    format: str


@dataclass(frozen=True)
class Plan:
    """What is to be done, `jobs`, in the output folder `folder`, or None where the output is one file.

    `ignored`: how many files of the input folders are no images, by suffix.
    """

    jobs: tuple[Job, ...]
    folder: Path | None = None
    ignored: dict[str, int] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of a batch of files: how many were written, left alone, and which failed and why; `refused`
    of those that failed are no images that can be purified. `ignored`: see `Plan`.
    """

    written: int = 0
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    refused: int = 0
    ignored: dict[str, int] = field(default_factory=dict)


def purify_image(
    source: str | Path,
    target: str | Path,
    *,
    purifier: Purifier | str = "comdefend",
    overwrite: bool = False,
) -> None:
    """Purify one image file of any size; the suffix of `target` says the format.

    `purifier` is a module or a reference. Alpha is kept, and a colour profile that is one of the output's
    kind of pixels; other metadata is not. The EXIF orientation is applied. At most
    `comdefend.image.MAX_PIXELS` pixels are read, 90 million: about 4.5 GB of memory.

    Raises `RequestError` for an unreadable source, an unknown suffix, a target that cannot be written, or an
    existing one without `overwrite`.
    """
    source, target = Path(source), Path(target)
    job = Job(source, target, _format_of(target))
    if target.exists() and not overwrite:
        raise RequestError(f"{str(target)!r} exists already; overwrite=True replaces it")
    if target.is_dir():
        raise RequestError(f"output {str(target)!r} is a folder; a file is to be written there")
    check_writable(target.parent)
    module = load(purifier) if isinstance(purifier, str) else purifier
    _purify(job, module, overwrite=overwrite)


def purify_picture(picture: Picture, purifier: Purifier) -> Picture:
    """A decoded image, purified; a colour purifier sees grey as three equal channels."""
    pixels = picture.pixels
    needed = purifier.image_channels
    if needed == 1 and pixels.shape[1] == 3:
        raise RequestError("this purifier takes grey images; the image is in colour")
    expand = needed == 3 and pixels.shape[1] == 1
    device = device_of(purifier)
    purified: Tensor = purifier(pixels.expand(-1, 3, -1, -1).to(device) if expand else pixels.to(device))
    purified = purified.cpu()
    return replace(picture, pixels=purified.mean(1, keepdim=True) if expand else purified)


def plan(inputs: Sequence[str], output: str, *, format: str | None = None) -> Plan:
    """What to read and where to write it. Nothing is read or written yet.

    One file may go to a file (its suffix says the format) or into a folder; several files and
    folders go into a folder, whose inner structure is that of the input. Where two inputs would
    share an output (a.jpg and a.png), both keep their whole name (a.jpg.png). Links are followed. An image
    of a kind that is not read (a.gif) is a job, too: one that fails.

    Raises `RequestError` for missing inputs, folders without images, unclear requests, and outputs that
    cannot be written.
    """
    if format is not None and f".{format}" not in FORMATS:
        raise RequestError(f"format is {format!r}; it must be one of {', '.join(s[1:] for s in FORMATS)}")
    if not output or not all(inputs):
        raise RequestError("an empty name is neither a file nor a folder")
    if STREAM in inputs:
        if len(inputs) > 1:
            raise RequestError("standard input (-) cannot be mixed with other inputs")
        return Plan((_single(None, output, format),))
    missing = [name for name in inputs if not Path(name).exists()]
    if missing:
        raise RequestError(f"{missing[0]!r}: there is no such file or folder")
    only = Path(inputs[0])
    many = len(inputs) > 1 or only.is_dir()
    target = Path(output)
    looks_like_a_file = target.suffix.lower() in FORMATS or (bool(target.suffix) and not many)
    to_file = looks_like_a_file and not target.is_dir() and not output.endswith(os.sep)
    if output == STREAM or to_file:
        if many:
            raise RequestError(f"output {output!r} is one file, but the inputs may be many; give a folder")
        return Plan((_single(only, output, format),))
    suffix = f".{format}" if format else ".png"
    found, ignored = _find(inputs, target)
    stems = Counter(relative.with_suffix("") for _, relative in found)
    jobs = []
    for source, relative in found:
        alone = stems[relative.with_suffix("")] == 1
        name = relative.with_suffix(suffix) if alone else relative.with_name(relative.name + suffix)
        jobs.append(Job(source, target / name, FORMATS[suffix]))
    targets = Counter(job.target for job in jobs)
    twice = [job for job in jobs if targets[job.target] > 1]
    if twice:
        raise RequestError(
            f"{str(twice[0].source)!r} and {str(twice[1].source)!r} would both become "
            f"{str(twice[0].target)!r}; purify them into two folders"
        )
    for folder in {job.target.parent for job in jobs if job.target is not None}:
        check_writable(folder)
    return Plan(tuple(jobs), target, ignored)


def run(
    plan: Plan,
    purifier: Purifier,
    *,
    overwrite: bool = False,
    skip_existing: bool = False,
    seed: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Purify every job of a plan. A file that fails is noted and the others go on. With a `seed` what a
    random purifier draws for a file follows from that and the file's place among the jobs, also where others
    are skipped.

    Raises `RequestError`, before any work, where an output exists and neither flag says what to do, and where
    another process is at work in the output folder.
    """
    jobs = plan.jobs
    with output_folder(plan.folder) if plan.folder is not None else nullcontext():
        _check_targets(jobs, existing_is_fine=overwrite or skip_existing)
        outcome = Outcome(ignored=plan.ignored)
        for number, job in enumerate(jobs, start=1):
            if skip_existing and job.target is not None and job.target.exists():
                outcome.skipped += 1
            else:
                with drawn_from(None if seed is None else seed + number):
                    _try(job, purifier, outcome, overwrite=overwrite)
            if progress:
                progress(number)
    return outcome


def _check_targets(jobs: Sequence[Job], *, existing_is_fine: bool) -> None:
    targets = [job.target for job in jobs if job.target is not None]
    taken = [target for target in targets if target.exists()]
    if taken and not existing_is_fine:
        rest = f" and {len(taken) - 1} more exist" if len(taken) > 1 else " exists"
        raise RequestError(
            f"{str(taken[0])!r}{rest} already; --overwrite replaces what is there, --resume skips it"
        )
    for target in taken:
        if target.is_dir():
            raise RequestError(f"output {str(target)!r} is a folder; a file is to be written there")


def _try(job: Job, purifier: Purifier, outcome: Outcome, *, overwrite: bool) -> None:
    source = str(job.source or "standard input")
    try:
        _purify(job, purifier, overwrite=overwrite)
        outcome.written += 1
    except RequestError as error:
        outcome.failures.append((source, str(error)))
        outcome.refused += 1
    except BrokenPipeError:
        raise
    except Exception as error:  # whatever one file brings up, the others go on
        outcome.failures.append((source, f"{type(error).__name__}: {error}"))


def _purify(job: Job, purifier: Purifier, *, overwrite: bool) -> None:
    # Nothing here holds on to the source: a large image and its purified one are enough in memory.
    purified = purify_picture(_read(job.source), purifier)
    if job.target is None:
        write_picture(purified, sys.stdout.buffer, format=job.format)
    else:
        write_picture(purified, job.target, format=job.format, exclusive=not overwrite)


def _read(source: Path | None) -> Picture:
    if source is not None:
        return read_picture(source)
    return read_picture(sys.stdin.buffer.read(MAX_BYTES + 1), name="standard input")


def _single(source: Path | None, output: str, format: str | None) -> Job:
    if output == STREAM:
        return Job(source, None, FORMATS[f".{format or 'png'}"])
    target = Path(output)
    written = _format_of(target) if format is None else FORMATS[f".{format}"]
    check_writable(target.parent)
    return Job(source, target, written)


def _format_of(target: Path) -> str:
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise RequestError(
            f"output {str(target)!r}: the suffix must be one of {', '.join(FORMATS)}, "
            "or a format must be given"
        )
    return FORMATS[suffix]


def _find(inputs: Sequence[str], output: Path) -> tuple[list[tuple[Path, Path]], dict[str, int]]:
    """Every input file and its place in the output folder, and how many files are no images, by suffix.
    Folders are searched to the bottom.
    """
    found: list[tuple[Path, Path]] = []
    ignored: Counter[str] = Counter()
    for name in inputs:
        path = Path(name)
        if not path.is_dir():
            found.append((path, Path(path.name)))
            continue
        # What an output folder inside the input holds is not purified again.
        inner = output.resolve() != path.resolve() and output.resolve().is_relative_to(path.resolve())
        inside = []
        for file in files_in(path):
            if file.name == LOCK or (inner and file.resolve().is_relative_to(output.resolve())):
                continue
            if _is_image(file):
                inside.append(file)
            else:
                ignored[file.suffix or file.name] += 1
        if not inside:
            raise RequestError(f"{name!r} holds no images ({', '.join(FORMATS)})")
        prefix = Path(path.resolve().name) if len(inputs) > 1 else Path()
        found += [(file, prefix / file.relative_to(path)) for file in inside]
    return found, dict(ignored)


def _is_image(file: Path) -> bool:
    """Whether a file's name is one of an image, be it of a kind that is read or not."""
    return file.suffix.lower() in FORMATS or (mimetypes.guess_type(file.name)[0] or "").startswith("image/")
