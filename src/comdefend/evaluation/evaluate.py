"""`evaluate`: clean accuracy first, then every attacker on every defence, and the worst of it all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from comdefend.attacks import PROTOCOLS, Goal, Protocol
from comdefend.attacks.iterative import gradient
from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.device import find_device
from comdefend.errors import RequestError
from comdefend.evaluation import situations
from comdefend.evaluation.checks import Check, Probe, all_checks
from comdefend.evaluation.judge import Example, Judge, Situation, as_judged
from comdefend.evaluation.request import Request
from comdefend.evaluation.results import Knowledge, Result, ThreatModel
from comdefend.evaluation.run import Progress, Run
from comdefend.evaluation.tables import as_text
from comdefend.evaluation.worst_case import FEW, worst_cases
from comdefend.purifiers import Identity, Purifier, check_module, load_purifier

Defences = nn.Module | str | Sequence[str] | Mapping[str, nn.Module | str]
"""One purifier or several: modules or references; a mapping gives them names for the tables."""


PIXELS_AT_ONCE = 2**20
"""Pixels in a batch: twenty images of 224x224, with which attacks on common networks take a few GB."""

PIXELS_THROUGH = 2**17
"""The same where a purifier is differentiated: a 256-channel network at full resolution takes more."""


@dataclass(frozen=True)
class Report:
    """What an evaluation found: results, what its checks of itself say, examples to draw, the names of the
    classes, what was left out.
    """

    results: list[Result]
    checks: list[Check] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The tables and the threat model, as the command line shows them."""
        return as_text(self.results, self.checks, self.notes)


