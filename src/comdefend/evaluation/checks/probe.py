"""What checks measure with: attacks of their own on one defence, and the results of the evaluation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from comdefend.attacks import PGD, Attack, Norm
from comdefend.attacks.adaptive import ESTIMATED, AdaptiveView
from comdefend.attacks.iterative import CONFIRMATIONS
from comdefend.evaluation.judge import APART, Judge
from comdefend.evaluation.results import Check, Curve, Result, Status
from comdefend.evaluation.scenarios import Scenario, Target
from comdefend.evaluation.store import key_of
from comdefend.evaluation.worst_case import WORST, worst_cases
from comdefend.purifiers import ComDefendPurifier, is_random
from comdefend.registry import Registry
from comdefend.threat import ThreatModel

POINT = 0.01
"""One point of accuracy. A difference of one image is never held against an attack."""

STEPS = 20
"""Of the checks' own PGD, at least."""

_USUAL = {"steps": STEPS, "step": 0.125}
"""Of PGD where none was asked for."""

NOBODY = "no image withstood, so there is nothing to test"


def made_at(checks: Sequence[Check]) -> str:
    """The budgets of some checks, for the heading above them: "at 8/255 linf and 0.5 l2"."""
    found = list(dict.fromkeys(check.budget for check in checks if check.budget))
    return f"at {' and '.join(found)}" if found else ""


@dataclass(frozen=True)
class Sizes:
    """How much checks look at: images, and of how few nothing can be learnt; those of a check that goes
    through many draws of a random defence, and those of one that takes its time with each; random draws of
    noise and queries for an image; draws behind a gradient.
    """

    images: int = 128
    fewest: int = 30
    drawn: int = 48
    few: int = 16
    noise: int = 1000
    queries: int = 1000
    draws: tuple[int, ...] = (1, 5, 20, 50)


SIZES = Sizes()


def tolerance(images: int, *, random: bool) -> float:
    """The difference of accuracies on so many images that is not held against an attack: a point, or one
    image, and of a random defence, which is judged in other draws, two points more.
    """
    return max(POINT, 1.5 / images) + (2 * POINT if random else 0)


@dataclass(frozen=True)
class Registered:
    """A check: what makes its lines, about how many gradients of each image that takes, whether it is made
    under each norm that is attacked or under L-infinity alone, and of which defences.
    """

    run: Callable[["Probe"], Iterator[Check]]
    gradients: float
    both_norms: bool
    applies: Callable[[nn.Module], bool]


checks: "Registry[Registered]" = Registry("comdefend.evaluation.checks")
"""Checks by the names of their functions."""


def always(_: nn.Module) -> bool:
    return True


def is_deterministic(purifier: nn.Module) -> bool:
    return not is_random(purifier)


def in_half_precision(purifier: nn.Module) -> bool:
    return isinstance(purifier, ComDefendPurifier) and purifier.dtype != torch.float32


def check(
    *, gradients: float, both_norms: bool = False, applies: Callable[[nn.Module], bool] = always
) -> Callable[[Callable[["Probe"], Iterator[Check]]], Callable[["Probe"], Iterator[Check]]]:
    """Register the check below the decorator; see `Registered`."""

    def add(run: Callable[["Probe"], Iterator[Check]]) -> Callable[["Probe"], Iterator[Check]]:
        checks.register(run.__name__)(Registered(run, gradients, both_norms, applies))
        return run

    return add


