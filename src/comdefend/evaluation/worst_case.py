"""The worst case over attacks, image by image: what survives an attacker who may choose for each image."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from comdefend.attacks.adaptive import ESTIMATED
from comdefend.evaluation.results import Result, pack, repeats, total, wilson
from comdefend.threat import Knowledge, Norm, ThreatModel

WORST = "worst case"
"""The name of the attack that is all attacks: an image survives if none of them broke it."""

POWERS: dict[Knowledge, tuple[Knowledge, ...]] = {
    "gray-box": ("gray-box",),
    "white-box": ("gray-box", "white-box"),
    "black-box": ("black-box",),
}
"""Whose attacks an attacker may make: one who knows the defence can forget it."""


def worst_cases(results: Sequence[Result]) -> list[Result]:
    """For each defence, norm and budget the images that survive every attack within the budget, and that were
    right to begin with: for each attacker. See `worst_of`.
    """
    clean = {r.defence: r for r in results if r.threat_model is None}
    threats = dict.fromkeys(
        (r.threat_model.norm, r.threat_model.epsilon)
        for r in results
        if r.threat_model is not None and r.threat_model.epsilon is not None and r.attack != WORST
    )
    found = []
    for knowledge in POWERS:
        for norm, epsilon in threats:
            for name, before in clean.items():
                within = [
                    r for r in results if r.defence == name and _within(r, norm, epsilon or 0, knowledge)
                ]
                if any(r.knowledge == knowledge for r in within):
                    found.append(worst_of(before, within, ThreatModel(norm, epsilon, knowledge)))
    return found


def counts(result: Result) -> bool:
    """Whether an attack was given the images of its attacker, and not a few to try something."""
    return not result.trial and result.mode != ESTIMATED and result.attack != WORST


def _within(result: Result, norm: Norm, epsilon: float, knowledge: Knowledge) -> bool:
    """Whether an attacker with this budget and knowledge could have made these images."""
    threat = result.threat_model
    if threat is None or threat.norm != norm or threat.epsilon is None or threat.epsilon > epsilon + 1e-9:
        return False
    return counts(result) and threat.knowledge in POWERS[knowledge]


def worst_of(clean: Result, within: Sequence[Result], threat: ThreatModel) -> Result:
    """What survives each of some attacks, image by image, of the images that every one of them was given.

    Trials of modes and estimated gradients are of a few images, and do not count.
    """
    within = [r for r in within if counts(r)]
    count = min(r.n for r in within)
    right = clean.shares[:count]
    for result in within:
        right = torch.minimum(right, result.shares[:count])
    correct = total(right)
    draws = clean.repeats.draws if clean.repeats else 1
    return replace(
        clean,
        attack=WORST,
        n=count,
        correct=correct,
        threat_model=threat,
        protocol="any",
        settings={"attacks": list(dict.fromkeys(r.title for r in within))},
        psnr=None,
        repeats=repeats(right, draws) if clean.repeats else None,
        right=pack(right, draws),
        seconds=0.0,
        interval=wilson(correct, count),
        fingerprint="",
    )
