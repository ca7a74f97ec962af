"""`evaluate`: clean accuracy first, then each attack once on the bare classifier, tried on every defence."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from comdefend.attacks import PROTOCOLS, Attack, Protocol, distance, find_attack
from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.errors import RequestError
from comdefend.evaluation import provenance
from comdefend.evaluation.results import Result, ThreatModel, wilson
from comdefend.image import psnr
from comdefend.purifiers import ComDefendPurifier, Identity, Purifier, load_purifier

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is under way)."""

Defences = nn.Module | str | Sequence[str] | Mapping[str, nn.Module | str]
"""One purifier or several: modules or references; a mapping gives them names for the tables."""


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


@dataclass
class _Tally:
    """The running count of one cell and one defence."""

    correct: int = 0
    n: int = 0
    fooled: int = 0
    seconds: float = 0.0
    psnr: list[Tensor] = field(default_factory=list)
    distances: list[Tensor] = field(default_factory=list)


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
    batch: int = 100,
    device: str = "cpu",
    examples: int = 8,
    classifier_name: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Accuracy of a classifier without and with defences, clean and under gray-box attack.

    `classifier` and `purifier` are modules or references; see `Defences` for several purifiers.
    The undefended classifier is always among the rows.
    `epsilons` are fractions of the range [0, 1] for L-infinity attacks (8/255, not 8); C&W (L2)
    runs once, without a budget. `attacks` empty or ("none",): clean accuracy and PSNR alone.
    `limit` images are drawn by `seed`; `batch` bounds memory; `examples`: how many images each
    picture shows. "minimal" and "fixed" are explained at `Attack`.

    Raises `RequestError` where classifier, data and request do not fit, before any work.
    """
    images = load_data(data) if isinstance(data, str) else data
    chosen = images.pick(limit, seed=seed)
    labels = images.labels(chosen)
    network = load_classifier(classifier) if isinstance(classifier, str) else classifier.eval()
    network = network.to(device)
    name = classifier_name or (classifier if isinstance(classifier, str) else type(network).__name__)
    defences = _defences(purifier, images.channels, device)
    cells, notes = _cells(attacks, epsilons, protocols)
    if batch < 1:
        raise RequestError(f"batch is {batch}; it must be at least 1")
    first = images.images(chosen[:2]).to(device)
    # Class range is checked over all the labels, the forward pass on two images.
    classes = check_classifier(network, first, labels[: len(first)].to(device), name=name)
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise RequestError(
            f"classifier {name!r} knows {classes} classes, but the labels of {images.name!r} "
            f"run from {int(labels.min())} to {int(labels.max())}"
        )

    tallies: dict[tuple[_Cell | None, str], _Tally] = {}
    shown: dict[_Cell, Example] = {}
    starts = range(0, len(chosen), batch)
    done, total = 0, len(starts) * (len(cells) + 1)
    for start in starts:
        clean = images.images(chosen[start : start + batch]).to(device)
        truth = labels[start : start + batch].to(device)
        if progress:
            progress(done, total, "clean")
        bare = _predict(network, clean)
        for key, defence in defences.items():
            tally = tallies.setdefault((None, key), _Tally())
            purified = _count(tally, network, defence, clean, truth)
            if not isinstance(defence, Identity):
                tally.psnr.append(psnr(purified, clean).cpu())
        done += 1
        for cell in cells:
            if progress:
                progress(
                    done, total, f"{cell.attack.name} {cell.attack.protocol} {cell.threat_model.budget()}"
                )
            adversarial, seconds = _attack(cell, network, clean, truth, seed + start)
            turned = (_predict(network, adversarial) != truth) & (bare == truth)
            far = distance(clean, adversarial, cell.attack.norm)[turned].cpu()
            for key, defence in defences.items():
                tally = tallies.setdefault((cell, key), _Tally())
                _count(tally, network, defence, adversarial, truth)
                tally.fooled += int(turned.sum())
                tally.seconds += seconds
                tally.distances.append(far)
            if cell not in shown and examples:
                shown[cell] = _example(
                    cell, network, defences, clean, adversarial, truth, bare, turned, examples
                )
            done += 1
    if progress:
        progress(total, total, "done")

    made = {
        "software": provenance.software(),
        "hardware": provenance.hardware(),
        "commit": provenance.commit(),
    }
    results = [
        _result(tally, cell, images.name, name, key, defences[key], seed, made)
        for (cell, key), tally in sorted(
            tallies.items(), key=lambda item: _order(item[0], cells, list(defences))
        )
    ]
    return Report(results, list(shown.values()), images.classes, tuple(notes))


def _defences(purifier: Defences, channels: int, device: str) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {"none": Identity()}
    if isinstance(purifier, nn.Module):
        found[type(purifier).__name__] = purifier
    else:
        if isinstance(purifier, str):
            purifier = [purifier]
        named = purifier if isinstance(purifier, Mapping) else {p: p for p in purifier}
        for key, value in named.items():
            found[key] = load_purifier(value, channels=channels) if isinstance(value, str) else value
    for key, module in found.items():
        needed = module.image_channels if isinstance(module, Purifier) else None
        if needed is not None and needed != channels:
            raise RequestError(f"defence {key!r} takes images of {needed} channels; the data has {channels}")
    return {key: module.to(device).eval() for key, module in found.items()}


def _cells(
    attacks: Sequence[str], epsilons: Sequence[float], protocols: Sequence[Protocol]
) -> tuple[list[_Cell], list[str]]:
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise RequestError(f"there is no protocol {protocol!r} (known: {', '.join(PROTOCOLS)})")
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
    return cells, notes


def _predict(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        predictions: Tensor = model(images).argmax(1)
    return predictions


def _count(tally: _Tally, network: nn.Module, defence: nn.Module, images: Tensor, truth: Tensor) -> Tensor:
    with torch.no_grad():
        purified: Tensor = defence(images)
    tally.correct += int((_predict(network, purified) == truth).sum())
    tally.n += len(truth)
    return purified


def _attack(cell: _Cell, network: nn.Module, clean: Tensor, truth: Tensor, seed: int) -> tuple[Tensor, float]:
    began = time.monotonic()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adversarial = cell.attack(network, clean, truth, epsilon=cell.threat_model.epsilon)
    return adversarial, time.monotonic() - began


def _example(
    cell: _Cell,
    network: nn.Module,
    defences: dict[str, nn.Module],
    clean: Tensor,
    adversarial: Tensor,
    truth: Tensor,
    bare: Tensor,
    turned: Tensor,
    count: int,
) -> Example:
    """The first images that the attack turned; others only where there are too few."""
    rows = torch.cat([torch.nonzero(turned)[:, 0], torch.nonzero(~turned)[:, 0]])[:count]
    with torch.no_grad():
        purified = {key: defence(adversarial[rows]) for key, defence in defences.items()}
        codes = {
            key: defence.compress(adversarial[rows])
            for key, defence in defences.items()
            if isinstance(defence, ComDefendPurifier)
        }
    budget = f"epsilon {cell.threat_model.budget()} ({cell.threat_model.norm})"
    title = f"{cell.attack.name}, {cell.attack.protocol}, {budget}"
    return Example(
        title=title,
        clean=clean[rows].cpu(),
        adversarial=adversarial[rows].cpu(),
        labels=truth[rows].cpu(),
        clean_predictions=bare[rows].cpu(),
        purified={key: value.cpu() for key, value in purified.items()},
        codes={key: value.cpu() for key, value in codes.items()},
        predictions={key: _predict(network, value).cpu() for key, value in purified.items()},
    )


def _result(
    tally: _Tally,
    cell: _Cell | None,
    data: str,
    classifier: str,
    defence: str,
    module: nn.Module,
    seed: int,
    made: dict[str, object],
) -> Result:
    distances = torch.cat(tally.distances) if tally.distances else torch.empty(0)
    return Result(
        data=data,
        classifier=classifier,
        defence=defence,
        attack=cell.attack.name if cell else "none",
        n=tally.n,
        correct=tally.correct,
        threat_model=cell.threat_model if cell else None,
        protocol=cell.attack.protocol if cell else None,
        settings=asdict(cell.attack) if cell else {},
        psnr=float(torch.cat(tally.psnr).mean()) if tally.psnr else None,
        fooled=tally.fooled if cell else None,
        distance=float(distances.median()) if len(distances) else None,
        stochastic=bool(getattr(module, "stochastic", False)),
        seed=seed,
        seconds=round(tally.seconds, 2),
        interval=wilson(tally.correct, tally.n),
        **made,  # type: ignore[arg-type]
    )


def _order(key: tuple[_Cell | None, str], cells: list[_Cell], defences: list[str]) -> tuple[int, int]:
    cell, defence = key
    return (-1 if cell is None else cells.index(cell), defences.index(defence))
