"""What an evaluation runs, before anything runs: one scenario for each attack, target and budget.

```
spec, purifiers --choose_modes (modes.py)--> gradient modes --scenarios--> list[Scenario] --run.py--> results
```
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from comdefend.attacks import PGD, Attack, Norm
from comdefend.attacks.adaptive import ESTIMATED, gradient_modes
from comdefend.evaluation.results import in_words, scenario_title
from comdefend.evaluation.spec import EvaluationSpec
from comdefend.purifiers import Purifier, is_random
from comdefend.threat import ThreatModel

Modes = Mapping[tuple[str, Norm], tuple[str, ...]]
"""Gradient modes by defence and norm, the best first."""

MAX_ALL_MODES = 40
"""Up to so many images every mode is tried on all of them."""

KEPT_MODES = 2
"""Of more images, how many modes go on from the trial to all."""

ESTIMATED_IMAGES = 16
"""Images for estimated gradients, which take dozens of answers a step."""

ALONE = "alone"
"""The mode of a target that is the classifier behind a purifier's surrogate, instead of the purifier."""

TRANSFERRED: dict[Norm, PGD] = {"linf": PGD(), "l2": PGD(norm="l2")}
"""What is run on surrogates, for what it makes to be tried here."""


@dataclass(frozen=True)
class Target:
    """What an attack differentiates or queries.

    The classifier that is evaluated, or with `classifier` a surrogate; alone, or with `purifier` behind a
    defence (of a gray-box attacker: a surrogate purifier) in one of its gradient modes, with so many
    draws of a random one (EOT).
    """

    classifier: str = ""
    purifier: str = ""
    mode: str = ""
    eot_samples: int = 1


@dataclass(frozen=True)
class Scenario:
    """One attack on one target under one threat model, and the defences that are judged on its images.

    Without an attack it is clean accuracy. At most `limit` images; `trial`: a short one on few of
    them, by which modes are chosen.
    """

    defences: tuple[str, ...]
    attack: Attack | None = None
    threat_model: ThreatModel | None = None
    target: Target = Target()
    trial: bool = False
    limit: int | None = None

    @property
    def adaptive(self) -> bool:
        """Whether the attacker has the defence before them, to differentiate or to query."""
        return self.threat_model is not None and self.threat_model.knowledge != "gray-box"

    @property
    def source(self) -> str:
        """What the attack is made on instead of what is judged, or nothing."""
        if self.target.mode == ALONE:
            return "its surrogate"
        return "" if self.adaptive else self.target.classifier or self.target.purifier

    @property
    def mode(self) -> str:
        """The gradient mode of a white-box attack."""
        return "" if self.source else self.target.mode

    @property
    def via(self) -> str:
        """What the attack goes through, in words."""
        return in_words(self.mode, self.source, self.target.eot_samples if self.adaptive else 1)

    @property
    def title(self) -> str:
        if self.attack is None or self.threat_model is None:
            return "clean"
        return scenario_title(self.threat_model, self.attack.title, self.attack.protocol, self.via)


def scenarios(
    spec: EvaluationSpec,
    purifiers: Mapping[str, nn.Module],
    *,
    images: int,
    modes: Modes | None = None,
) -> list[Scenario]:
    """All scenarios of an evaluation of so many images, in the order in which they are run.

    `modes` are those that were chosen for each defence; by default all that it has.
    """
    names = tuple(purifiers)
    found = [Scenario(names)]
    if not spec.attacks:
        return found
    if "gray-box" in spec.knowledge:
        found += _gray_box(spec, purifiers)
    if "white-box" in spec.knowledge:
        for name, purifier in purifiers.items():
            found += _white_box(spec, name, purifier, modes)
    if "black-box" in spec.knowledge:
        for name, purifier in purifiers.items():
            found += _black_box(spec, name, purifier)
    return [replace(s, limit=None) if (s.limit or 0) >= images else s for s in found]


