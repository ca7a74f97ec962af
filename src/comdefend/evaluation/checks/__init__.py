"""Checks that an evaluation makes of itself: was the attacker weak, or the defence strong?

Each gives a line with pass, warn, fail or skip, a figure, and what it means. After Carlini et al., "On
evaluating adversarial robustness", 2019; Tramer et al., "On adaptive attacks to adversarial example
defenses", 2020.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from comdefend.evaluation.checks import attackers, gradients, randomness, record
from comdefend.evaluation.checks.files import keep_checks, read_checks, write_checks
from comdefend.evaluation.checks.probe import Check, Probe, made_at
from comdefend.purifiers import ComDefendPurifier
from comdefend.seeding import drawn_from

__all__ = ["Check", "Probe", "all_checks", "keep_checks", "made_at", "read_checks", "write_checks"]

ALL = (
    record.clean_accuracy, record.images, gradients.gradients, gradients.reported, gradients.modes,
    gradients.dropped, attackers.slow, gradients.one_step, gradients.budgets, gradients.steps,
    gradients.restarts, attackers.other_attackers, attackers.gradient_free, attackers.black_box,
    attackers.noise, randomness.randomness, randomness.alone, gradients.planted, record.limits,
    record.rounding, record.warnings,
)  # fmt: skip
"""In the order of the report."""

OF_EACH_NORM = (
    gradients.reported, gradients.modes, gradients.dropped, attackers.slow, gradients.budgets,
    gradients.steps, gradients.restarts, attackers.other_attackers, attackers.noise, record.rounding,
)  # fmt: skip
"""Of those what is checked under L2 as well; the others are made under L-infinity alone."""

OF_RANDOM_ONES = (randomness.expectation, randomness.frozen, randomness.redrawn)


def all_checks(
    probe: Probe,
    step: Callable[[str], None] | None = None,
    *,
    known: Sequence[Check] = (),
    keep: Callable[[Sequence[Check]], None] | None = None,
) -> list[Check]:
    """Every check that applies, in the order of the report. `step` is told the next one's name. Those in
    `known` are taken as they are where nothing that they depend on changed, the last of several that are
    alike; `keep` is given the lines of each of the others.
    """
    found = []
    for check in _that_apply(probe):
        mark = probe.fingerprint(check.__name__)
        lines = list({line.name: line for line in known if line.fingerprint == mark}.values())
        if not lines:
            if step:
                step(f"check of {probe.name}: {check.__name__.replace('_', ' ')}")
            with drawn_from(probe.judge.seed):  # each has the same random numbers, whatever ran before it
                lines = [replace(line, fingerprint=mark) for line in check(probe)]
            if keep:
                keep(lines)
        found += lines
    return found


def _that_apply(probe: Probe) -> list[Callable[[Probe], Iterator[Check]]]:
    of_norm = OF_EACH_NORM if probe.norm == "l2" else ALL
    found = [*of_norm, *(OF_RANDOM_ONES if probe.random else ())]
    if isinstance(probe.purifier, ComDefendPurifier) and probe.purifier.dtype != torch.float32:
        found.append(record.precision)
    return found
