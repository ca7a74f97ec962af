"""Image files through a purifier: one, a thousand, folders, standard input and output."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from comdefend.device import device_of
from comdefend.errors import RequestError
from comdefend.image import FORMATS, READABLE, Picture, read_picture, write_picture
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


@dataclass
class Outcome:
    """What became of a batch of files: how many were written, left alone, and which failed and why; `refused`
    of those that failed are no images that can be purified.
    """

    written: int = 0
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    refused: int = 0


def purify_image(
    source: str | Path,
    target: str | Path,
    *,
    purifier: Purifier | str = "comdefend",
    overwrite: bool = False,
) -> None:
    """Purify one image file of any size; the suffix of `target` says the format.

    `purifier` is a module or a reference. Alpha and colour
    profile are kept, other metadata is not; the EXIF orientation is applied. Raises `RequestError`
    for an unreadable source, an unknown suffix, or an existing target without `overwrite`.
    """
    source, target = Path(source), Path(target)
    job = Job(source, target, _format_of(target))
    if target.exists() and not overwrite:
        raise RequestError(f"{str(target)!r} exists already; overwrite=True replaces it")
    _purify(job, load(purifier) if isinstance(purifier, str) else purifier)


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


def plan(inputs: Sequence[str], output: str, *, format: str | None = None) -> list[Job]:
    """What to read and where to write it. Nothing is read or written yet.

    One file may go to a file (its suffix says the format) or into a folder; several files and
    folders go into a folder, whose inner structure is that of the input. Where two inputs would
    share an output (a.jpg and a.png), both keep their whole name (a.jpg.png).

    Raises `RequestError` for missing inputs, folders without images, and unclear requests.
    """
    if format is not None and f".{format}" not in FORMATS:
        raise RequestError(f"format is {format!r}; it must be one of {', '.join(s[1:] for s in FORMATS)}")
    if not output or not all(inputs):
        raise RequestError("an empty name is neither a file nor a folder")
    if STREAM in inputs:
        if len(inputs) > 1:
            raise RequestError("standard input (-) cannot be mixed with other inputs")
        return [_single(None, output, format)]
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
        return [_single(only, output, format)]
    suffix = f".{format}" if format else ".png"
    found = _find(inputs, Path(output))
    stems = Counter(relative.with_suffix("") for _, relative in found)
    jobs = []
    for source, relative in found:
        alone = stems[relative.with_suffix("")] == 1
        name = relative.with_suffix(suffix) if alone else relative.with_name(relative.name + suffix)
        jobs.append(Job(source, Path(output) / name, FORMATS[suffix]))
    targets = Counter(job.target for job in jobs)
    twice = [job for job in jobs if targets[job.target] > 1]
    if twice:
        raise RequestError(
            f"{str(twice[0].source)!r} and {str(twice[1].source)!r} would both become "
            f"{str(twice[0].target)!r}; purify them into two folders"
        )
    return jobs


def run(
    jobs: Sequence[Job],
    purifier: Purifier,
    *,
    overwrite: bool = False,
    skip_existing: bool = False,
    seed: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Purify every job. A file that fails is noted and the others go on. With a `seed` what a random purifier
    draws for a file follows from that and the file's place among the jobs, also where others are skipped.

    Raises `RequestError`, before any work, where an output exists and neither flag says what to do.
    """
    if not overwrite and not skip_existing:
        taken = [job.target for job in jobs if job.target is not None and job.target.exists()]
        if taken:
            rest = f" and {len(taken) - 1} more exist" if len(taken) > 1 else " exists"
            raise RequestError(
                f"{str(taken[0])!r}{rest} already; --overwrite replaces what is there, --resume skips it"
            )
    outcome = Outcome()
    for number, job in enumerate(jobs, start=1):
        if skip_existing and job.target is not None and job.target.exists():
            outcome.skipped += 1
        else:
            try:
                with drawn_from(None if seed is None else seed + number):
                    _purify(job, purifier)
                outcome.written += 1
            except RequestError as error:
                outcome.failures.append((str(job.source or "standard input"), str(error)))
                outcome.refused += 1
            except BrokenPipeError:
                raise
            except Exception as error:  # whatever one file brings up, the others go on
                reason = f"{type(error).__name__}: {error}"
                outcome.failures.append((str(job.source or "standard input"), reason))
        if progress:
            progress(number)
    return outcome


def _purify(job: Job, purifier: Purifier) -> None:
    if job.source is None:
        picture = read_picture(sys.stdin.buffer.read(), name="standard input")
    else:
        picture = read_picture(job.source)
    purified = purify_picture(picture, purifier)
    write_picture(purified, job.target if job.target is not None else sys.stdout.buffer, format=job.format)


def _single(source: Path | None, output: str, format: str | None) -> Job:
    if output == STREAM:
        return Job(source, None, FORMATS[f".{format or 'png'}"])
    target = Path(output)
    if format is not None:
        return Job(source, target, FORMATS[f".{format}"])
    return Job(source, target, _format_of(target))


def _format_of(target: Path) -> str:
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise RequestError(
            f"output {str(target)!r}: the suffix must be one of {', '.join(FORMATS)}, "
            "or a format must be given"
        )
    return FORMATS[suffix]


def _find(inputs: Sequence[str], output: Path) -> list[tuple[Path, Path]]:
    """Every input file and its place in the output folder. Folders are searched to the bottom."""
    found: list[tuple[Path, Path]] = []
    for name in inputs:
        path = Path(name)
        if path.is_file():
            found.append((path, Path(path.name)))
            continue
        # What an output folder inside the input holds is not purified again.
        inner = output.resolve() != path.resolve() and output.resolve().is_relative_to(path.resolve())
        inside = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file()
            and file.suffix.lower() in READABLE
            and not (inner and file.resolve().is_relative_to(output.resolve()))
        ]
        if not inside:
            raise RequestError(f"{name!r} holds no images ({', '.join(READABLE)})")
        prefix = Path(path.resolve().name) if len(inputs) > 1 else Path()
        found += [(file, prefix / file.relative_to(path)) for file in inside]
    return found
