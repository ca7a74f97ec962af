"""`evaluate`: clean accuracy first, then every attacker on every defence, and the worst of it all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from comdefend import provenance
from comdefend.attacks import PROTOCOLS, Attack, Norm, Protocol, check_protocol, find_attack
from comdefend.attacks.iterative import EARLY
from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.device import find_device
from comdefend.errors import RequestError
from comdefend.evaluation import adaptive
from comdefend.evaluation.checks import Check, Probe, all_checks
from comdefend.evaluation.fingerprint import digest, fingerprint, surroundings
from comdefend.evaluation.judge import Example, Judge, Situation, as_judged
from comdefend.evaluation.results import KNOWLEDGE, Knowledge, Result, ThreatModel
from comdefend.evaluation.tables import as_text
from comdefend.purifiers import Identity, Purifier, check_module, load_purifier
from comdefend.references import split_list

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

USUAL: dict[Norm, float] = {"linf": 8 / 255, "l2": 0.5}
"""Checks are made at the budget nearest to this."""


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
    "black-box" asks for answers. With an attacker who knows more than the classifier, slow attacks of all
    attackers see a hundred images, and the worst case of all attacks is among the results; with a white-box
    one, and `checks`, the evaluation is checked too (see `evaluation.checks`).

    `limit` images are drawn by `seed`; `batch` bounds memory (what an attack draws at random depends
    on it), by default a hundred images or, of large ones, `PIXELS_AT_ONCE`; `examples`: how many
    images each picture shows. `dtype` is what purifiers given by reference compute in. Modules are
    moved to `device`, and otherwise left as they were. Without `clean` only the attacks are run, for
    callers that have measured the rest. Results among `known` whose fingerprint says that nothing they
    depend on changed are taken as they are; `keep` is given all results so far after each situation.

    Raises `RequestError` where classifier, data and request do not fit, before any work.
    """
    if batch is not None and batch < 1:
        raise RequestError(f"batch is {batch}; it must be at least 1")
    if not 0 <= seed < 2**62:
        raise RequestError(f"seed is {seed}; it must lie between 0 and 2^62")
    if draws < 1:
        raise RequestError(f"draws is {draws}; it must be at least 1")
    find_device(device)
    attacks, knowledge = _several(attacks), _several(knowledge)
    modes = modes if modes is None else _several(modes)
    stand_ins, sources = _listed(stand_ins, str), _listed(sources, str)
    epsilons, l2_epsilons = _listed(epsilons, int | float), _listed(l2_epsilons, int | float)
    if (stand_ins or sources) and "gray-box" not in knowledge:
        raise RequestError("stand-ins and sources are a gray-box attacker's: knowledge must name him")
    if isinstance(classifier, str) and classifier in sources:
        raise RequestError(f"source {classifier!r} is the classifier itself, which is attacked anyway")
    for level in knowledge:
        if level not in KNOWLEDGE:
            raise RequestError(f"there is no knowledge {level!r} (known: {', '.join(KNOWLEDGE)})")
    images = load_data(data) if isinstance(data, str) else data
    if len(images) == 0:
        raise RequestError(f"data {images.name!r} holds no images")
    chosen = images.pick(limit, seed=seed)
    labels = images.labels(chosen)
    network = load_classifier(classifier) if isinstance(classifier, str) else classifier
    check_module(network, what="classifier")
    name = classifier_name or (classifier if isinstance(classifier, str) else type(network).__name__)
    defences = _defences(purifier, images, dtype)
    others = {r: load_purifier(r, channels=images.channels, data=images.name, dtype=dtype) for r in stand_ins}
    elsewhere = {reference: load_classifier(reference) for reference in sources}
    budgets = _Budgets(tuple(epsilons), tuple(l2_epsilons))
    wanted, notes = _attacks(attacks, _several(protocols) if "gray-box" in knowledge else ())
    with as_judged([network, *defences.values(), *others.values(), *elsewhere.values()], device):
        for reference, module in {**elsewhere, name: network}.items():
            few = images.images(chosen[:2]).to(device)
            check_classifier(module, few, labels, name=reference, classes=images.class_count)
        height, width = images.array(chosen[0]).shape[:2]
        room = PIXELS_AT_ONCE if tuple(knowledge) == ("gray-box",) and not others else PIXELS_THROUGH
        judge = Judge(
            network, defences, images, chosen, seed=seed, device=device,
            batch=batch or max(1, min(100, room // (height * width))),
        )  # fmt: skip
        ways: dict[str, tuple[str, ...]] = {}
        seen: list[tuple[Attack, float | None]] = []
        if "white-box" in knowledge:
            seen = list(budgets.of(_one_each(attacks, queries=False)))
            if modes:
                ways = adaptive.usable_modes(defences, modes, images.images(chosen[:1]).to(device))
        run = _Run(judge, name, known=known, keep=keep, progress=progress, examples=examples)
        if clean:
            run.all([Situation(network, tuple(defences))])
        if "gray-box" in knowledge:
            some = None if tuple(knowledge) == ("gray-box",) else adaptive.FEW
            run.all(_gray_box(network, tuple(defences), budgets.of(wanted), few=some))
            run.all(adaptive.transfers(network, others, tuple(defences), budgets.linf))
            if wanted:
                run.all(adaptive.from_others(elsewhere, tuple(defences), budgets.linf))
        if "white-box" in knowledge:
            for defence, module in defences.items():
                run.all(
                    adaptive.white_box(
                        network, defence, module, seen,
                        modes=ways.get(defence), draws=draws, images=len(chosen), scan=run.shares,
                    )
                )  # fmt: skip
        if "black-box" in knowledge:
            asked = list(budgets.of(_one_each(attacks, queries=True)))
            for defence, module in defences.items():
                run.all(adaptive.black_box(network, defence, module, asked, draws=draws))
        results, found = run.results, list[Check]()
        if tuple(knowledge) != ("gray-box",) and clean:
            results = [*results, *adaptive.worst_cases(results)]
        if checks and clean and "white-box" in knowledge:
            at: dict[Norm, float] = {"linf": min(budgets.linf, key=lambda e: abs(e - USUAL["linf"]))}
            if long := [e for attack, e in seen if attack.norm == "l2" and e]:
                at["l2"] = min(long, key=lambda e: abs(e - USUAL["l2"]))
            for defence in [d for d in defences if d != "none"] or ["none"]:
                for norm, nearest in at.items():
                    probe = Probe(judge, defence, run.results, norm=norm, epsilon=nearest, draws=draws)
                    found += all_checks(probe, run.tell)
        pictures = run.pictures()
    return Report(results, found, pictures, images.classes, tuple(notes))


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
        self.digests = {name: _all_of(module) for name, module in judge.defences.items()}
        self.network = _all_of(judge.classifier)
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
        target = _all_of(situation.target)
        prints = {name: self._fingerprint(situation, name, target) for name in situation.defences}
        title = situation.attack.title if situation.attack else "none"
        kept = [
            replace(self.known[p], attack=title, classifier=self.common["classifier"])
            for p in prints.values() if p in self.known
        ]  # fmt: skip
        if len(kept) == len(prints):
            self.done += self.judge.count(situation.limit)
        else:
            outcome = self.judge.run(situation, examples=self.examples, step=self._step)
            kept = [
                replace(result, fingerprint=prints[result.defence])
                for result in outcome.results(self.judge.defences, self.common)
            ]
            if outcome.example:
                self.drawn[situation] = outcome.example
        self.found[situation] = kept
        self.results += kept
        if self.keep:
            self.keep(self.results)

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


def _all_of(module: nn.Module) -> list[str]:
    return [digest(module), surroundings(module)]


def _version(defence: nn.Module) -> int:
    return defence.version if isinstance(defence, Purifier) else 0


@dataclass(frozen=True)
class _Budgets:
    """Budgets by norm: L-infinity ones as fractions, L2 ones as lengths."""

    linf: tuple[float, ...]
    l2: tuple[float, ...]

    def __post_init__(self) -> None:
        for epsilon in self.linf:
            if not 0 < epsilon <= 1:
                raise RequestError(
                    f"epsilon is {epsilon:g} as a fraction ({epsilon * 255:g}/255); "
                    "it must lie above 0 and at most at 1 (255/255)"
                    + (f"; did you mean {epsilon:g}/255?" if epsilon > 1 and epsilon == int(epsilon) else "")
                )
        for epsilon in self.l2:
            if not 0 < epsilon < float("inf"):
                raise RequestError(f"l2_epsilon is {epsilon:g}; it must be a length above 0")

    def of(self, attacks: Iterable[Attack]) -> Iterable[tuple[Attack, float | None]]:
        """Each attack with each of its budgets; L2 attacks that look for the nearest have none."""
        for attack in attacks:
            chosen: Sequence[float | None] = self.linf
            if attack.norm == "l2":
                chosen = (None,) if attack.protocol == "minimal" else self.l2
            for epsilon in dict.fromkeys(chosen):
                yield attack, epsilon


def _several(given: Sequence[Any]) -> Sequence[Any]:
    """Names in a list; one string of them is taken apart."""
    return split_list(given) if isinstance(given, str) else given


def _listed(given: Any, one: Any) -> Sequence[Any]:
    """A sequence, or a single one of what it would hold."""
    return (given,) if isinstance(given, one) else given


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
        named = {p: p for p in ([purifier] if isinstance(purifier, str) else purifier)}
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


def _attacks(names: Sequence[str], protocols: Sequence[Protocol]) -> tuple[list[Attack], list[str]]:
    """Attacks by name under each protocol, and a note for each that a protocol leaves out."""
    found: list[Attack] = []
    notes: list[str] = []
    for protocol in protocols:
        check_protocol(protocol)
    for name in names:
        if name == "none":
            continue
        for protocol in protocols:
            attack = find_attack(name, protocol)
            if attack is None:
                kind = "minimal" if protocol == "fixed" else "fixed"
                reason = (
                    "it looks for the smallest perturbation by nature"
                    if kind == "minimal"
                    else "it spends its whole budget"
                )
                notes.append(f"{name} has no {protocol} form: {reason}")
            elif not attack.queries:
                found.append(attack)
    return list(dict.fromkeys(found)), list(dict.fromkeys(notes))


def _one_each(names: Sequence[str], *, queries: bool) -> list[Attack]:
    """Attacks by name in one form each, the fixed one where there is one: those that ask for answers
    only, or those that do not.
    """
    found = [find_attack(name, "fixed") or find_attack(name, "minimal") for name in names if name != "none"]
    return [attack for attack in dict.fromkeys(found) if attack and attack.queries == queries]
