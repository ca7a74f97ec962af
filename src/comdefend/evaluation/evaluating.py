"""`evaluate`: a classifier, alone and behind purifiers, clean and under attack by whoever was asked for.

```
what was asked for   -> spec.py        checked before any work
gradient modes       -> modes.py       which go on to all images, by a short trial
list of scenarios    -> scenarios.py   pure: nothing runs
their results        -> run.py         attacked and judged in judge.py, kept in store.py
worst cases, checks  -> worst_case.py, checks/
```
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from comdefend.attacks import Goal
from comdefend.attacks.adaptive import AdaptiveView, gradient_modes
from comdefend.attacks.iterative import gradient
from comdefend.classifiers import Foreign, check_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.device import find_device
from comdefend.errors import RequestError
from comdefend.evaluation.checks import Check, Probe, all_checks, expected_seconds
from comdefend.evaluation.judge import Example, Judge, as_judged
from comdefend.evaluation.modes import choose_modes
from comdefend.evaluation.results import Result
from comdefend.evaluation.run import Progress, Run, fastest_threads
from comdefend.evaluation.scenarios import Scenario, scenarios
from comdefend.evaluation.spec import EvaluationSpec
from comdefend.evaluation.store import Store
from comdefend.evaluation.tables import as_text
from comdefend.evaluation.worst_case import worst_cases
from comdefend.purifiers import Identity, Purifier, as_purifier, check_module, is_ours, load
from comdefend.seeding import random_state_kept
from comdefend.threat import ThreatModel

Given = nn.Module | Callable[[Tensor], Tensor] | str
"""A purifier as it is, any module or function from images to images, or a reference."""

Defences = Given | Sequence[str] | Mapping[str, Given]
"""One purifier or several; a mapping gives them names for the tables."""

PIXELS_AT_ONCE = 2**20
"""Pixels in a batch: twenty images of 224x224, with which attacks on common networks take a few GB."""

PIXELS_THROUGH = 2**17
"""The same where a purifier is differentiated: a 256-channel network at full resolution takes more."""


@dataclass(frozen=True)
class Report:
    """What an evaluation found: results, what its checks say of it, examples to draw, the names of the
    classes, what was left out.
    """

    results: list[Result]
    checks: list[Check] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spec: EvaluationSpec | None = None
    """What was asked for."""

    def __str__(self) -> str:
        """The tables and the threat model, as the command line shows them."""
        return as_text(self.results, self.checks, self.notes)


@dataclass(frozen=True)
class Plan:
    """The scenarios that an evaluation would run, each with about how many seconds it takes here."""

    scenarios: list[tuple[Scenario, float]]
    checks: float = 0.0

    @property
    def seconds(self) -> float:
        """All together, with the checks."""
        return sum(seconds for _, seconds in self.scenarios) + self.checks


def evaluate(
    classifier: nn.Module | str | Mapping[str, nn.Module],
    purifiers: Defences = "comdefend",
    data: ImageSet | str = "sample:cifar10",
    spec: EvaluationSpec | None = None,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Evaluate a classifier without and with defences, clean and under attack.

    - `classifier`: a module, [0, 1] N x C x H x W to logits N x K, a reference (see `load_classifier`), or a
      mapping of one name to a module.
    - `purifiers`: see `Defences`. The undefended classifier is always among the rows.
    - `data`: labelled images, or their name (see `load_data`).
    - `spec`: what is asked for; `options` are fields of `EvaluationSpec`, instead of it or changing it:
      `evaluate(net, "jpeg", attacks="pgd", knowledge="white-box")`.
    - `store`: what is finished in it is taken as it is, and what is run is kept there, down to the batches of
      a long attack.
    - `progress` is called with the work done, the work in all (in about seconds), and what is under way.

    Raises `RequestError` where classifier, data and request do not fit, before any work, and `WorkError`
    where somebody's code fails or gives no numbers on the way.
    """
    spec = replace(spec, **options) if spec else EvaluationSpec(**options)
    with _prepared(classifier, purifiers, data, spec, Store() if store is None else store, progress) as (
        run,
        images,
        classes,
    ):
        run.expect(_seconds_of_checks(run, spec))
        run.run_all(scenarios(spec, run.judge.defences, images=0)[:1])  # clean
        modes = choose_modes(
            spec, run.judge.defences, images=len(run.judge.chosen), image=run.first[:1], scan=run.shares
        )
        run.run_all(scenarios(spec, run.judge.defences, images=len(run.judge.chosen), modes=modes))
        results = run.results
        if not spec.gray_box_only:
            results = [*results, *worst_cases(results)]
        checks = _checked(run, spec)
        pictures = run.pictures()
        run.tell("done", run.total - run.done)
        notes = [*images.notes, *_few_classes(images, classes), *_left_out(spec, checked=bool(checks))]
        if "gray-box" in spec.knowledge:
            notes += spec.lacking()
        notes += [*_unmoved(results), *_without_gradient(run, spec)]
        if run.known_before and not run.reused:
            notes.append("Nothing of what was kept fits these settings: all was run anew.")
        return Report(results, checks, pictures, images.classes, tuple(notes), spec)


