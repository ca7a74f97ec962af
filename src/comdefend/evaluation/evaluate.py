"""`evaluate`: clean accuracy first, then every attacker on every defence, and the worst of it all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from comdefend import provenance
from comdefend.attacks import PROTOCOLS, Attack, Goal, Protocol
from comdefend.attacks.iterative import EARLY, gradient
from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.device import find_device
from comdefend.errors import RequestError
from comdefend.evaluation import adaptive
from comdefend.evaluation.checks import Check, Probe, all_checks
from comdefend.evaluation.fingerprint import answers, digest, fingerprint, surroundings
from comdefend.evaluation.judge import Example, Judge, Situation, as_judged
from comdefend.evaluation.request import Request
from comdefend.evaluation.results import Knowledge, Result, ThreatModel
from comdefend.evaluation.tables import as_text
from comdefend.purifiers import Identity, Purifier, check_module, is_ours, load_purifier

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is under way)."""

Defences = nn.Module | str | Sequence[str] | Mapping[str, nn.Module | str]
"""One purifier or several: modules or references; a mapping gives them names for the tables."""


PIXELS_AT_ONCE = 2**20
"""Pixels in a batch: twenty images of 224x224, with which attacks on common networks take a few GB."""

PIXELS_THROUGH = 2**17
"""The same where a purifier is differentiated: a 256-channel network at full resolution takes more."""

VERSION = 2
"""Raised when a change of how attackers see a defence, or of how images are judged, changes results."""

