"""The scenarios of one evaluation, one after the other: each is attacked and judged, or finished already."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from comdefend import provenance
from comdefend.attacks.adaptive import ESTIMATED
from comdefend.attacks.base import Goal
from comdefend.attacks.iterative import gradient
from comdefend.errors import RequestError
from comdefend.evaluation.judge import REPEATS, Example, Judge
from comdefend.evaluation.results import Result
from comdefend.evaluation.scenarios import Scenario, Target
from comdefend.evaluation.store import Batches, Store, identity, key_of
from comdefend.purifiers import Identity, is_random
from comdefend.seeding import random_state_kept

Progress = Callable[[int, int, str], None]
"""Called with (work done, work in all, what is under way); a unit is about a second."""

TIMED_IMAGES = 4
"""Images whose gradient is timed for the estimate of how long a scenario takes."""


class Run:
    """Runs scenarios and keeps their results, in the order in which they are asked for."""

    def __init__(
        self, judge: Judge, classifier: str, *, store: Store, progress: Progress | None, examples: int
    ) -> None:
        self.judge, self.store, self.progress, self.examples = judge, store, progress, examples
        self.known_before, self.reused = store.keys(), False
        self.results: list[Result] = []
        self.examples_of: dict[Scenario, Example] = {}
        self.done = self.total = 0.0
        self.common = {
            "data": judge.data.name, "classifier": classifier, "seed": judge.seed, "device": judge.device,
            **provenance.made(),
        }  # fmt: skip
        self.found: dict[Scenario, list[Result]] = {}
        self.kept: dict[Scenario, Batches] = {}
        self.first = judge.data.images(judge.chosen[:2]).to(judge.device)
        self.image_digest = judge.data.digest(judge.chosen)
        self.defence_identity = {n: identity(module, self.first) for n, module in judge.defences.items()}
        self.classifier_identity = identity(judge.classifier, self.first)
        self._surrogate_identity: dict[str, list[object]] = {}
        self._seconds: dict[Target, float] = {}
        self._judging: dict[str, float] = {}

    def expect(self, seconds: float) -> None:
        """Count work that is still to come."""
        self.total += seconds

    def run_all(self, scenarios: Iterable[Scenario]) -> None:
        """Run what is not finished, in order, and keep the results."""
        new = [s for s in dict.fromkeys(scenarios) if s not in self.found]
        work = {s: 0.0 if self._finished(s) or not self.progress else self.seconds(s) for s in new}
        self.total += sum(work.values())
        for scenario in new:
            self._one(scenario, work[scenario])

    def _finished(self, scenario: Scenario) -> bool:
        return all(self.store.result(self._key(scenario, name)) for name in scenario.defences)

    def shares(self, scenario: Scenario) -> Tensor:
        """For each image the share of draws in which it survives before the first of the defences."""
        self.run_all([scenario])
        return self.found[scenario][0].shares

    def tell(self, text: str, seconds: float = 0.0) -> None:
        """Say what is under way, and that so much work was done before it."""
        self.done += seconds
        if self.progress:
            self.progress(round(self.done), max(round(self.total), round(self.done)), text)

    def seconds(self, scenario: Scenario) -> float:
        """About how long a scenario takes, from the time of one gradient of a few images."""
        images = min(scenario.limit or len(self.judge.chosen), len(self.judge.chosen))
        judged = sum(self.seconds_to_judge(name) for name in scenario.defences)
        if scenario.attack is None:
            return images * judged
        answers = 2 * 16 if scenario.mode == ESTIMATED else 3  # a gradient costs about three answers
        made = scenario.attack.gradients * self.seconds_a_gradient(scenario) * answers / 3
        return images * (made + judged * (2 if scenario.adaptive or self.judge.in_eight_bits else 1))

    def seconds_to_judge(self, name: str) -> float:
        """How long it takes to purify an image with a defence and classify it, measured once."""
        if name not in self._judging:
            images = self.judge.data.images(self.judge.chosen[:TIMED_IMAGES]).to(self.judge.device)
            began = time.perf_counter()
            self.judge.predict(self.judge.classifier, self.judge.purify_anew(name, images, 0))
            draws = REPEATS if is_random(self.judge.defences[name]) else 1
            self._judging[name] = draws * (time.perf_counter() - began) / len(images)
        return self._judging[name]

    def seconds_a_gradient(self, scenario: Scenario) -> float:
        """How long the gradient of one image takes, measured once for each target."""
        target = scenario.target
        if target not in self._seconds:
            images = self.judge.data.images(self.judge.chosen[:TIMED_IMAGES]).to(self.judge.device)
            goal = Goal(self.judge.labels[:TIMED_IMAGES].to(self.judge.device))
            model = self.judge.target(scenario)
            began = time.perf_counter()
            with random_state_kept():
                try:
                    gradient(model, images, goal)
                except RequestError:  # it hands none back, and is only asked for answers
                    with torch.no_grad():
                        model(images)
            self._seconds[target] = (time.perf_counter() - began) / len(images)
        return self._seconds[target]

    def _one(self, scenario: Scenario, work: float) -> None:
        self.tell(scenario.title)
        keys = {name: self._key(scenario, name) for name in scenario.defences}
        batches = self.store.batches(next(iter(keys.values())))
        finished = {name: self.store.result(key) for name, key in keys.items()}
        whole = [r for r in finished.values() if r and self._whole(scenario, r)]
        if len(whole) == len(keys):
            self.tell(scenario.title, work)
            self.reused = self.reused or bool(self.known_before & set(keys.values()))
            results = [self._signed(r, scenario, n, keys[n]) for n, r in zip(keys, whole, strict=True)]
        elif twin := self._by_who_knew_less(scenario):
            self.tell(scenario.title, work)
            results = [self._taken_over(twin, scenario, keys)]
            self.store.keep(results)
        else:
            part = work / self.judge.batch_count(scenario.limit)
            outcome = self.judge.run(
                scenario, examples=self.examples, kept=batches,
                step=lambda title: self.tell(title, part),
            )  # fmt: skip
            results = [
                self._signed(result, scenario, result.defence, keys[result.defence])
                for result in outcome.results(self.judge.defences, self.common)
            ]
            if outcome.example:
                self.examples_of[scenario] = outcome.example
            self.store.keep(results)
        self.found[scenario] = results
        self.results += results
        if batches:
            batches.forget(but_first=self.examples > 0)
            self.kept[scenario] = batches

    def _by_who_knew_less(self, scenario: Scenario) -> Scenario | None:
        """The same attack on the bare classifier by the gray-box attacker, who knew all that there is to know
        of that: an AutoAttack that need not be run twice.
        """
        threat = scenario.threat_model
        if threat is None or threat.knowledge != "white-box" or scenario.mode != "autograd":
            return None
        (name,) = scenario.defences
        if type(self.judge.defences[name]) is not Identity:
            return None
        for other in self.found:
            if (
                other.threat_model == replace(threat, knowledge="gray-box")
                and (other.attack, other.limit, other.source) == (scenario.attack, scenario.limit, "")
                and name in other.defences
            ):
                return other
        return None

    def _taken_over(self, twin: Scenario, scenario: Scenario, keys: Mapping[str, str]) -> Result:
        """The result of the only defence of a scenario from one that made the same images, with their
        picture.
        """
        (name,) = scenario.defences
        if twin in self.examples_of:
            seen = self.examples_of[twin]
            self.examples_of[scenario] = replace(
                seen, title=scenario.title, purified={name: seen.purified[name]}, codes={},
                predictions={name: seen.predictions[name]},
            )  # fmt: skip
        return replace(
            self.found[twin][twin.defences.index(name)], threat_model=scenario.threat_model,
            mode=scenario.mode, draws=scenario.target.eot_samples, fingerprint=keys[name],
        )  # fmt: skip

    def _signed(self, result: Result, scenario: Scenario, name: str, key: str) -> Result:
        """A result, new or finished before, under the names of this evaluation."""
        return replace(
            result, attack=scenario.attack.title if scenario.attack else "none", defence=name,
            classifier=self.common["classifier"], batch=self.judge.batch, fingerprint=key,
            digests={"classifier": self.classifier_identity[0], "defence": self.defence_identity[name][0]},
        )  # fmt: skip

    def _whole(self, scenario: Scenario, known: Result) -> bool:
        """Whether a finished result has all that is measured here: gray-box attackers alone leave less."""
        return scenario.attack is None or known.rounded is not None or not self.judge.in_eight_bits

    def pictures(self) -> list[Example]:
        """For each attacker and protocol, and each defence that they know, the strongest attack."""
        strongest: dict[object, Scenario] = {}
        for scenario, results in self.found.items():
            if scenario.threat_model is None or not self.examples:
                continue
            group = (scenario.threat_model.knowledge, results[0].protocol, scenario.defences)
            best = strongest.setdefault(group, scenario)
            if sum(r.accuracy for r in results) < sum(r.accuracy for r in self.found[best]):
                strongest[group] = scenario
        for scenario in strongest.values():
            if scenario not in self.examples_of:  # its results were finished before
                self.examples_of[scenario] = self._seen_again(scenario)
        return [self.examples_of[scenario] for scenario in strongest.values()]

    def _seen_again(self, scenario: Scenario) -> Example:
        """The picture of an attack from its first batch, where that or its twin's was kept, and otherwise of
        a few images that are attacked again.
        """
        start, clean, _ = next(self.judge.batches(scenario.limit))
        alike = (scenario, self._by_who_knew_less(scenario))
        found = (self.kept[other] for other in alike if other in self.kept)
        kept = next((batches for batches in found if batches.made(start, clean)), None)
        few = len(clean) if kept else min(len(clean), 4 * self.examples)
        example = self.judge.run(replace(scenario, limit=few), examples=self.examples, kept=kept).example
        assert example is not None
        return example

    def _key(self, scenario: Scenario, name: str) -> str:
        attack, threat, target = scenario.attack, scenario.threat_model, scenario.target
        classifier, purifier = self.judge.target_parts(scenario)
        if target.classifier and target.classifier not in self._surrogate_identity:
            self._surrogate_identity[target.classifier] = identity(classifier, self.first)
        if purifier is not None and target.purifier not in self._surrogate_identity:
            self._surrogate_identity[target.purifier] = identity(purifier, self.first)
        asked = {} if attack is None else {**attack.settings(), "name": attack.name, "norm": attack.norm}
        return key_of(
            {
                "data": self.judge.data.name,
                "images": [self.image_digest, len(self.judge.chosen[: scenario.limit])],
                "seed": self.judge.seed,
                "batch": self.judge.batch,
                "classifier": self.classifier_identity,
                "defence": [self.defence_identity[name], is_random(self.judge.defences[name])],
                "attack": asked and {**asked, "protocol": attack.protocol},  # type: ignore[union-attr]
                "epsilon": threat.epsilon if threat else None,
                "knowledge": threat.knowledge if threat else "",
                "target": [
                    self._surrogate_identity.get(target.classifier), target.mode, target.eot_samples,
                    self._surrogate_identity.get(target.purifier),
                ],
            }
        )  # fmt: skip


def fastest_threads(step: Callable[[], object]) -> int:
    """How many threads to compute a step with: one where more do not make it faster.

    Threads wait for each other at the end of every layer. Where another process has one of their cores they
    wait for that, too, and a step that takes half a second on one core can take four on two.
    """
    usual = torch.get_num_threads()
    if usual == 1:
        return 1

    def timed(threads: int) -> float:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    try:
        timed(1)  # the first call prepares
        return usual if timed(usual) < 0.8 * timed(1) else 1
    finally:
        torch.set_num_threads(usual)
