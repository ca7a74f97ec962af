"""The judge: makes adversarial images for one scenario after another, and counts what defences get right."""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from comdefend.attacks import Attack, BudgetFree, autoattack, distance
from comdefend.attacks.adaptive import AdaptiveView, gradient_modes
from comdefend.attacks.base import evaluation_mode
from comdefend.attacks.iterative import stored
from comdefend.data import ImageSet
from comdefend.device import device_of
from comdefend.errors import WorkError
from comdefend.evaluation.results import Result, pack, repeats, total, wilson
from comdefend.evaluation.scenarios import ALONE, Scenario, Target
from comdefend.evaluation.store import Batches, Made
from comdefend.image import psnr
from comdefend.purifiers import ComDefendPurifier, Identity, Purifier, is_ours, is_random
from comdefend.seeding import drawn_from, random_state, restore_random_state

REMEMBERED = 2**26
"""Values of images whose purified form is kept for the next attack: half a gigabyte for each defence."""

APART = 7919
"""Between the seeds of a batch's draws; the first, the attack's own, is its place. A prime, so
that draws of two batches hardly share one.
"""

REPEATS = 20
"""How often a random defence judges every image."""


@dataclass(frozen=True)
class Example:
    """A few images of one scenario, for looking at: what came in, what the attack and each defence made.

    `clean`, `adversarial` and each of `purified` are N x C x H x W in [0, 1]; `labels`, `clean_predictions`
    and each of `predictions` int64 N. `purified` has one entry for each defence, `codes` where it has a
    code, `predictions` one for "none" as well.
    """

    title: str
    clean: Tensor
    adversarial: Tensor
    labels: Tensor
    clean_predictions: Tensor
    purified: dict[str, Tensor]
    codes: dict[str, Tensor]
    predictions: dict[str, Tensor]


@dataclass
class Outcome:
    """What a scenario came to: for each defence in which share of draws it got each of `n` images right,
    batch by batch, and the rest.
    """

    scenario: Scenario
    right: dict[str, list[Tensor]]
    rounded: dict[str, list[Tensor]] = field(default_factory=dict)
    psnr: dict[str, list[Tensor]] = field(default_factory=dict)
    distances: list[Tensor] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    n: int = 0
    unmoved: int = 0
    fooled: int = 0
    seconds: float = 0.0
    example: Example | None = None

    def warnings(self) -> tuple[str, ...]:
        """What the attack said of itself, and how many images that were right it left as they were: with a
        budget to spend that is no robustness, but an attack that had nothing to follow.
        """
        found = list(dict.fromkeys(self.flags))
        if self.unmoved:
            found.append(f"{self.unmoved} of {self.n} images were not moved at all: no gradient to follow?")
        return tuple(found)

    def shares(self, name: str) -> Tensor:
        """The share of draws in which a defence got each image right, N floats: 0 and 1 of a deterministic
        one.
        """
        return torch.cat(self.right[name])

    def results(self, defences: Mapping[str, nn.Module], common: Mapping[str, Any]) -> Iterator[Result]:
        """One result for each defence; `common` is what all results of an evaluation share."""
        attack = self.scenario.attack
        distances = torch.cat(self.distances) if self.distances else torch.empty(0)
        for name in self.scenario.defences:
            defence, shares = defences[name], self.shares(name)
            stochastic = is_random(defence)
            draws = REPEATS if stochastic else 1
            correct = total(shares)
            rounded = torch.cat(self.rounded[name]) if name in self.rounded else None
            psnrs = self.psnr.get(name)
            yield Result(
                defence=name,
                attack=attack.title if attack else "none",
                n=self.n,
                correct=correct,
                threat_model=self.scenario.threat_model,
                protocol=attack.protocol if attack else None,
                settings=attack.settings() if attack else {},
                defence_settings=defence.settings() if isinstance(defence, Purifier) else {},
                mode=self.scenario.mode,
                draws=self.scenario.target.eot_samples,
                source=self.scenario.source,
                trial=self.scenario.trial,
                psnr=float(torch.cat(psnrs).mean()) if psnrs else None,
                fooled=self.fooled if attack else None,
                distance=float(distances.median()) if len(distances) else None,
                rounded=None if rounded is None else total(rounded),
                rounded_right="" if rounded is None else pack(rounded, draws),
                repeats=repeats(shares, draws) if stochastic else None,
                flags=self.warnings(),
                right=pack(shares, draws),
                stochastic=stochastic,
                seconds=round(self.seconds, 2),
                interval=wilson(correct, self.n),
                **common,
            )