_PEERS = ("foolbox", "pyautoattack")
"""Packages whose attacks these are."""


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
    draws: int = adaptive.DRAWS,
    stand_ins: Sequence[str] = (),
    sources: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    examples: int = 8,
    clean: bool = True,
    checks: bool = True,
    classifier_name: str | None = None,
    known: Sequence[Result] = (),
    keep: Callable[[Sequence[Result]], None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Accuracy of a classifier without and with defences, clean and under attack.

    `classifier` and `purifier` are modules or references; see `Defences` for several purifiers.
    The undefended classifier is always among the rows. `epsilons` are fractions of the range [0, 1]
    for L-infinity attacks (8/255, not 8), `l2_epsilons` Euclidean lengths for PGD under L2; DeepFool and
    C&W under L2 run once, without a budget. A single number does for one budget, and names may stand in
    one string with commas, as on the command line. `attacks` empty or ("none",): clean accuracy and PSNR
    alone. "minimal" and "fixed" are explained at `Attack`; they are the gray-box attacker's, since to one
    who judges what he attacks they are the same.

    `knowledge`: "gray-box" attacks the bare classifier, with `stand_ins`, references of purifiers, the
    classifier behind each of these too, and runs PGD (fixed, L-infinity) on `sources`, references of other
    classifiers, as an attacker does who has not even this one; "white-box" differentiates each defence in
    `modes` (by default all that it has, see `evaluation.adaptive`), through `draws` draws of a random one;
    "black-box" asks for answers, with "square" or "hopskipjump" among `attacks`. With an attacker who knows
    more than the classifier, slow attacks of all attackers see a hundred images, and the worst case of all
    attacks is among the results; with a white-box one, and `checks`, the evaluation is checked too (see
    `evaluation.checks`).

    `limit` images are drawn by `seed`; `batch` bounds memory (what an attack draws at random depends
    on it), by default a hundred images or, of large ones, `PIXELS_AT_ONCE`; `examples`: how many
    images each picture shows. `dtype` is what purifiers given by reference compute in. Modules are
    moved to `device`, and otherwise left as they were. Without `clean` only the attacks are run, for
    callers that have measured the rest. Results among `known` whose fingerprint says that nothing they
    depend on changed are taken as they are; `keep` is given all results so far after each situation.

    Raises `RequestError` where classifier, data and request do not fit, before any work.
    """
    request = Request.of(
        attacks=attacks, knowledge=knowledge, protocols=protocols, linf=epsilons, l2=l2_epsilons,
        modes=modes, draws=draws, stand_ins=stand_ins, sources=sources,
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
            if request.one_each(queries=False):
                _check_gradient(module, few[:1], labels[:1].to(device), name=reference)
        height, width = images.array(chosen[0]).shape[:2]
        room = PIXELS_AT_ONCE if request.alone and not others else PIXELS_THROUGH
        judge = Judge(
            network, defences, images, chosen, seed=seed, device=device,
            batch=batch or max(1, min(100, room // (height * width))), in_eight_bits=not request.alone,
        )  # fmt: skip
        ways: dict[str, tuple[str, ...]] = {}
        if request.modes and "white-box" in request.knowledge:
            ways = adaptive.usable_modes(defences, request.modes, few[:1])
        run = _Run(judge, name, known=known, keep=keep, progress=progress, examples=examples)
        if clean:
            run.all([Situation(network, tuple(defences))])
        notes = _attack_all(run, request, ways, stand_ins=others, sources=elsewhere)
        results = run.results
        if not request.alone and clean:
            results = [*results, *adaptive.worst_cases(results)]
        found = _checked(run, request) if checks and clean and "white-box" in request.knowledge else []
        pictures = run.pictures()
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
    asked = request.budgets(request.one_each(queries=False))
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
    run: "_Run",
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
    names = tuple(defences)
    if "gray-box" in request.knowledge:
        wanted, notes = request.by_protocol()
        run.all(
            _gray_box(network, names, request.budgets(wanted), few=None if request.alone else adaptive.FEW)
        )
        run.all(adaptive.transfers(network, stand_ins, names, request.linf))
        run.all(adaptive.from_others(sources, names, request.linf))
    if "white-box" in request.knowledge:
        seen = list(request.budgets(request.one_each(queries=False)))
        for name, module in defences.items():
            run.all(
                adaptive.white_box(
                    network, name, module, seen,
                    modes=ways.get(name), draws=request.draws, images=count, scan=run.shares,
                )
            )  # fmt: skip
    if "black-box" in request.knowledge:
        asked = list(request.budgets(request.one_each(queries=True)))
        for name, module in defences.items():
            run.all(adaptive.black_box(network, name, module, asked, draws=request.draws))
    return notes


def _checked(run: "_Run", request: Request) -> list[Check]:
    """What the checks say of each defence, or of the bare classifier where there is none."""
    found: list[Check] = []
    for defence in [d for d in run.judge.defences if d != "none"] or ["none"]:
        for norm, epsilon in request.checked_at().items():
            probe = Probe(run.judge, defence, run.results, norm=norm, epsilon=epsilon, draws=request.draws)
            found += all_checks(probe, run.tell)
    return found


class _Run:
    """The situations of one evaluation, one after the other: each is run, or known already."""

    def __init__(
        self,
        judge: Judge,
        classifier: str,
        *,
        known: Sequence[Result],
        keep: Callable[[Sequence[Result]], None] | None,
        progress: Progress | None,
        examples: int,
    ) -> None:
        self.judge, self.examples = judge, examples
        self.known = {r.fingerprint: r for r in known if r.fingerprint}
        self.keep, self.progress = keep, progress
        self.results: list[Result] = []
        self.drawn: dict[Situation, Example] = {}
        self.done = self.total = 0
        self.common = {
            "data": judge.data.name, "classifier": classifier, "seed": judge.seed, **provenance.made()
        }  # fmt: skip
        self.found: dict[Situation, list[Result]] = {}
        self.first = judge.data.images(judge.chosen[:2]).to(judge.device)
        self.digests = {name: _all_of(module, self.first) for name, module in judge.defences.items()}
        self.network = _all_of(judge.classifier, self.first)
        self.images = judge.data.digest(judge.chosen)

    def all(self, situations: Sequence[Situation]) -> None:
        """Run what is not known, in order, and keep the results."""
        situations = [s for s in situations if s not in self.found]
        self.total += sum(self.judge.count(s.limit) for s in situations)
        for situation in situations:
            self._one(situation)
        self.tell("done")

    def shares(self, situation: Situation) -> Tensor:
        """For each image the share of draws that the first of its defences gets right."""
        self.all([situation])
        return self.found[situation][0].shares

    def _one(self, situation: Situation) -> None:
        target = _all_of(situation.target, self.first)
        prints = {name: self._fingerprint(situation, name, target) for name in situation.defences}
        title = situation.attack.title if situation.attack else "none"
        kept = [
            self._signed(self.known[p], title) for p in prints.values()
            if p in self.known and self._whole(situation, self.known[p])
        ]  # fmt: skip
        if len(kept) == len(prints):
            self.done += self.judge.count(situation.limit)
        else:
            outcome = self.judge.run(situation, examples=self.examples, step=self._step)
            kept = [
                replace(self._signed(result, title), fingerprint=prints[result.defence])
                for result in outcome.results(self.judge.defences, self.common)
            ]
            if outcome.example:
                self.drawn[situation] = outcome.example
        self.found[situation] = kept
        self.results += kept
        if self.keep:
            self.keep(self.results)

    def _signed(self, result: Result, title: str) -> Result:
        """A result, new or kept, with what the fingerprint says without telling it."""
        return replace(
            result, attack=title, classifier=self.common["classifier"], batch=self.judge.batch,
            device=self.judge.device,
            digests={"classifier": self.network[0], "defence": self.digests[result.defence][0]},
        )  # fmt: skip

    def _whole(self, situation: Situation, known: Result) -> bool:
        """Whether a kept result has all that is measured here: gray-box attackers alone leave less."""
        return situation.attack is None or known.rounded is not None or not self.judge.in_eight_bits

    def pictures(self) -> list[Example]:
        """For each attacker and protocol, and each defence that he knows, the attack that left least."""
        strongest: dict[object, Situation] = {}
        for situation, results in self.found.items():
            if situation.threat_model is None or not self.examples:
                continue
            group = (situation.threat_model.knowledge, results[0].protocol, situation.defences)
            best = strongest.setdefault(group, situation)
            if sum(r.accuracy for r in results) < sum(r.accuracy for r in self.found[best]):
                strongest[group] = situation
        for situation in strongest.values():
            if situation not in self.drawn:  # its results were known: the first batch is made again
                few = replace(situation, limit=min(situation.limit or self.judge.batch, self.judge.batch))
                example = self.judge.run(few, examples=self.examples).example
                assert example is not None
                self.drawn[situation] = example
        return [self.drawn[situation] for situation in strongest.values()]

    def tell(self, text: str) -> None:
        """Say what is under way beside the situations."""
        if self.progress:
            self.progress(self.done, self.total, text)

    def _step(self, title: str) -> None:
        self.tell(title)
        self.done += 1

    def _fingerprint(self, situation: Situation, name: str, target: list[str]) -> str:
        attack, threat, defence = situation.attack, situation.threat_model, self.judge.defences[name]
        early, sure = getattr(attack, "early", None), getattr(attack, "sure", None)
        return fingerprint(
            {
                "data": self.judge.data.name,
                "images": [self.images, len(self.judge.chosen[: situation.limit])],
                "target": target,
                "seed": self.judge.seed,
                "batch": self.judge.batch,
                "classifier": self.network,
                "defence": [name, self.digests[name], type(defence).__qualname__, _version(defence)],
                "settings": defence.settings() if isinstance(defence, Purifier) else {},
                "attack": [repr(attack), early and EARLY, sure, attack.version if attack else 0],
                "threat": repr(threat),
                "via": situation.via,
                "versions": [VERSION, *(self.common["software"].get(p) for p in ("torch", *_PEERS))],
            }
        )


def _all_of(module: nn.Module, images: Tensor) -> list[str]:
    """Hashes of all that decides what a module answers; of somebody else's also of what it does answer, since
    it may hold what no hash of its parts sees.
    """
    found = [digest(module), surroundings(module)]
    return found if is_ours(module) else [*found, answers(module, images)]


def _version(defence: nn.Module) -> int:
    return defence.version if isinstance(defence, Purifier) else 0


def _gray_box(
    network: nn.Module,
    defences: tuple[str, ...],
    attacks: Iterable[tuple[Attack, float | None]],
    *,
    few: int | None,
) -> list[Situation]:
    """Attacks on the bare classifier, each tried on all defences; slow ones on `few` images."""
    return [
        Situation(
            network, defences, attack, ThreatModel(attack.norm, epsilon), limit=few if attack.slow else None
        )
        for attack, epsilon in attacks
    ]


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