def evaluate(
    classifier: nn.Module | str,
    purifier: Defences = "comdefend",
    *,
    data: ImageSet | str = "sample:cifar10",
    attacks: Sequence[str] = ("fgsm", "bim"),
    epsilons: Sequence[float] | float = (8 / 255,),
    l2_epsilons: Sequence[float] | float = (0.5,),
    protocols: Sequence[Protocol] | str = PROTOCOLS,
    knowledge: Sequence[Knowledge] | str = ("gray-box",),
    modes: Sequence[str] | None = None,
    draws: int = situations.DRAWS,
    stand_ins: Sequence[str] = (),
    sources: Sequence[str] = (),
    limit: int | None = None,
    slow_limit: int = FEW,
    seed: int = 0,
    batch: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    examples: int = 8,
    clean: bool = True,
    checks: bool = True,
    classifier_name: str | None = None,
    known: Sequence[Result] = (),
    known_checks: Sequence[Check] = (),
    keep: Callable[[Sequence[Result]], None] | None = None,
    keep_checks: Callable[[Sequence[Check]], None] | None = None,
    batches: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Accuracy of a classifier without and with defences, clean and under attack.

    A single thing does for several, and names may stand in one string with commas, as on the command line.

    - `classifier`: a module, [0, 1] N x C x H x W to logits N x K, or a reference (see `load_classifier`).
    - `purifier`: see `Defences`. The undefended classifier is always among the rows.
    - `data`: labelled images, or their name (see `load_data`); `limit` of them are drawn by `seed`.
    - `attacks`: by name, with settings as in "bim:steps=50"; none or ("none",): clean accuracy and PSNR.
    - `epsilons`: budgets under L-infinity as fractions of the range [0, 1] (8/255, not 8); `l2_epsilons`:
      Euclidean lengths, for attacks under L2 but DeepFool and C&W, which run once, without a budget.
    - `protocols`: "minimal" and "fixed", see `Attack`. They are the gray-box attacker's, since to one who
      judges what he attacks they are the same.
    - `knowledge`: "gray-box" attacks the bare classifier; "white-box" differentiates each defence;
      "black-box" asks for answers, with "square" or "hopskipjump" among `attacks`. With one who knows more
      than the classifier, slow attacks see `slow_limit` images, at least a hundred, and worst cases are among
      the results.
    - `modes`: gradient modes of white-box attacks, by default all that a defence has (see
      `evaluation.situations`); `draws` of a random defence are behind each gradient.
    - `stand_ins`: references of purifiers, behind which a gray-box attacker attacks the classifier too;
      `sources`: references of other classifiers that PGD (fixed) is run on, as by an attacker who has not
      even this one. Both with each budget of the other attacks.
    - `batch` bounds memory, and what an attack draws at random depends on it; by default a hundred images or,
      of large ones, `PIXELS_AT_ONCE`.
    - `device`: modules are moved there, and otherwise left as they were; `dtype`: what purifiers given by
      reference compute in.
    - `examples`: how many images each picture shows; without `clean` only attacks are run, for callers that
      have measured the rest; without `checks` a white-box evaluation is not checked (`evaluation.checks`).
    - `classifier_name`: instead of its reference or type.
    - `known` and `known_checks`: results and checks that are taken as they are where their fingerprint says
      that nothing they depend on changed; `keep` is given all results so far after each situation,
      `keep_checks` the lines of each check that was made, and `progress` what is under way. `batches`: a
      folder for adversarial images of the attack under way, so that a long one goes on after an
      interruption; when it is done all but its first batch leave, and that when the pictures are drawn.

    Raises `RequestError` where classifier, data and request do not fit, before any work, and `WorkError`
    where somebody's code fails or gives no numbers on the way.
    """
    request = Request.of(
        attacks=attacks, knowledge=knowledge, protocols=protocols, linf=epsilons, l2=l2_epsilons,
        modes=modes, draws=draws, stand_ins=stand_ins, sources=sources, slow_limit=slow_limit,
    )  # fmt: skip
    if batch is not None and batch < 1:
        raise RequestError(f"batch is {batch}; it must be at least 1")
    if not 0 <= seed < 2**62:
        raise RequestError(f"seed is {seed}; it must lie between 0 and 2^62")
    find_device(device)
    if isinstance(classifier, str) and classifier in request.sources:
        raise RequestError(f"source {classifier!r} is the classifier itself, which is attacked anyway")
    images = load_data(data) if isinstance(data, str) else data
    if len(images) == 0:
        raise RequestError(f"data {images.name!r} holds no images")
    chosen = images.pick(limit, seed=seed)
    network = load_classifier(classifier) if isinstance(classifier, str) else classifier
    check_module(network, what="classifier")
    name = classifier_name or (classifier if isinstance(classifier, str) else type(network).__name__)
    defences = _defences(purifier, images, dtype)
    others = {
        reference: load_purifier(reference, channels=images.channels, data=images.name, dtype=dtype)
        for reference in request.stand_ins
    }
    elsewhere = {reference: load_classifier(reference) for reference in request.sources}
    with as_judged([network, *defences.values(), *others.values(), *elsewhere.values()], device):
        few, labels = images.images(chosen[:2]).to(device), images.labels(chosen)
        counts = {}
        for reference, module in {**elsewhere, name: network}.items():
            counts[reference] = check_classifier(
                module, few, labels, name=reference, classes=images.class_count
            )
            if request.gradient_based():
                _check_gradient(module, few[:1], labels[:1].to(device), name=reference)
        height, width = images.array(chosen[0]).shape[:2]
        room = PIXELS_AT_ONCE if request.gray_box_only and not others else PIXELS_THROUGH
        judge = Judge(
            network, defences, images, chosen, seed=seed, device=device,
            batch=batch or max(1, min(100, room // (height * width))),
            in_eight_bits=not request.gray_box_only,
        )  # fmt: skip
        ways: dict[str, tuple[str, ...]] = {}
        if request.modes and "white-box" in request.knowledge:
            ways = situations.usable_modes(defences, request.modes, few[:1])
        run = Run(judge, name, known=known, keep=keep, batches=batches, progress=progress, examples=examples)
        if clean:
            run.run_all([Situation(network, tuple(defences))])
        notes = _attack_all(run, request, ways, stand_ins=others, sources=elsewhere)
        results = run.results
        if not request.gray_box_only and clean:
            results = [*results, *worst_cases(results)]
        checked = checks and clean and "white-box" in request.knowledge
        found = _checked(run, request, known_checks, keep_checks) if checked else []
        pictures = run.pictures()
    if run.known and not run.reused:
        notes = ["Nothing of what was kept fits these settings: all was run anew.", *notes]
    notes = [*_few_classes(images, counts[name]), *_left_out(request, checked=bool(found)), *notes]
    return Report(results, found, pictures, images.classes, tuple(notes))


def _left_out(request: Request, *, checked: bool) -> list[str]:
    """Notes of what a white-box evaluation was spared, which nobody would see in its numbers."""
    if "white-box" not in request.knowledge or not request.attacks:
        return []
    notes = []
    if request.modes:
        notes.append(
            f"Gradient modes were chosen: {', '.join(request.modes)}. An attacker has the choice of all."
        )
    if not checked:
        notes.append("Not checked: nothing says whether these attacks were strong enough to mean anything.")
        return notes
    asked = request.budgets(request.gradient_based())
    threats = {ThreatModel(attack.norm, epsilon) for attack, epsilon in asked if epsilon}
    unchecked = threats - {ThreatModel(norm, epsilon) for norm, epsilon in request.checked_at().items()}
    if unchecked:
        budgets = sorted(unchecked, key=lambda t: (t.norm, t.epsilon))
        notes.append(
            "Checks were made at one budget of each norm; at "
            + ", ".join(t.in_words() for t in budgets) + " nothing was checked."
        )  # fmt: skip
    return notes


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
        gradient(module, image, Goal(label))
    except RequestError as error:
        raise RequestError(f"classifier {name!r}: {error}") from error


def _attack_all(
    run: Run,
    request: Request,
    ways: Mapping[str, tuple[str, ...]],
    *,
    stand_ins: Mapping[str, nn.Module],
    sources: Mapping[str, nn.Module],
) -> list[str]:
    """Every attacker who was asked for, on every defence; notes of what was left out. `ways` are the
    gradient modes of each defence, where they were chosen.
    """
    notes: list[str] = []
    if not request.attacks:
        return notes
    network, defences, count = run.judge.classifier, run.judge.defences, len(run.judge.chosen)
    names, slow = tuple(defences), request.slow_limit
    if "gray-box" in request.knowledge:
        wanted, notes = request.by_protocol()
        run.run_all(
            situations.gray_box(
                network, names, request.budgets(wanted), alone=request.gray_box_only, slow_limit=slow,
            )
        )  # fmt: skip
        run.run_all(situations.transfers(network, stand_ins, names, request.spent()))
        run.run_all(situations.from_others(sources, names, request.spent()))
    if "white-box" in request.knowledge:
        seen = list(request.budgets(request.gradient_based()))
        for name, module in defences.items():
            run.run_all(
                situations.white_box(
                    network, name, module, seen,
                    modes=ways.get(name), draws=request.draws, images=count, slow_limit=slow,
                    scan=run.shares,
                )
            )  # fmt: skip
    if "black-box" in request.knowledge:
        asked = list(request.budgets(request.query_based()))
        for name, module in defences.items():
            run.run_all(
                situations.black_box(network, name, module, asked, draws=request.draws, slow_limit=slow)
            )
    return notes


def _checked(
    run: Run,
    request: Request,
    known: Sequence[Check],
    keep: Callable[[Sequence[Check]], None] | None,
) -> list[Check]:
    """What the checks say of each defence, or of the bare classifier where there is none."""
    found: list[Check] = []
    for defence in [d for d in run.judge.defences if d != "none"] or ["none"]:
        for norm, epsilon in request.checked_at().items():
            probe = Probe(run.judge, defence, run.results, norm=norm, epsilon=epsilon, draws=request.draws)
            found += all_checks(probe, run.tell, known=known, keep=keep)
    return found


def _defences(purifier: Defences, images: ImageSet, dtype: str) -> dict[str, nn.Module]:
    named: Mapping[str, nn.Module | str]
    if not isinstance(purifier, str | Sequence | Mapping):
        check_module(purifier, what="purifier")
        named = {type(purifier).__name__: purifier}
    elif isinstance(purifier, Mapping):
        named = purifier
    else:
        several = [purifier] if isinstance(purifier, str) else list(purifier)
        if not all(isinstance(one, str) for one in several):
            raise RequestError("several purifiers that are modules need names: a mapping of name to purifier")
        named = {reference: reference for reference in several}
    found: dict[str, nn.Module] = {"none": Identity()}
    for name, value in named.items():
        if name == "none":  # always there, and always undefended
            continue
        if isinstance(value, str):
            value = load_purifier(value, channels=images.channels, data=images.name, dtype=dtype)
        check_module(value, what=f"defence {name!r}")
        needed = value.image_channels if isinstance(value, Purifier) else None
        if needed not in (None, images.channels):
            raise RequestError(
                f"defence {name!r} takes images of {needed} channels; "
                f"those of {images.name!r} have {images.channels}"
            )
        found[name] = value
    return found
