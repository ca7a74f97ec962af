"""Results: one frozen record for each cell of an evaluation, and the JSON files that hold them."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from comdefend.atomic import replacing, write_json
from comdefend.errors import RequestError
from comdefend.threat import Knowledge, Norm, Protocol, ThreatModel

Status = Literal["pass", "warn", "fail", "skip"]
"""Of a check; "skip": there was nothing to test, which is no praise."""

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at for which defence, what was found, what it means.

    It was made under `norm`, at the budget `epsilon`. `curve`: where budgets were varied, (epsilon, accuracy)
    on `images` images; under L-infinity epsilons are fractions. `fingerprint`: a hash of all that the line
    depends on, the same for all lines of one check, where someone keeps them to not make them again.
    """

    defence: str
    name: str
    status: Status
    figure: str
    meaning: str
    curve: Curve = ()
    images: int = 0
    norm: Norm = "linf"
    epsilon: float | None = None
    fingerprint: str = ""

    @property
    def title(self) -> str:
        """Its name for people; a check under L2 says so, the others are under L-infinity or no norm."""
        return f"{self.name} (L2)" if self.norm == "l2" else self.name

    @property
    def budget(self) -> str:
        """What it was made at, for people: "8/255 linf"."""
        return "" if self.epsilon is None else ThreatModel(self.norm, self.epsilon).in_words()


@dataclass(frozen=True)
class Repeats:
    """The same adversarial images before a random defence, `draws` times: shares of the images.

    `mean`: right in a draw, on average; `majority`: right in more than half of the draws; `worst`: right
    in all of them.
    """

    draws: int
    mean: float
    majority: float
    worst: float


@dataclass(frozen=True)
class Result:
    """How many of `n` images one defended classifier got right in one situation.

    Without an attack (`attack` is "none", no threat model, no protocol) this is clean accuracy, and
    `psnr` is the mean over the images of the purified image's PSNR in dB (None without a defence).
    `mode`: the gradient mode that a white-box attack went through, behind each gradient `draws` of a random
    defence; `source`: what an attack was made on instead of its target; `trial`: whether it is a short one
    that modes are chosen by.
    `fooled` counts the images that the attack turned on the model it was made on; `distance` is the median
    size of the perturbation over those, in the threat model's norm. `right` says which images are: a bit for
    each in hexadecimal digits, the first image the highest bit (see `pack`). A random defence judges every
    image several times: its `correct` is the sum of the shares of draws that were right, `repeats` tells
    more, and `right` is the number of draws, a colon, and for each image a digit or letter up to "z", 35: in
    how many of them it was right. `rounded` and `rounded_right` are the same after the
    attack's images were rounded to 8 bits (not measured where nobody knows more than the classifier);
    `flags` are what the attack itself warned of.
    `settings` are the attack's, `defence_settings` what identifies
    the defence (for ComDefend the weights, their SHA-256, and what it computed in). `interval`:
    95 %, Wilson. `batch`: how many images went at a time, on which what an attack draws depends (0: not
    known). `digests`: hashes of the weights and the code, where it is not this package's, of classifier and
    defence. `fingerprint`: a hash of all that the number depends on, where someone keeps results to not
    run them again.
    """

    data: str
    classifier: str
    defence: str
    attack: str
    n: int
    correct: float
    threat_model: ThreatModel | None = None
    protocol: Protocol | Literal["any"] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    defence_settings: dict[str, Any] = field(default_factory=dict)
    mode: str = ""
    draws: int = 1
    source: str = ""
    trial: bool = False
    psnr: float | None = None
    fooled: int | None = None
    distance: float | None = None
    rounded: float | None = None
    rounded_right: str = ""
    repeats: Repeats | None = None
    flags: tuple[str, ...] = ()
    right: str = ""
    stochastic: bool = False
    seed: int = 0
    seconds: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    batch: int = 0
    device: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str | int] = field(default_factory=dict)
    commit: str | None = None
    fingerprint: str = ""

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def knowledge(self) -> Knowledge | None:
        """The attacker's; None without an attack."""
        return self.threat_model.knowledge if self.threat_model else None

    @property
    def norm(self) -> Norm | None:
        """The attack's; None without one."""
        return self.threat_model.norm if self.threat_model else None

    @property
    def via(self) -> str:
        """What the attack went through, for people: mode, source and draws."""
        return in_words(self.mode, self.source, self.draws)

    @property
    def title(self) -> str:
        """The attack in words: attacker, name, protocol, budget, and what it went through."""
        if self.threat_model is None:
            return "clean"
        return scenario_title(self.threat_model, self.attack, str(self.protocol), self.via)

    @property
    def shares(self) -> Tensor:
        """For each image the share of draws in which it was right, n floats; without draws 0 or 1."""
        return unpack(self.right, self.n)

    @property
    def rounded_shares(self) -> Tensor:
        """The same after the attack's images were rounded to 8 bits."""
        return unpack(self.rounded_right, self.n)