def plan(
    classifier: nn.Module | str | Mapping[str, nn.Module],
    purifiers: Defences = "comdefend",
    data: ImageSet | str = "sample:cifar10",
    spec: EvaluationSpec | None = None,
    **options: Any,
) -> Plan:
    """What `evaluate` would run with the same arguments, and about how long it takes. Runs no attack: where
    gradient modes are chosen by a trial, it counts the first ones.
    """
    spec = replace(spec, **options) if spec else EvaluationSpec(**options)
    with _prepared(classifier, purifiers, data, spec, Store(), lambda *_: None) as (run, _, _):
        count = len(run.judge.chosen)
        listed: list[Scenario] = []

        def noted(scenario: Scenario) -> Tensor:
            listed.append(scenario)
            return torch.zeros(min(scenario.limit or count, count))

        modes = choose_modes(spec, run.judge.defences, images=count, image=run.first[:1], scan=noted)
        clean, *others = scenarios(spec, run.judge.defences, images=count, modes=modes)
        timed = [(scenario, run.seconds(scenario)) for scenario in (clean, *listed, *others)]
        return Plan(timed, _seconds_of_checks(run, spec))


@contextmanager
def _prepared(
    classifier: nn.Module | str | Mapping[str, nn.Module],
    given: Defences,
    data: ImageSet | str,
    spec: EvaluationSpec,
    store: Store,
    progress: Progress | None,
) -> Iterator[tuple[Run, ImageSet, int]]:
    """All that an evaluation needs, loaded and checked: its run, the images, and how many classes the
    classifier knows. Modules are as they are judged inside, and as they were afterwards.
    """
    find_device(spec.device)
    if isinstance(classifier, str) and classifier in spec.surrogate_classifiers:
        raise RequestError(f"source {classifier!r} is the classifier itself, which is attacked anyway")
    images = load_data(data) if isinstance(data, str) else data
    if spec.size:
        images = images.sized(spec.size)
    if len(images) == 0:
        raise RequestError(f"data {images.name!r} holds no images")
    chosen = images.pick(spec.limit, seed=spec.seed)
    name, network = _named(classifier)
    defences = _defences(given, images, spec.dtype)
    others = {
        reference: load(reference, channels=images.channels, data=images.name, dtype=spec.dtype)
        for reference in spec.surrogate_purifiers
    }
    elsewhere = {reference: load_classifier(reference) for reference in spec.surrogate_classifiers}
    modules = [network, *defences.values(), *others.values(), *elsewhere.values()]
    with as_judged(modules, spec.device), _threads_kept():
        few, labels = images.images(chosen[:2]).to(spec.device), images.labels(chosen)
        classes = 0
        for reference, module in {**elsewhere, name: network}.items():
            classes = check_classifier(module, few, labels, name=reference, classes=images.class_count)
            if spec.gradient_based():
                _check_gradient(module, few[:1], labels[:1].to(spec.device), name=reference)
        height, width = images.array(chosen[0]).shape[:2]
        pixels = PIXELS_AT_ONCE if spec.gray_box_only and not others else PIXELS_THROUGH
        judge = Judge(
            network, defences, images, chosen, seed=spec.seed, device=spec.device,
            batch=spec.batch or max(1, min(100, pixels // (height * width))),
            in_eight_bits=not spec.gray_box_only,
            surrogate_purifiers=others, surrogate_classifiers=elsewhere,
        )  # fmt: skip
        for defence in defences:  # before any work, in one sentence
            judge.purify_anew(defence, few, 0)
        if spec.device == "cpu" and spec.gradient_based():
            _, batch, truth = next(judge.batches())
            model, size = network, 50
            if "white-box" in spec.knowledge:  # through a defence gradients are dearest
                last = list(defences.values())[-1]
                model, size = AdaptiveView(network, last, mode=gradient_modes(last)[0]), 8
            with random_state_kept():
                threads = fastest_threads(lambda: gradient(model, batch[:size], Goal(truth[:size])))
            torch.set_num_threads(threads)
        yield Run(judge, name, store=store, progress=progress, examples=spec.examples), images, classes


@contextmanager
def _threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _named(classifier: nn.Module | str | Mapping[str, nn.Module]) -> tuple[str, nn.Module]:
    if isinstance(classifier, str):
        return classifier, load_classifier(classifier)
    if isinstance(classifier, Mapping):
        if len(classifier) != 1:
            raise RequestError(f"classifier names {len(classifier)} modules; one is evaluated at a time")
        ((name, network),) = classifier.items()
    else:
        name, network = type(classifier).__name__, classifier
    check_module(network, what="classifier")
    known = type(network).__module__.startswith("comdefend.") and is_ours(network)
    return name, network if known or isinstance(network, Foreign) else Foreign(network, name=name)


def _left_out(spec: EvaluationSpec, *, checked: bool) -> list[str]:
    """Notes of what a white-box evaluation was spared, which nobody would see in its numbers."""
    if "white-box" not in spec.knowledge or not spec.attacks:
        return []
    notes = []
    if spec.modes:
        notes.append(
            f"Gradient modes were chosen: {', '.join(spec.modes)}. An attacker has the choice of all."
        )
    if not checked:
        notes.append("Not checked: nothing says whether these attacks were strong enough to mean anything.")
        return notes
    asked = spec.budgets(spec.gradient_based())
    threats = {ThreatModel(attack.norm, epsilon) for attack, epsilon in asked if epsilon}
    unchecked = threats - {ThreatModel(norm, epsilon) for norm, epsilon in spec.checked_at().items()}
    if unchecked:
        budgets = sorted(unchecked, key=lambda t: (t.norm, t.epsilon))
        notes.append(
            "Checks were made at one budget of each norm; at "
            + ", ".join(t.in_words() for t in budgets) + " nothing was checked."
        )  # fmt: skip
    return notes


def _unmoved(results: Sequence[Result]) -> list[str]:
    """A note where attacks on a classifier left images as they were."""
    stuck = [r for r in results if any("not moved" in flag for flag in r.flags)]
    titles = dict.fromkeys(r.title for r in stuck)
    if not titles:
        return []
    return [
        "Some attacks had no gradient to follow and left images as they were, which is no robustness (square "
        f"and hopskipjump need none): {'; '.join(titles)}."
    ]


def _without_gradient(run: Run, spec: EvaluationSpec) -> list[str]:
    """A note where the classifier alone has no gradient at some of the first images."""
    if not spec.gradient_based():
        return []
    images, labels = run.judge.gather(range(min(20, len(run.judge.chosen))))
    with random_state_kept():
        found, _ = gradient(run.judge.classifier, images, Goal(labels), "margin")
    count = int((found == 0).flatten(1).all(1).sum())
    if not count:
        return []
    return [
        f"The classifier has no gradient at {count} of {len(images)} images: attacks that follow one, or "
        "look for the smallest perturbation, stand still there, and what survives them is no robustness."
    ]


def _few_classes(images: ImageSet, known: int) -> list[str]:
    """A note where the data names fewer classes than the classifier knows."""
    if not 0 < len(images.classes) < known:
        return []
    return [
        f"Data {images.name!r} names {len(images.classes)} classes and the classifier knows {known}: "
        "the first of the data must be its first, and so on, or no number here means anything."
    ]


def _check_gradient(module: nn.Module, image: Tensor, label: Tensor, *, name: str) -> None:
    try:
        with random_state_kept():
            gradient(module, image, Goal(label))
    except RequestError as error:
        raise RequestError(f"classifier {name!r}: {error}") from error


def _checked_defences(run: Run, spec: EvaluationSpec) -> list[str]:
    """The defences, or the bare classifier where there is none; nothing where no checks are made."""
    if not (spec.checks and "white-box" in spec.knowledge):
        return []
    return [name for name in run.judge.defences if name != "none"] or ["none"]


def _seconds_of_checks(run: Run, spec: EvaluationSpec) -> float:
    return sum(expected_seconds(run, name, spec) for name in _checked_defences(run, spec))


def _checked(run: Run, spec: EvaluationSpec) -> list[Check]:
    """What the checks say of each defence."""
    found: list[Check] = []
    for name in _checked_defences(run, spec):
        for norm, epsilon in spec.checked_at().items():
            probe = Probe(run.judge, name, run.results, norm=norm, epsilon=epsilon, draws=spec.eot_samples)
            found += all_checks(probe, run)
    return found


def _defences(given: Defences, images: ImageSet, dtype: str) -> dict[str, nn.Module]:
    named: Mapping[str, Given]
    if isinstance(given, Mapping):
        named = given
    elif isinstance(given, str):
        named = {given: given}
    elif isinstance(given, Sequence):
        if not all(isinstance(one, str) for one in given):
            raise RequestError("several purifiers that are modules need names: a mapping of name to purifier")
        named = {reference: reference for reference in given}
    else:
        named = {getattr(given, "__name__", type(given).__name__): given}
    found: dict[str, nn.Module] = {"none": Identity()}
    for name, value in named.items():
        if name == "none":  # always there, and always undefended
            continue
        made: Purifier
        if isinstance(value, str):
            made = load(value, channels=images.channels, data=images.name, dtype=dtype)
        else:
            made = as_purifier(value, what=f"defence {name!r}")
        if made.image_channels not in (None, images.channels):
            raise RequestError(
                f"defence {name!r} takes images of {made.image_channels} channels; "
                f"those of {images.name!r} have {images.channels}"
            )
        found[name] = made
    return found