class Probe:
    """One defence under one norm, at the budget `epsilon` (L-infinity: a fraction); `results` are those of
    the evaluation, which must know white-box attacks on it.

    `mode` is the gradient mode that broke most, `tried` are all that were tried; `steps` of the size `step`
    are those of the PGD that was asked for; `images` and `labels` are the first of the evaluation.
    """

    def __init__(
        self,
        judge: Judge,
        name: str,
        results: Sequence[Result],
        *,
        epsilon: float,
        draws: int,
        norm: Norm = "linf",
    ) -> None:
        self.sizes = SIZES
        self.judge, self.name, self.epsilon, self.norm = judge, name, epsilon, norm
        self.purifier = judge.defences[name]
        self.random = is_random(self.purifier)
        self.draws = draws if self.random else 1
        self.results = [r for r in results if r.defence == name]
        self.bare = [r for r in results if r.defence == "none"]
        seen = [r for r in self.results if r.mode and r.norm == norm]
        self.tried = tuple(dict.fromkeys(r.mode for r in seen))
        followed = [r for r in seen if r.mode != ESTIMATED]
        here = [r for r in followed if self.at_budget(r)] or followed
        most = max((r.n for r in here), default=0)
        followed = [r for r in here if r.n == most]
        self.mode = min(followed, key=lambda r: r.accuracy).mode if followed else "autograd"
        asked = [r for r in here if {"steps", "step"} <= r.settings.keys() and not r.trial]
        longest = max(
            (r.settings for r in asked),
            key=lambda s: int(s["steps"]),
            default=_USUAL,
        )
        self.steps, self.step = int(longest["steps"]), float(longest["step"])
        self.known: dict[tuple[object, ...], Tensor] = {}
        images = [(i, t) for _, i, t in judge.batches(self.sizes.images)]
        self.images, self.labels = (torch.cat(part) for part in zip(*images, strict=True))

    def key(self, check: str) -> str:
        """Of all that the check of that name depends on: what was measured, and on what."""
        measured = [
            (r.fingerprint, r.right, r.rounded_right, r.flags)
            for results in (self.results, self.bare) for r in results
        ]  # fmt: skip
        return key_of(
            {
                "check": check, "defence": [self.name, self.draws], "sizes": asdict(self.sizes),
                "budget": [self.norm, self.epsilon], "results": measured,
            }
        )  # fmt: skip

    @property
    def clean(self) -> Result:
        """What is right without any attack."""
        return next(r for r in self.results if r.threat_model is None)

    def worst(self) -> Result | None:
        """The worst case at the checks' budget for an attacker who knows the defence."""
        found = (r for r in worst_cases(self.results) if r.knowledge == "white-box" and self.at_budget(r))
        return next(found, None)

    def reported(self) -> list[Result]:
        """White-box attacks at the checks' budget, on as many images as any of them."""
        found = [
            r for r in self.results
            if r.knowledge == "white-box" and self.at_budget(r) and r.attack != WORST
        ]  # fmt: skip
        return [r for r in found if r.n == max(other.n for other in found)]

    def standing(self, worst: Result) -> list[int]:
        """The places of the images that withstood, wherever they are."""
        found: list[int] = torch.nonzero(worst.shares > 0)[:, 0].tolist()
        return found

    def broken(self, attack: Attack, mode: str, rows: list[int], worst: Result) -> float:
        """How many of the images at some places, which withstood, an attack breaks: of a random defence the
        sum of the shares of draws.
        """
        if not rows:
            return 0.0
        return float((worst.shares[rows] - self.retry(attack, mode, rows)).clamp_min(0).sum())

    def found_more(self, broken: float, looked_at: int, worst: Result) -> bool:
        """Whether so many broken of those looked at, which withstood, would be a point of all."""
        return self.exceeds(broken / max(looked_at, 1) * len(self.standing(worst)) / worst.n, 0, worst.n)

    def retry(self, attack: Attack, mode: str, rows: list[int], *, again: int = 0) -> Tensor:
        """The share of draws in which the images at some places withstand one attack; with `again` it
        draws other random numbers than the evaluation did at these places.
        """
        scenario = self.scenario(attack, mode)
        found = []
        for start in range(0, len(rows), self.judge.batch):
            part = rows[start : start + self.judge.batch]
            images, labels = self.judge.gather(part)
            at = self.judge.attack(scenario, images, labels, part[0] + APART * again)
            found.append(self.judge.shares(self.name, at, labels, part[0]))
        return torch.cat(found)

    def pgd(self, *, steps: int | None = None, step: float = 0.125, restarts: int = 1) -> PGD:
        """The margin first, which no saturated probability can stop; by default with no fewer steps than the
        PGD that was asked for.
        """
        steps = steps or max(STEPS, self.steps)
        return PGD(
            norm=self.norm, steps=steps, step=step, restarts=restarts, losses=("margin", "cross-entropy",
            "dlr"), early=not self.random, confirmations=CONFIRMATIONS if self.random else 1,
        )  # fmt: skip

    def scenario(
        self,
        attack: Attack,
        mode: str,
        *,
        epsilon: float | None = None,
        draws: int | None = None,
        limit: int | None = None,
    ) -> Scenario:
        """One attack of the checks through one gradient mode."""
        threat = ThreatModel(self.norm, epsilon or self.epsilon, "white-box")
        target = Target(purifier=self.name, mode=mode, eot_samples=draws or self.draws)
        return Scenario((self.name,), attack, threat, target, limit=limit)

    def view(self, mode: str, draws: int | None = None) -> AdaptiveView:
        return AdaptiveView(self.judge.classifier, self.purifier, mode=mode, eot_samples=draws or self.draws)

    def accuracy(
        self, attack: Attack, epsilon: float, *, draws: int | None = None, limit: int | None = None
    ) -> float:
        """What one white-box attack through the best mode leaves of the check's images, or of the first
        `limit`.
        """
        return float(self.shares(attack, epsilon, draws=draws, limit=limit).mean())

    def shares(
        self, attack: Attack, epsilon: float, *, draws: int | None = None, limit: int | None = None
    ) -> Tensor:
        """How the check's images withstand one white-box attack through the best mode, N shares of draws.
        Several checks look at the same one.
        """
        limit = limit or self.sizes.images
        key = (attack, epsilon, draws, limit)
        if key not in self.known:
            scenario = self.scenario(attack, self.mode, epsilon=epsilon, draws=draws, limit=limit)
            self.known[key] = self.judge.run(scenario).shares(self.name)
        return self.known[key]

    def exceeds(self, one: float, other: float, images: int = 0) -> bool:
        """Whether one accuracy exceeds another by more than a point, and by more than one image."""
        return one - other > self.tolerance(images or len(self.images))

    def tolerance(self, images: int) -> float:
        """The difference of accuracies on so many images that is not held against an attack."""
        return tolerance(images, random=self.random)

    def at_budget(self, result: Result) -> bool:
        threat = result.threat_model
        if threat is None or threat.norm != self.norm or threat.epsilon is None:
            return False
        return abs(threat.epsilon - self.epsilon) < 1e-9

    def line(self, name: str, status: Status, figure: str, meaning: str, *, curve: Curve = ()) -> Check:
        return Check(
            self.name, name, status, figure, meaning, curve=curve, images=len(self.images) if curve else 0,
            norm=self.norm, epsilon=self.epsilon,
        )  # fmt: skip
