"""Is a random defence random, and was its randomness seen through?"""

from collections.abc import Iterator

import torch

from comdefend.attacks.adaptive import AdaptiveView
from comdefend.attacks.base import Goal
from comdefend.attacks.iterative import ascend, random_start
from comdefend.evaluation.checks.probe import POINT, Check, Probe

STILL = 1e-3
"""By how much two passes may differ, as a share of the spread of the logits, and count as the same."""


def randomness(probe: Probe) -> Iterator[Check]:
    """Whether the defence is as random as it says, in five passes over the same images, over these with
    noise, and over these under attack: it may be random away from clean images alone.
    """
    images, goal = probe.images[: probe.sizes.few], Goal(probe.labels[: probe.sizes.few])
    attacked = ascend(probe.view(probe.mode), images, goal, probe.epsilon, steps=5, step=0.25)
    apart = 0.0
    for at in (images, random_start(images, probe.epsilon, "linf"), attacked):
        with torch.no_grad():
            passes = [probe.judge.classifier(probe.purifier(at)) for _ in range(5)]
        spread = max(float(passes[0].std()), 1e-12)
        apart = max(apart, *(float((p - passes[0]).abs().max()) / spread for p in passes))
    hidden, claimed = apart > STILL and not probe.random, apart <= STILL and probe.random
    yield probe.line(
        "randomness", "fail" if hidden or claimed else "pass",
        f"logits differ by up to {apart:.2g} of their spread in five passes",
        "it is random and does not say so (`stochastic`): no expectation was taken" if hidden
        else "it says that it is random and is not: it was spared attacks on deterministic defences"
        if claimed else "random, as it says" if probe.random else "the same image gives the same answer",
    )  # fmt: skip


def expectation(probe: Probe) -> Iterator[Check]:
    """Whether more draws behind each gradient find more."""
    left = {
        n: probe.accuracy(probe.pgd(steps=10), probe.epsilon, draws=n, limit=probe.sizes.drawn)
        for n in sorted({*probe.sizes.draws, probe.draws, max(*probe.sizes.draws, 2 * probe.draws)})
    }
    enough = not probe.more(left[probe.draws], left[max(left)], probe.sizes.drawn)
    yield probe.line(
        "draws for the gradient (EOT)", "pass" if enough else "fail",
        ", ".join(f"{a:.0%} with {n}" for n, a in left.items()),
        f"where more draws find more, the {probe.draws} behind each gradient were too few",
    )  # fmt: skip


def frozen(probe: Probe) -> Iterator[Check]:
    """The attack must succeed at least as well where the draw is fixed."""
    view = AdaptiveView(probe.judge.classifier, probe.purifier, mode=probe.mode, frozen=probe.judge.seed)
    count = probe.sizes.drawn
    images, goal = probe.images[:count], Goal(probe.labels[:count])
    # Not early: a draw goes with the place of an image in its batch, and so must stay there.
    at = ascend(view, images, goal, probe.epsilon, steps=20, step=0.125)
    left = float((~goal.reached(view, at)).float().mean())
    alive = probe.accuracy(probe.pgd(), probe.epsilon, limit=count)
    yield probe.line(
        "without its randomness", "pass" if not probe.more(left, alive, count) else "fail",
        f"{left:.1%} frozen, {alive:.1%} random",
        "an attack that fails with the draw fixed is weak, whatever the randomness",
    )  # fmt: skip


def redrawn(probe: Probe) -> Iterator[Check]:
    """What is right on average against what is right in every draw."""
    worst = probe.worst()
    if worst is None or worst.repeats is None:
        return
    drawn = worst.repeats
    yield probe.line(
        "judged again", "warn" if drawn.mean - drawn.worst > 10 * POINT else "pass",
        f"mean {drawn.mean:.1%}, majority {drawn.majority:.1%}, worst {drawn.worst:.1%} "
        f"of {drawn.draws} draws, after all attacks",
        "one lucky draw is no robustness: an attacker may try again",
    )  # fmt: skip
