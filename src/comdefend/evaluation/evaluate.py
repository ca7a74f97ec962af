"""`evaluate`: clean accuracy first, then each attack once on the bare classifier, tried on every defence."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from comdefend import provenance
from comdefend.attacks import PROTOCOLS, Attack, BudgetFree, Protocol, check_protocol, distance, find_attack
from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.device import find_device
from comdefend.errors import RequestError, WorkError
from comdefend.evaluation.results import Result, ThreatModel, wilson
from comdefend.image import psnr
from comdefend.purifiers import ComDefendPurifier, Identity, Purifier, load_purifier

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is under way)."""

Defences = nn.Module | str | Sequence[str] | Mapping[str, nn.Module | str]
"""One purifier or several: modules or references; a mapping gives them names for the tables."""


PIXELS_AT_ONCE = 2**20
"""Pixels in a batch: twenty images of 224x224, with which attacks on common networks take a few GB."""


@dataclass(frozen=True)
class Example:
    """A few images of one cell, for looking at: what came in, what the attack made, what each defence made.

    `purified` and `predictions` have one entry for each defence; `codes` where a defence has a code.
    """

    title: str
    clean: Tensor
    adversarial: Tensor
    labels: Tensor
    clean_predictions: Tensor
    purified: dict[str, Tensor]
    codes: dict[str, Tensor]
    predictions: dict[str, Tensor]


@dataclass(frozen=True)
class Report:
    """What an evaluation found: results, examples to draw, the names of the classes, what was left out."""

    results: list[Result]
    examples: list[Example] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cell:
    attack: Attack
    threat_model: ThreatModel

    @property
    def title(self) -> str:
        budget = f"epsilon {self.threat_model.budget()} ({self.threat_model.norm})"
        return f"{self.attack.name}, {self.attack.protocol}, {budget}"


@dataclass
class _Situation:
    """The running count of one cell, or of no attack, over all defences."""

    cell: _Cell | None
    correct: dict[str, int]
    n: int = 0
    fooled: int = 0
    seconds: float = 0.0
    psnr: dict[str, list[Tensor]] = field(default_factory=dict)
    distances: list[Tensor] = field(default_factory=list)
    example: Example | None = None


