"""The worst case over attacks, image by image: what an attacker who may choose for each image leaves."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from comdefend.attacks import Norm
from comdefend.evaluation.results import Knowledge, Result, ThreatModel, pack, repeats, total, wilson

WORST = "worst case"
"""The name of the attack that is all attacks: an image counts as right if none of them broke it."""

FEW = 100
"""Images for slow attacks, at least; what is given to fewer (estimates, labels) is no part of `Result.every`.
"""


def worst_cases(results: Sequence[Result]) -> list[Result]:
    """For each defence, norm and budget the images that no attack within the budget broke, and that were
    right to begin with: for the gray-box attacker, and for the one who knows the defence, who may make
    all attacks. See `worst_of`.
    """
    clean = {r.defence: r for r in results if r.threat_model is None}
    threats = dict.fromkeys(
        (r.threat_model.norm, r.threat_model.epsilon)
        for r in results
        if r.threat_model is not None and r.threat_model.epsilon is not None
    )
    levels: tuple[Knowledge, ...] = ("gray-box", "white-box")
    found = []
    for knowledge in levels:
        for norm, epsilon in threats:
            for name, before in clean.items():
                within = [
                    r for r in results if r.defence == name and _within(r, norm, epsilon or 0, knowledge)
                ]
                if any(r.knowledge == knowledge for r in within):
                    threat = ThreatModel(norm, epsilon, knowledge)
                    found.append(worst_of(before, within, threat))
    return found


def without_slow(clean: Result, within: Sequence[Result], worst: Result) -> tuple[int, float, float]:
    """How many images slow attacks were given, and the accuracy on these under the others of some attacks and
    under all. `worst` is the worst case over all, and says that there were slow ones (`every`).
    """
    assert worst.every is not None
    count, left = worst.every
    quick = clean.shares[:count]
    for result in within:
        if result.n >= worst.n:
            quick = torch.minimum(quick, result.shares[:count])
    return count, float(quick.mean()), left / count


def _within(result: Result, norm: Norm, epsilon: float, knowledge: Knowledge) -> bool:
    """Whether an attacker with this budget and knowledge could have made these images."""
    threat = result.threat_model
    if threat is None or threat.norm != norm or threat.epsilon is None or threat.epsilon > epsilon + 1e-9:
        return False
    return knowledge == "white-box" or threat.knowledge == knowledge


def worst_of(clean: Result, within: Sequence[Result], threat: ThreatModel) -> Result:
    """What a defence gets right without an attack and under each of some: the worst case, image by image.

    It is that of the images which an attack of this very attacker was given; attacks that were given
    fewer broke none of the others, so `every` is the same of those images only that all were given.
    """
    own = [r for r in within if r.knowledge == threat.knowledge]
    count = max(r.n for r in own)
    right = clean.shares[:count]
    for result in within:
        shared = min(result.n, count)
        right[:shared] = torch.minimum(right[:shared], result.shares[:shared])
    correct = total(right)
    draws = clean.repeats.draws if clean.repeats else 1
    slow = [r.n for r in own if FEW <= r.n < count and not r.trial]
    every = (min(slow), total(right[: min(slow)])) if slow else None
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
        every=every,
        right=pack(right, draws),
        seconds=0.0,
        interval=wilson(correct, count),
        fingerprint="",
    )