class SurrogateAlone(nn.Module):
    """The classifier behind a purifier's differentiable surrogate, for attacks that are tried on the
    purifier.
    """

    def __init__(self, classifier: nn.Module, purifier: Purifier) -> None:
        super().__init__()
        self.classifier, self.purifier = classifier, purifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.purifier.surrogate(images).clamp(0, 1))
        return logits


class Judge:
    """One classifier, its defences by name, and the images that they are judged on.

    `in_eight_bits`: adversarial images of a gray-box attacker are judged once more after rounding, as those
    of an attacker who has the defence before them always are.
    """

    def __init__(
        self,
        classifier: nn.Module,
        defences: Mapping[str, nn.Module],
        data: ImageSet,
        chosen: Sequence[int],
        *,
        seed: int,
        batch: int,
        device: str,
        in_eight_bits: bool = False,
        surrogate_purifiers: Mapping[str, nn.Module] | None = None,
        surrogate_classifiers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.in_eight_bits = in_eight_bits
        self.surrogate_purifiers = surrogate_purifiers or {}
        self.surrogate_classifiers = surrogate_classifiers or {}
        self._targets: dict[tuple[Target, bool], nn.Module] = {}
        self.classifier, self.defences = classifier, defences
        self.data, self.chosen, self.labels = data, chosen, data.labels(chosen)
        self.seed, self.batch, self.device = seed, batch, device
        self.searched: dict[tuple[Attack, Target, int, int], Tensor] = {}
        self.purified: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._copies = {module: _copied(module) for module in (classifier, *defences.values())}

    def untouched(self, name: str) -> tuple[nn.Module, nn.Module] | None:
        """The classifier and a defence as they were before the evaluation, if they can be copied."""
        classifier, defence = self._copies[self.classifier], self._copies[self.defences[name]]
        return None if classifier is None or defence is None else (classifier, defence)

    def target(self, scenario: Scenario) -> nn.Module:
        """What an attack of a scenario differentiates or queries."""
        wanted = scenario.target
        if (wanted, scenario.adaptive) not in self._targets:
            classifier, purifier = self.target_parts(scenario)
            made = classifier
            if purifier is not None and wanted.mode == ALONE:
                assert isinstance(purifier, Purifier)
                made = SurrogateAlone(classifier, purifier)
            elif purifier is not None:
                mode = wanted.mode or ("autograd" if scenario.adaptive else gradient_modes(purifier)[0])
                made = AdaptiveView(classifier, purifier, mode=mode, eot_samples=wanted.eot_samples)
            self._targets[wanted, scenario.adaptive] = made
        return self._targets[wanted, scenario.adaptive]

    def target_parts(self, scenario: Scenario) -> tuple[nn.Module, nn.Module | None]:
        """The classifier of a target, and the purifier in front of it, if any."""
        wanted = scenario.target
        known = self.defences if scenario.adaptive else self.surrogate_purifiers
        classifier = self.surrogate_classifiers[wanted.classifier] if wanted.classifier else self.classifier
        return classifier, known[wanted.purifier] if wanted.purifier else None

    def batches(self, limit: int | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The place of the first image, images and labels, batch by batch."""
        count = min(limit or len(self.chosen), len(self.chosen))
        for start in range(0, count, self.batch):
            rows = self.chosen[start : min(start + self.batch, count)]
            images = self.data.images(rows).to(self.device)
            yield start, images, self.labels[start : start + len(rows)].to(self.device)

    def batch_count(self, limit: int | None = None) -> int:
        """How many batches `batches` gives."""
        return -(-min(limit or len(self.chosen), len(self.chosen)) // self.batch)

    def run(
        self,
        scenario: Scenario,
        *,
        examples: int = 0,
        step: Callable[[str], None] | None = None,
        kept: Batches | None = None,
    ) -> Outcome:
        """All images through one scenario. `step` is called after each batch; `kept` holds adversarial
        images of batches that need not be attacked again, and is given those of the others.
        """
        outcome = Outcome(scenario, {name: [] for name in scenario.defences})
        for start, clean, truth in self.batches(scenario.limit):
            self._judge_batch(outcome, clean, truth, start, examples, kept)
            if step:
                step(scenario.title)
        return outcome

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """The classes, int64 N. Raises `WorkError` where a logit is no number."""
        with torch.no_grad():
            logits: Tensor = model(images)
        if not torch.isfinite(logits).all():
            raise WorkError(f"{type(model).__name__} returned NaN or infinite logits")
        return logits.argmax(1)

    def attack(
        self,
        scenario: Scenario,
        clean: Tensor,
        truth: Tensor,
        start: int,
        *,
        flags: list[str] | None = None,
    ) -> Tensor:
        """Adversarial images; `start` is the place of the batch's first image, for the seed. What the attack
        warns of goes into `flags`.
        """
        assert scenario.attack is not None
        assert scenario.threat_model is not None
        attack, epsilon, target = scenario.attack, scenario.threat_model.epsilon, self.target(scenario)
        with drawn_from(self.seed + start), _warnings([] if flags is None else flags):
            if not isinstance(attack, BudgetFree):
                return attack(target, clean, truth, epsilon=epsilon)
            goal = attack.goal(truth)
            key = (attack, scenario.target, start, len(clean))
            if key not in self.searched:
                # Kept for the next budgets, which follow at once; those of other attacks are done with.
                self.searched = {k: v for k, v in self.searched.items() if k[:2] == key[:2]}
                self.searched[key] = attack.search(target, clean, goal)
            return attack.within(target, clean, self.searched[key], goal, epsilon)

    def gather(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The images and labels at some places among those that are judged."""
        images = self.data.images([self.chosen[place] for place in places]).to(self.device)
        return images, self.labels[torch.as_tensor(places, dtype=torch.long)].to(self.device)

    def shares(self, name: str, images: Tensor, truth: Tensor, start: int) -> Tensor:
        """The share of `REPEATS` draws in which a random defence gets each image right, N floats; of a
        deterministic one 0 or 1.
        """
        drawn = is_random(self.defences[name])
        votes = [
            self.predict(self.classifier, self.purify_anew(name, images, start + APART * draw)) == truth
            for draw in (range(1, REPEATS + 1) if drawn else (0,))
        ]
        return torch.stack(votes).float().mean(0).cpu()

    def purify(self, name: str, images: Tensor, start: int) -> Tensor:
        """What a defence makes of a batch. A deterministic purifier is given those images only that are
        not what they were the last time: a minimal attack that needs less than the smallest of its
        budgets makes the same image for all of them.
        """
        defence = self.defences[name]
        if not isinstance(defence, Purifier) or isinstance(defence, Identity) or defence.stochastic:
            return self.purify_anew(name, images, start)
        old, purified = self.purified.get((name, start), (images[:0], images[:0]))
        if old.shape != images.shape:
            purified = self.purify_anew(name, images, start)
        elif bool((changed := (images != old).flatten(1).any(1)).any()):
            purified = purified.clone()
            purified[changed] = self.purify_anew(name, images[changed], start)
        if start * images[0].numel() < REMEMBERED:
            self.purified[name, start] = (images, purified)
        return purified

    def purify_anew(self, name: str, images: Tensor, start: int) -> Tensor:
        with drawn_from(self.seed + start), torch.no_grad():
            try:
                purified: Tensor = self.defences[name](images)
            except Exception as error:  # someone else's code can raise anything
                raise WorkError(f"defence {name!r} failed: {type(error).__name__}: {error}") from error
        return purified

    def _attacked(
        self, scenario: Scenario, clean: Tensor, truth: Tensor, start: int, kept: Batches | None
    ) -> Made:
        """What the attack made of a batch, now or before an interruption."""
        if kept and (before := kept.made(start, clean)):
            return before
        flags: list[str] = []
        began = time.monotonic()
        images = self.attack(scenario, clean, truth, start, flags=flags)
        made = Made(images, time.monotonic() - began, tuple(flags))
        if kept:
            kept.keep(start, made)
        return made

    def _judge_batch(
        self,
        outcome: Outcome,
        clean: Tensor,
        truth: Tensor,
        start: int,
        examples: int,
        kept: Batches | None,
    ) -> None:
        scenario, images = outcome.scenario, clean
        if scenario.attack is not None:
            made = self._attacked(scenario, clean, truth, start, kept)
            images = made.images
            outcome.seconds += made.seconds
            outcome.flags += made.flags
        names = scenario.defences
        purified = {name: self.purify(name, images, start) for name in names}
        predictions = {name: self.predict(self.classifier, cleaned) for name, cleaned in purified.items()}
        outcome.n += len(truth)
        for name, cleaned in purified.items():
            drawn = is_random(self.defences[name])
            right = self.shares(name, images, truth, start) if drawn else predictions[name] == truth
            outcome.right[name].append(right.float().cpu())
            if scenario.attack is None and not isinstance(self.defences[name], Identity):
                outcome.psnr.setdefault(name, []).append(psnr(cleaned, clean).cpu())
        if scenario.adaptive or (scenario.attack is not None and self.in_eight_bits):
            self._stored(outcome, images, truth, start)
        if scenario.attack is not None:
            with drawn_from(self.seed + start):
                before, after = (self.predict(self.target(scenario), at) for at in (clean, images))
            turned = (after != truth) & (before == truth)
            if scenario.attack.moves_all:
                still = (images == clean).flatten(1).all(1)
                outcome.unmoved += int((still & (before == truth)).sum())
            outcome.fooled += int(turned.sum())
            outcome.distances.append(distance(clean, images, scenario.attack.norm)[turned].cpu())
            if outcome.example is None and examples:
                # The first images that the attack turned; others only where there are too few.
                rows = torch.cat([torch.nonzero(turned)[:, 0], torch.nonzero(~turned)[:, 0]])[:examples]
                bare = self.predict(self.classifier, images) if "none" not in names else predictions["none"]
                outcome.example = Example(
                    title=scenario.title,
                    clean=clean[rows].cpu(),
                    adversarial=images[rows].cpu(),
                    labels=truth[rows].cpu(),
                    clean_predictions=self.predict(self.classifier, clean)[rows].cpu(),
                    purified={name: value[rows].cpu() for name, value in purified.items()},
                    codes=self._codes(names, images[rows]),
                    predictions={
                        name: value[rows].cpu() for name, value in {"none": bare, **predictions}.items()
                    },
                )

    def _stored(self, outcome: Outcome, images: Tensor, truth: Tensor, start: int) -> None:
        """What is right of adversarial images that are stored as PNG: rounded to 8 bits."""
        rounded = stored(images)
        for name in outcome.scenario.defences:
            outcome.rounded.setdefault(name, []).append(self.shares(name, rounded, truth, start))

    def _codes(self, names: Sequence[str], images: Tensor) -> dict[str, Tensor]:
        defences = ((name, self.defences[name]) for name in names)
        return {n: d.compress(images).cpu() for n, d in defences if isinstance(d, ComDefendPurifier)}


def _copied(module: nn.Module) -> nn.Module | None:
    """A copy of a module, None where it has none; of ours, which remember nothing, the module itself."""
    try:
        return module if is_ours(module) else copy.deepcopy(module)
    except Exception:  # someone else's code can raise anything
        return None


@contextmanager
def _warnings(found: list[str]) -> Iterator[None]:
    """What AutoAttack warns of goes into `found`, and nowhere else."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, collector = logging.getLogger(autoattack.LOGGER), Collector(logging.WARNING)
    before = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = before


@contextmanager
def _leaving_random_numbers(module: nn.Module) -> Iterator[None]:
    """Somebody's module that is not random draws nothing from the generators, whatever it does inside. One
    that seeds them, to give the same answer twice, would have every attack that draws begin with the same
    numbers again after each answer: the same square, the same direction, the same restart.
    """
    states: list[Any] = []
    hooks = (
        module.register_forward_pre_hook(lambda *_: states.append(random_state())),
        module.register_forward_hook(lambda *_: restore_random_state(states.pop()), always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def as_judged(modules: Sequence[nn.Module], device: str) -> Iterator[None]:
    """Modules on the device, in evaluation mode, their parameters without gradients, and leaving random
    numbers alone; then as before.
    """
    wanted = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    homes = [(module, device_of(module, otherwise=torch.device(device))) for module in modules]
    with ExitStack() as modes:
        try:
            for module in modules:
                modes.enter_context(evaluation_mode(module.to(device)))
                module.requires_grad_(False)
                if not (is_random(module) or is_ours(module)):
                    modes.enter_context(_leaving_random_numbers(module))
            yield
        finally:
            for module, home in homes:
                module.to(home)
            for parameter, needed in wanted:
                parameter.requires_grad_(needed)