def evaluate(
    classifier: nn.Module | str,
    purifier: Defences = "comdefend",
    *,
    data: ImageSet | str = "sample:cifar10",
    attacks: Sequence[str] = ("fgsm", "bim"),
    epsilons: Sequence[float] = (8 / 255,),
    protocols: Sequence[Protocol] = PROTOCOLS,
    limit: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    examples: int = 8,
    clean: bool = True,
    classifier_name: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Accuracy of a classifier without and with defences, clean and under gray-box attack.

    `classifier` and `purifier` are modules or references; see `Defences` for several purifiers.
    The undefended classifier is always among the rows. `epsilons` are fractions of the range [0, 1]
    for L-infinity attacks (8/255, not 8); C&W (L2) runs once, without a budget. `attacks` empty or
    ("none",): clean accuracy and PSNR alone. "minimal" and "fixed" are explained at `Attack`.
    `limit` images are drawn by `seed`; `batch` bounds memory (what an attack draws at random depends
    on it), by default a hundred images or, of large ones, `PIXELS_AT_ONCE`; `examples`: how many
    images each picture shows. `dtype` is what purifiers given by reference compute in. Modules are
    moved to `device`, and otherwise left as they were. Without `clean` only the attacks are run, for
    callers that have measured the rest.

    Raises `RequestError` where classifier, data and request do not fit, before any work.
    """
    if batch is not None and batch < 1:
        raise RequestError(f"batch is {batch}; it must be at least 1")
    if not 0 <= seed < 2**62:
        raise RequestError(f"seed is {seed}; it must lie between 0 and 2^62")
    find_device(device)
    images = load_data(data) if isinstance(data, str) else data
    if len(images) == 0:
        raise RequestError(f"data {images.name!r} holds no images")
    chosen = images.pick(limit, seed=seed)
    labels = images.labels(chosen)
    network = load_classifier(classifier) if isinstance(classifier, str) else classifier
    name = classifier_name or (classifier if isinstance(classifier, str) else type(network).__name__)
    defences = _defences(purifier, images, dtype)
    cells, notes = _cells(attacks, epsilons, protocols)
    with _as_judged([network, *defences.values()], device):
        check_classifier(network, images.images(chosen[:2]).to(device), labels, name=name)
        judge = _Judge(network, defences, seed=seed, examples=examples)
        situations = [judge.situation(cell) for cell in ((None, *cells) if clean else cells)]
        height, width = images.array(chosen[0]).shape[:2]
        batch = batch or max(1, min(100, PIXELS_AT_ONCE // (height * width)))
        starts = range(0, len(chosen), batch)
        done, total = 0, len(starts) * len(situations)
        for start in starts:
            originals = images.images(chosen[start : start + batch]).to(device)
            truth = labels[start : start + batch].to(device)
            bare = judge.predict(originals)
            for situation in situations:
                if progress:
                    progress(done, total, situation.cell.title if situation.cell else "clean")
                judge.count(situation, originals, truth, bare, start)
                done += 1
        if progress:
            progress(total, total, "done")
    common = {"data": images.name, "classifier": name, "seed": seed, **provenance.made()}
    return Report(
        [result for situation in situations for result in judge.results(situation, common)],
        [situation.example for situation in situations if situation.example],
        images.classes,
        tuple(notes),
    )


class _Judge:
    """Attacks the bare classifier, and counts what it gets right behind each defence."""

    def __init__(
        self, network: nn.Module, defences: dict[str, nn.Module], *, seed: int, examples: int
    ) -> None:
        self.network, self.defences, self.seed, self.examples = network, defences, seed, examples
        self.searched: tuple[tuple[Attack, int], Tensor] | None = None

    def situation(self, cell: _Cell | None) -> _Situation:
        return _Situation(cell, dict.fromkeys(self.defences, 0))

    def count(self, situation: _Situation, clean: Tensor, truth: Tensor, bare: Tensor, start: int) -> None:
        """One batch of one situation: clean images, labels, what the bare classifier says of them.

        `start` is the place of the batch's first image, for the seed.
        """
        images = clean
        if situation.cell is not None:
            began = time.monotonic()
            images = self._attack(situation.cell, clean, truth, start)
            situation.seconds += time.monotonic() - began
        purified = {name: self._purify(name, images, start) for name in self.defences}
        predictions = {name: self.predict(cleaned) for name, cleaned in purified.items()}
        situation.n += len(truth)
        for name, cleaned in purified.items():
            situation.correct[name] += int((predictions[name] == truth).sum())
            if situation.cell is None and not isinstance(self.defences[name], Identity):
                situation.psnr.setdefault(name, []).append(psnr(cleaned, clean).cpu())
        if situation.cell is not None:
            turned = (predictions["none"] != truth) & (bare == truth)
            situation.fooled += int(turned.sum())
            far = distance(clean, images, situation.cell.attack.norm)[turned]
            situation.distances.append(far.cpu())
            if situation.example is None and self.examples:
                # The first images that the attack turned; others only where there are too few.
                rows = torch.cat([torch.nonzero(turned)[:, 0], torch.nonzero(~turned)[:, 0]])
                rows = rows[: self.examples]
                situation.example = Example(
                    title=situation.cell.title,
                    clean=clean[rows].cpu(),
                    adversarial=images[rows].cpu(),
                    labels=truth[rows].cpu(),
                    clean_predictions=bare[rows].cpu(),
                    purified={name: value[rows].cpu() for name, value in purified.items()},
                    codes=self._codes(images[rows]),
                    predictions={name: value[rows].cpu() for name, value in predictions.items()},
                )

    def results(self, situation: _Situation, common: dict[str, Any]) -> Iterator[Result]:
        """One result for each defence; `common` is what all results of the evaluation share."""
        cell = situation.cell
        distances = torch.cat(situation.distances) if situation.distances else torch.empty(0)
        for name, correct in situation.correct.items():
            defence = self.defences[name]
            measured = situation.psnr.get(name)
            yield Result(
                defence=name,
                attack=cell.attack.name if cell else "none",
                n=situation.n,
                correct=correct,
                threat_model=cell.threat_model if cell else None,
                protocol=cell.attack.protocol if cell else None,
                settings=asdict(cell.attack) if cell else {},
                defence_settings=defence.settings() if isinstance(defence, Purifier) else {},
                psnr=float(torch.cat(measured).mean()) if measured else None,
                fooled=situation.fooled if cell else None,
                distance=float(distances.median()) if len(distances) else None,
                stochastic=bool(getattr(defence, "stochastic", False)),
                seconds=round(situation.seconds, 2),
                interval=wilson(correct, situation.n),
                **common,
            )

    def _attack(self, cell: _Cell, clean: Tensor, truth: Tensor, start: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed + start)
            attack, epsilon = cell.attack, cell.threat_model.epsilon
            if not isinstance(attack, BudgetFree):
                return attack(self.network, clean, truth, epsilon=epsilon)
            goal = attack.goal(truth)
            if self.searched is None or self.searched[0] != (attack, start):
                self.searched = ((attack, start), attack.search(self.network, clean, goal))
            return attack.within(self.network, clean, self.searched[1], goal, epsilon)

    def _purify(self, name: str, images: Tensor, start: int) -> Tensor:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(self.seed + start)
            try:
                purified: Tensor = self.defences[name](images)
            except Exception as error:  # someone else's code can raise anything
                raise WorkError(f"defence {name!r} failed: {type(error).__name__}: {error}") from error
        return purified

    def predict(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network(images)
        if not torch.isfinite(logits).all():
            raise WorkError("the classifier returned NaN or infinite logits")
        return logits.argmax(1)

    def _codes(self, images: Tensor) -> dict[str, Tensor]:
        return {
            name: defence.compress(images).cpu()
            for name, defence in self.defences.items()
            if isinstance(defence, ComDefendPurifier)
        }


@contextmanager
def _as_judged(modules: Sequence[nn.Module], device: str) -> Iterator[None]:
    """Modules on the device, in evaluation mode, their parameters without gradients; then as before."""
    modes = [(module, module.training) for module in modules]
    wanted = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    for module in modules:
        module.to(device).eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.train(training)
        for parameter, needed in wanted:
            parameter.requires_grad_(needed)


def _defences(purifier: Defences, images: ImageSet, dtype: str) -> dict[str, nn.Module]:
    named: Mapping[str, nn.Module | str]
    if isinstance(purifier, nn.Module):
        named = {type(purifier).__name__: purifier}
    elif isinstance(purifier, Mapping):
        named = purifier
    else:
        named = {p: p for p in ([purifier] if isinstance(purifier, str) else purifier)}
    found: dict[str, nn.Module] = {"none": Identity()}
    for name, value in named.items():
        if name == "none":  # always there, and always undefended
            continue
        if isinstance(value, str):
            value = load_purifier(value, channels=images.channels, data=images.name, dtype=dtype)
        needed = value.image_channels if isinstance(value, Purifier) else None
        if needed not in (None, images.channels):
            raise RequestError(
                f"defence {name!r} takes images of {needed} channels; "
                f"those of {images.name!r} have {images.channels}"
            )
        found[name] = value
    return found


def _cells(
    attacks: Sequence[str], epsilons: Sequence[float], protocols: Sequence[Protocol]
) -> tuple[list[_Cell], list[str]]:
    for protocol in protocols:
        check_protocol(protocol)
    for epsilon in epsilons:
        if not 0 < epsilon <= 1:
            raise RequestError(
                f"epsilon is {epsilon:g} as a fraction ({epsilon * 255:g}/255); "
                "it must lie above 0 and at most at 1 (255/255)"
            )
    cells: list[_Cell] = []
    notes: list[str] = []
    for name in attacks:
        if name == "none":
            continue
        for protocol in protocols:
            attack = find_attack(name, protocol)
            if attack is None:
                notes.append(
                    f"{name} has no {protocol} form: it looks for the smallest perturbation by nature"
                )
                continue
            budgets: Sequence[float | None] = epsilons if attack.norm == "linf" else (None,)
            cells += [_Cell(attack, ThreatModel(attack.norm, budget)) for budget in budgets]
    return list(dict.fromkeys(cells)), list(dict.fromkeys(notes))