def in_words(mode: str, source: str, draws: int, *more: str) -> str:
    """What an attack went through, such as "identity, 5 draws"."""
    transfer = f"transfer from {source}" if source else ""
    return ", ".join(part for part in (mode, transfer, *more, f"{draws} draws" if draws > 1 else "") if part)


def scenario_title(threat: ThreatModel, attack: str, protocol: str, via: str) -> str:
    """One attack of one attacker in words."""
    return ", ".join(
        part for part in (f"{threat.knowledge}: {attack}", protocol, threat.in_words(), via) if part
    )


DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def pack(shares: Tensor, draws: int = 1) -> str:
    """Of N images the shares of `draws` in which they were right, as text; `unpack` undoes it.

    With a single draw these are N booleans as hexadecimal digits, the first image the highest bit. With more,
    up to 35, the number of draws, a colon, and a digit or letter for each image: in how many it was right.
    """
    counts = [round(draws * float(share)) for share in shares]
    if draws > 1:
        return f"{draws}:" + "".join(DIGITS[count] for count in counts)
    bits = "".join(map(str, counts))
    width = -(-len(bits) // 4)
    return f"{int(bits.ljust(4 * width, '0') or '0', 2):0{width}x}"


def unpack(text: str, n: int) -> Tensor:
    """The `n` shares that `pack` wrote, floats."""
    draws, several, digits = text.partition(":")
    if several:
        return torch.tensor([DIGITS.index(digit) / int(draws) for digit in digits])
    bits = f"{int(text or '0', 16):0{4 * len(text)}b}"
    return torch.tensor([float(bit) for bit in bits[:n]])


def total(shares: Tensor) -> float:
    """How many images shares come to: a whole number where nothing was drawn."""
    found = float(shares.double().sum())
    return int(found) if found == int(found) else round(found, 6)


def repeats(shares: Tensor, draws: int) -> Repeats:
    """What shares of so many draws come to."""
    return Repeats(
        draws=draws,
        mean=float(shares.mean()),
        majority=float((shares > 0.5).float().mean()),
        worst=float((shares == 1).float().mean()),
    )


Z95 = 1.959964
"""Half of the width of a 95 % interval, in standard deviations of a normal distribution."""


def wilson(correct: float, n: int, *, z: float = Z95) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, 1927): sound near 0 and 1 and for few images. A sum of
    shares spreads less than a count, so for one it is wider than it need be.
    """
    if n == 0:
        return (0.0, 1.0)
    share = correct / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At both ends the bound is the end itself; rounding would put it a hair inside.
    low = 0.0 if correct == 0 else (centre - spread) / scale
    high = 1.0 if correct == n else (centre + spread) / scale
    return (low, high)


def paired_difference(result: Result, reference: Result) -> tuple[float, tuple[float, float]]:
    """By how much the accuracy of `result` is above that of `reference` on the same images, and its 95 %
    interval: fractions from -1 to 1.

    Both intervals of two accuracies may hold one another's values where this one does not hold 0: what is the
    same about the images takes no part in it. The interval is Wald's after half an image was added to each of
    the four outcomes (Agresti and Min, 2005, "Simple improved confidence intervals for comparing matched
    proportions"), with shares of draws in place of 0 and 1 for what is random. Raises `ValueError` where the
    images are others, as far as data, seed and number tell, or where a result does not say which were right.
    """
    images = [(r.data, r.seed, r.n) for r in (result, reference)]
    if images[0] != images[1]:
        raise ValueError(f"a difference is of the same images, not of {images[0]} and {images[1]}")
    shares = [r.shares for r in (result, reference)]
    if any(len(s) != result.n for s in shares):
        raise ValueError("a difference needs to know which images were right, and a result does not say so")
    n = result.n
    differences = (shares[0] - shares[1]).double()
    gained = float(differences.sum())
    centre = gained / (n + 2)
    spread = Z95 * math.sqrt(float(differences.square().sum()) + 1 - gained * gained / (n + 2)) / (n + 2)
    return gained / n, (max(-1.0, centre - spread), min(1.0, centre + spread))


FILE_FORMAT = 2
"""Of files of results; 1 was a list of records, each with all that is now said once."""

PROVENANCE = ("data", "seed", "batch", "device", "software", "hardware", "commit")
"""Fields of a record that say where it was measured: once in the header of a file."""

SUBJECT = ("classifier", "defence", "defence_settings", "digests", "stochastic")
"""Fields that say what was measured: once for each defence."""


@dataclass(frozen=True)
class ResultsFile:
    """A file of results: a header, and the records with what is their own.

    Each record names its entries in the header by their places (`made`, `of`) and leaves out what it has by
    default, and its interval.
    """

    format: int
    provenance: list[dict[str, Any]]
    subjects: list[dict[str, Any]]
    results: list[dict[str, Any]]


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Results into a file, one record a line, for `read_results`."""
    usual = asdict(Result("", "", "", "", 0, 0))
    header: tuple[list[Any], list[Any]] = ([], [])
    lines = []
    for result in results:
        record = asdict(result)
        places = []
        for fields, entries in zip((PROVENANCE, SUBJECT), header, strict=True):
            entry = {field: record.pop(field) for field in fields}
            if entry not in entries:
                entries.append(entry)
            places.append(entries.index(entry))
        if tuple(record["interval"]) == wilson(result.correct, result.n):
            del record["interval"]
        needed = ("n", "correct", "interval")
        own = {key: value for key, value in record.items() if key in needed or value != usual[key]}
        lines.append(json.dumps({"made": places[0], "of": places[1], **own}, separators=(",", ":")))
    text = ",\n".join(lines)
    with replacing(path) as temporary:
        temporary.write_text(
            f'{{"format": {FILE_FORMAT},\n"provenance": {json.dumps(header[0])},\n'
            f'"subjects": {json.dumps(header[1])},\n"results": [\n{text}\n]}}\n'
        )


def kept_results(path: Path) -> list[Result]:
    """The results of a file; nothing where there is no file yet."""
    return read_results(path) if path.is_file() else []


def read_results(path: Path) -> list[Result]:
    """Results from a file that `write_results` wrote. Raises `RequestError` for anything else."""
    file: ResultsFile = _validated(path, ResultsFile, _content(path), what="results")
    if file.format != FILE_FORMAT:
        raise RequestError(
            f"{str(path)!r} is no file of results: its format is {file.format}, not {FILE_FORMAT}"
        )
    try:
        records = [
            {**file.provenance[record["made"]], **file.subjects[record["of"]], **record}
            for record in file.results
        ]
    except (KeyError, IndexError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RequestError(f"{str(path)!r} is no file of results: a record is incomplete: {what}") from error
    results: list[Result] = _validated(path, list[Result], records, what="results")
    for number, result in enumerate(results):
        _check_bits(path, number, result)
    return [
        result if "interval" in record else replace(result, interval=wilson(result.correct, result.n))
        for result, record in zip(results, file.results, strict=True)
    ]


def write_checks(path: Path, checks: Sequence[Check]) -> None:
    """All of them, for `read_checks`."""
    write_json(path, [asdict(check) for check in checks])


def read_checks(path: Path) -> list[Check]:
    """Those of a file, none where there is no file. Raises `RequestError` for anything else."""
    if not path.is_file():
        return []
    checks: list[Check] = _validated(path, list[Check], _content(path), what="checks of an evaluation")
    return checks


def read_records(path: Path, *, skip: str = "") -> list[Result | Check]:
    """Results and checks that were kept one a line; none where there is no file. A last line that an
    interruption cut short is left out, and so is `skip`. Raises `RequestError` for anything else.
    """
    if not path.is_file():
        return []
    found: list[Result | Check] = []
    lines = _text(path).split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        if line == skip:
            continue
        try:
            ((kind, record),) = json.loads(line).items()
            of = {"result": Result, "check": Check}[kind]
        except (ValueError, AttributeError, KeyError, RecursionError) as error:
            raise RequestError(f"{str(path)!r}, line {number}, is no record of an evaluation") from error
        made = _validated(path, of, record, what=f"records (line {number})")
        if isinstance(made, Result):
            _check_bits(path, number, made)
        found.append(made)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{str(path)!r} cannot be read: {error}") from error


def _content(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{str(path)!r} is no file of results: {error}") from error


def _validated(path: Path, kind: Any, content: Any, *, what: str) -> Any:
    """Records of a kind, each field of the right type."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise RequestError(f"{str(path)!r} is no file of {what}: {where}: {first['msg'][:200]}") from error


def _is_packed(text: str, n: int) -> bool:
    """Whether `pack` could have written it for `n` images."""
    shares = unpack(text, n)
    draws, several, _ = text.partition(":")
    whole = pack(shares, int(draws) if several else 1) == text
    return whole and len(shares) == n and bool((shares <= 1).all())


def _check_bits(path: Path, number: int, result: Result) -> None:
    """That a result's bits are those of its images."""
    try:
        fits = all(_is_packed(text, result.n) for text in (result.right, result.rounded_right) if text)
    except (ValueError, ZeroDivisionError):
        fits = False
    if not fits or not 0 <= result.correct <= result.n:
        raise RequestError(
            f"{str(path)!r} is no file of results: {number}.right or .correct does not fit {result.n} images"
        )
