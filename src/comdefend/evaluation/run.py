"""The situations of one evaluation, one after the other, with what is kept of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from comdefend import provenance
from comdefend.attacks.iterative import EARLY
from comdefend.evaluation.batches import Batches
from comdefend.evaluation.fingerprint import answers, digest, fingerprint, surroundings
from comdefend.evaluation.judge import Example, Judge, Situation
from comdefend.evaluation.results import Result
from comdefend.purifiers import Identity, Purifier, is_ours

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is under way)."""

VERSION = 2
"""Raised when a change of how attackers see a defence, or of how images are judged, changes results."""

_PEERS = ("foolbox", "pyautoattack")
"""Packages whose attacks these are."""


class Run:
    """The situations of one evaluation, one after the other: each is run, or known already."""

    def __init__(
        self,
        judge: Judge,
        classifier: str,
        *,
        known: Sequence[Result],
        keep: Callable[[Sequence[Result]], None] | None,
        batches: Path | None,
        progress: Progress | None,
        examples: int,
    ) -> None:
        self.judge, self.examples = judge, examples
        self.known = {r.fingerprint: r for r in known if r.fingerprint}
        self.keep, self.batches, self.progress = keep, batches, progress
        self.results: list[Result] = []
        self.examples_of: dict[Situation, Example] = {}
        self.done = self.total = 0
        self.reused = False
        self.common = {
            "data": judge.data.name, "classifier": classifier, "seed": judge.seed, "device": judge.device,
            **provenance.made(),
        }  # fmt: skip
        self.found: dict[Situation, list[Result]] = {}
        self.kept: dict[Situation, Batches] = {}
        self.first = judge.data.images(judge.chosen[:2]).to(judge.device)
        self.defence_digests = {name: _all_of(module, self.first) for name, module in judge.defences.items()}
        self.classifier_digests = _all_of(judge.classifier, self.first)
        self.image_digest = judge.data.digest(judge.chosen)

    def run_all(self, situations: Sequence[Situation]) -> None:
        """Run what is not known, in order, and keep the results."""
        situations = [s for s in situations if s not in self.found]
        self.total += sum(self.judge.batch_count(s.limit) for s in situations)
        for situation in situations:
            self._one(situation)
        self.tell("done")

    def shares(self, situation: Situation) -> Tensor:
        """For each image the share of draws that the first of its defences gets right."""
        self.run_all([situation])
        return self.found[situation][0].shares

    def _one(self, situation: Situation) -> None:
        target = _all_of(situation.target, self.first)
        prints = {name: self._fingerprint(situation, name, target) for name in situation.defences}
        batches = Batches(self.batches, next(iter(prints.values()))) if self.batches else None
        title = situation.attack.title if situation.attack else "none"
        kept = [
            self._signed(self.known[p], title) for p in prints.values()
            if p in self.known and self._whole(situation, self.known[p])
        ]  # fmt: skip
        if len(kept) == len(prints):
            self.done += self.judge.batch_count(situation.limit)
            self.reused = True
        elif twin := self._by_who_knew_less(situation):
            self.done += self.judge.batch_count(situation.limit)
            kept = [self._taken_over(twin, situation, prints)]
        else:
            outcome = self.judge.run(situation, examples=self.examples, step=self._step, kept=batches)
            kept = [
                replace(self._signed(result, title), fingerprint=prints[result.defence])
                for result in outcome.results(self.judge.defences, self.common)
            ]
            if outcome.example:
                self.examples_of[situation] = outcome.example
        self.found[situation] = kept
        self.results += kept
        if self.keep:
            self.keep(self.results)
        if batches:
            batches.forget(but_first=self.examples > 0)
            self.kept[situation] = batches

    def _by_who_knew_less(self, situation: Situation) -> Situation | None:
        """The same attack on the bare classifier by the gray-box attacker, who knew all that there is to know
        of that: an AutoAttack that need not be run twice.
        """
        threat = situation.threat_model
        if threat is None or threat.knowledge != "white-box" or situation.mode != "autograd":
            return None
        (name,) = situation.defences
        if type(self.judge.defences[name]) is not Identity:
            return None
        for other in self.found:
            if (
                other.threat_model == replace(threat, knowledge="gray-box")
                and (other.attack, other.limit, other.source) == (situation.attack, situation.limit, "")
                and name in other.defences
            ):
                return other
        return None

    def _taken_over(self, twin: Situation, situation: Situation, prints: Mapping[str, str]) -> Result:
        """The result of the only defence of a situation from one that made the same images, with their
        picture.
        """
        (name,) = situation.defences
        if twin in self.examples_of:
            seen = self.examples_of[twin]
            self.examples_of[situation] = replace(
                seen, title=situation.title, purified={name: seen.purified[name]}, codes={},
                predictions={name: seen.predictions[name]},
            )  # fmt: skip
        return replace(
            self.found[twin][twin.defences.index(name)], threat_model=situation.threat_model,
            mode=situation.mode, draws=situation.draws, fingerprint=prints[name],
        )  # fmt: skip

    def _signed(self, result: Result, title: str) -> Result:
        """A result, new or kept, with what the fingerprint says without telling it."""
        return replace(
            result, attack=title, classifier=self.common["classifier"], batch=self.judge.batch,
            digests={
                "classifier": self.classifier_digests[0],
                "defence": self.defence_digests[result.defence][0],
            },
        )  # fmt: skip

    def _whole(self, situation: Situation, known: Result) -> bool:
        """Whether a kept result has all that is measured here: gray-box attackers alone leave less."""
        return situation.attack is None or known.rounded is not None or not self.judge.in_eight_bits

    def pictures(self) -> list[Example]:
        """For each attacker and protocol, and each defence that he knows, the attack that left least. With
        them everything is done, and no batch is kept any longer.
        """
        strongest: dict[object, Situation] = {}
        for situation, results in self.found.items():
            if situation.threat_model is None or not self.examples:
                continue
            group = (situation.threat_model.knowledge, results[0].protocol, situation.defences)
            best = strongest.setdefault(group, situation)
            if sum(r.accuracy for r in results) < sum(r.accuracy for r in self.found[best]):
                strongest[group] = situation
        for situation in strongest.values():
            if situation not in self.examples_of:  # its results were known
                self.examples_of[situation] = self._seen_again(situation)
        for batches in self.kept.values():
            batches.forget()
        return [self.examples_of[situation] for situation in strongest.values()]

    def _seen_again(self, situation: Situation) -> Example:
        """The picture of an attack from its first batch, where that or its twin's was kept, and otherwise of
        a few images that are attacked again.
        """
        start, clean, _ = next(self.judge.batches(situation.limit))
        alike = (situation, self._by_who_knew_less(situation))
        found = (self.kept[other] for other in alike if other in self.kept)
        kept = next((batches for batches in found if batches.made(start, clean)), None)
        few = len(clean) if kept else min(len(clean), 4 * self.examples)
        example = self.judge.run(replace(situation, limit=few), examples=self.examples, kept=kept).example
        assert example is not None
        return example

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
                "images": [self.image_digest, len(self.judge.chosen[: situation.limit])],
                "target": target,
                "seed": self.judge.seed,
                "batch": self.judge.batch,
                "classifier": self.classifier_digests,
                "defence": [name, self.defence_digests[name], type(defence).__qualname__, _version(defence)],
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