def trial(
    spec: EvaluationSpec, name: str, purifier: nn.Module, norm: Norm, epsilon: float, mode: str, images: int
) -> Scenario:
    """A short PGD in one gradient mode, by which modes are chosen."""
    attack = PGD(norm=norm, steps=10, step=0.25)
    attack = replace(attack, reference=f"pgd{'-l2' if norm == 'l2' else ''}:steps=10,step=0.25")
    informed = attack.informed(random=is_random(purifier))
    informed = replace(informed, restarts=1, losses=attack.losses)
    return Scenario(
        (name,), informed, ThreatModel(norm, epsilon, "white-box"),
        _through(spec, name, purifier, mode), trial=True,
        limit=ESTIMATED_IMAGES if mode == ESTIMATED else images,
    )  # fmt: skip


def trial_budget(spec: EvaluationSpec, norm: Norm) -> float | None:
    """The smallest budget, at which modes differ most: at a large one many of them break everything."""
    return min((epsilon for other, epsilon in spec.spent() if other == norm), default=None)


def _gray_box(spec: EvaluationSpec, purifiers: Mapping[str, nn.Module]) -> list[Scenario]:
    """Attacks on the bare classifier, each tried on all defences, and transfers from surrogates.

    Slow ones see fewer images where there are attackers who know more, to be compared with.
    """
    names = tuple(purifiers)
    found = [
        Scenario(
            names, attack, ThreatModel(attack.norm, epsilon),
            limit=spec.slow_limit if attack.slow and not spec.gray_box_only else None,
        )
        for attack, epsilon in spec.budgets(spec.gray_box())
    ]  # fmt: skip
    targets = [
        *(Target(purifier=reference) for reference in spec.surrogate_purifiers),
        *(Target(classifier=reference) for reference in spec.surrogate_classifiers),
    ]
    found += [
        Scenario(names, TRANSFERRED[norm], ThreatModel(norm, epsilon), target)
        for target in targets for norm, epsilon in spec.spent()
    ]  # fmt: skip
    return found


def _white_box(spec: EvaluationSpec, name: str, purifier: nn.Module, modes: Modes | None) -> list[Scenario]:
    """Every attack through every gradient mode; slow ones through the best alone where modes were chosen."""
    found = []
    asked: Iterable[tuple[Attack, float | None]] = spec.budgets(spec.gradient_based())
    for attack, epsilon in sorted(asked, key=lambda one: one[0].slow):
        chosen = None if modes is None else modes.get((name, attack.norm))
        through: Sequence[str] = chosen or gradient_modes(purifier)
        if attack.slow and chosen and chosen != gradient_modes(purifier):
            through = through[:1]
        informed = attack.informed(random=is_random(purifier))
        for mode in through:
            estimated = mode == ESTIMATED
            if estimated and not attack.follows_estimates:
                continue
            slow_limit = spec.slow_limit if attack.slow else None
            found.append(
                Scenario(
                    (name,), informed, ThreatModel(attack.norm, epsilon, "white-box"),
                    _through(spec, name, purifier, mode), trial=estimated,
                    limit=ESTIMATED_IMAGES if estimated else attack.max_images or slow_limit,
                )
            )  # fmt: skip
    if isinstance(purifier, Purifier) and purifier.has_surrogate:
        found += [
            Scenario(
                (name,), PGD(), ThreatModel("linf", epsilon, "white-box"),
                Target(purifier=name, mode=ALONE),
            )
            for norm, epsilon in spec.spent() if norm == "linf"
        ]  # fmt: skip
    return found


def _black_box(spec: EvaluationSpec, name: str, purifier: nn.Module) -> list[Scenario]:
    """Attacks that ask the defended classifier; of a random one they see means over draws, so that no lucky
    one counts.
    """
    return [
        Scenario(
            (name,), attack.informed(random=is_random(purifier)),
            ThreatModel(attack.norm, epsilon, "black-box"), _through(spec, name, purifier, ""),
            limit=attack.max_images or spec.slow_limit,
        )
        for attack, epsilon in spec.budgets(spec.query_based())
    ]  # fmt: skip


def _through(spec: EvaluationSpec, name: str, purifier: nn.Module, mode: str) -> Target:
    return Target(purifier=name, mode=mode, eot_samples=spec.eot_samples if is_random(purifier) else 1)
