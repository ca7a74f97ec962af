"""Checks that an evaluation makes of itself: was the attacker weak, or the defence strong?

Each gives a line with pass, warn, fail or skip, a figure, and what it means. After Carlini et al., "On
evaluating adversarial robustness", 2019; Tramer et al., "On adaptive attacks to adversarial example
defenses", 2020. A new check is a function in a file of this package, decorated with `@check`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from comdefend.evaluation.checks.probe import SIZES, Probe, Registered, checks, made_at
from comdefend.evaluation.results import Check
from comdefend.evaluation.scenarios import Scenario, Target
from comdefend.evaluation.spec import EvaluationSpec
from comdefend.purifiers import is_random
from comdefend.seeding import drawn_from
from comdefend.threat import ThreatModel

if TYPE_CHECKING:
    from comdefend.evaluation.run import Run

__all__ = ["Check", "Probe", "all_checks", "checks", "expected_seconds", "made_at"]


def all_checks(probe: Probe, run: "Run") -> list[Check]:
    """Every check that applies, the cheapest first. Those whose key is in the run's store are taken from it,
    the others are kept there.
    """
    found: list[Check] = []
    for name, check in _in_order(probe.norm, probe.purifier):
        key = probe.key(name)
        lines = run.store.checks(key)
        run.tell(f"check of {probe.name}: {name.replace('_', ' ')}")
        if not lines:
            with drawn_from(probe.judge.seed):  # each has the same random numbers, whatever ran before it
                lines = [replace(line, fingerprint=key) for line in check.run(probe)]
            run.store.keep(lines)
        run.tell("", _seconds(check, run, probe.name, probe.draws))
        found += lines
    return found


def expected_seconds(run: "Run", defence: str, spec: EvaluationSpec) -> float:
    """About how long the checks of one defence take at all budgets that they are made at."""
    purifier = run.judge.defences[defence]
    samples = spec.eot_samples if is_random(purifier) else 1
    return sum(
        _seconds(check, run, defence, samples)
        for norm in spec.checked_at() for _, check in _in_order(norm, purifier)
    )  # fmt: skip


def _seconds(check: Registered, run: "Run", defence: str, samples: int) -> float:
    target = Target(purifier=defence, mode="autograd", eot_samples=samples)
    scenario = Scenario((defence,), None, ThreatModel("linf", None, "white-box"), target)
    images = min(SIZES.images, len(run.judge.chosen))
    return check.gradients * run.seconds_a_gradient(scenario) * images if run.progress else 0.0


def _in_order(norm: str, purifier: nn.Module) -> list[tuple[str, Registered]]:
    """The checks of a defence that are made under a norm, by what they cost."""
    wanted = [
        (name, check) for name, check in checks.items()
        if (norm == "linf" or check.both_norms) and check.applies(purifier)
    ]  # fmt: skip
    return sorted(wanted, key=lambda one: one[1].gradients)
