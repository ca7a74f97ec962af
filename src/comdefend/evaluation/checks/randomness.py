"""Is a random defence random, and was its randomness seen through?"""

from collections.abc import Iterator

import torch

from comdefend.attacks import BALLS
from comdefend.attacks.adaptive import AdaptiveView
from comdefend.attacks.base import Goal
from comdefend.attacks.iterative import follow_gradient
from comdefend.evaluation.checks.probe import POINT, Probe, check, is_deterministic
from comdefend.evaluation.results import Check
from comdefend.purifiers import is_random
from comdefend.seeding import drawn_from

STILL = 1e-3
"""By how much two passes may differ, as a share of the spread of the logits, and count as the same."""


@check(gradients=5)
def randomness(probe: Probe) -> Iterator[Check]:
    """Whether the defence is as random as it says, in five passes over the same images, over these with
    noise, and over these under attack: it may be random away from clean images alone.
    """
    images, goal = probe.images[: probe.sizes.few], Goal(probe.labels[: probe.sizes.few])
    attacked = follow_gradient(
        probe.view(probe.mode), images, goal, probe.epsilon, BALLS["linf"], steps=5, step=0.25
    )
    apart = 0.0
    for at in (images, BALLS["linf"].start(images, probe.epsilon), attacked):
        passes = []
        for seed in range(5):  # of their own, since what does not say that it is random draws nothing here
            with drawn_from(seed), torch.no_grad():
                passes.append(probe.judge.classifier(probe.purifier(at)))
        spread = max(float(passes[0].std()), 1e-12)
        apart = max(apart, *(float((p - passes[0]).abs().max()) / spread for p in passes))
    hidden, claimed = apart > STILL and not probe.random, apart <= STILL and probe.random
    seeds = probe.random and _seeds_itself(probe, images)
    yield probe.line(
        "randomness", "fail" if hidden or claimed or seeds else "pass",
        f"logits differ by up to {apart:.2g} of their spread in five passes"
        if apart else "no logit differs in five passes",
        "it is random and does not say so (`stochastic`): no expectation was taken" if hidden
        else "it says that it is random and is not: it was spared attacks on deterministic defences"
        if claimed
        else "it seeds torch's generator, and attacks, which draw from that too, draw the same again"
        if seeds else "random, as it says" if probe.random else "the same image gives the same answer",
    )  # fmt: skip


def _seeds_itself(probe: Probe, images: torch.Tensor) -> bool:
    """Whether a random defence leaves torch's generator in the same state wherever it was before."""
    after = []
    for seed in (1, 2):
        with drawn_from(seed), torch.no_grad():
            probe.purifier(images)
            after.append(torch.get_rng_state())
    return torch.equal(*after)


@check(gradients=2, applies=is_deterministic)
def alone(probe: Probe) -> Iterator[Check]:
    """Whether a defence that is not random makes of an image what it makes of it in a batch with others, and
    what a copy of it does that has seen nothing of the evaluation: images may be remembered, and a batch have
    statistics of its own.
    """
    images, goal = probe.images[: probe.sizes.few], Goal(probe.labels[: probe.sizes.few])
    # On the bare classifier, whose gradient no defence can hide.
    attacked = follow_gradient(
        probe.judge.classifier, images, goal, probe.epsilon, BALLS["linf"], steps=5, step=0.25
    )
    both = torch.cat([images, attacked])
    before = probe.judge.untouched(probe.name)
    classifier, purifier = before or (probe.judge.classifier, probe.purifier)
    with torch.no_grad():
        together = probe.judge.classifier(probe.purifier(both))
        # The attacked ones first: a copy that has seen nothing knows no neighbour of theirs.
        one_by_one = [classifier(purifier(both[i : i + 1])) for i in reversed(range(len(both)))]
    apart = (together - torch.cat(one_by_one[::-1])).abs().amax(1) / max(float(together.std()), 1e-12)
    count = int((apart > ELSEWHERE).sum())
    figure = f"{count or 'none'} of {len(both)} images, half of them attacked, answered otherwise"
    if not before:
        figure += "; classifier or defence cannot be copied"
    yield probe.line(
        "an image alone", "fail" if count else "pass" if before else "warn", figure,
        "each alone, of a copy made before the evaluation, against all together after it: where these "
        "differ, the answer depends on other images, and no number here is that of an image",
    )  # fmt: skip


ELSEWHERE = 0.1
"""The same for an image alone and in a batch: batches of other sizes are computed in another order."""


@check(gradients=300, both_norms=True, applies=is_random)
def expectation(probe: Probe) -> Iterator[Check]:
    """Whether more draws behind each gradient find more."""
    left = {
        n: probe.accuracy(probe.pgd(steps=10), probe.epsilon, draws=n, limit=probe.sizes.drawn)
        for n in sorted({*probe.sizes.draws, probe.draws, max(*probe.sizes.draws, 2 * probe.draws)})
    }
    enough = not probe.exceeds(left[probe.draws], left[max(left)], probe.sizes.drawn)
    yield probe.line(
        "draws for the gradient (EOT)", "pass" if enough else "fail",
        ", ".join(f"{a:.0%} with {n}" for n, a in left.items()),
        f"where more draws find more, the {probe.draws} behind each gradient were too few",
    )  # fmt: skip


@check(gradients=40, both_norms=True, applies=is_random)
def frozen(probe: Probe) -> Iterator[Check]:
    """The attack must succeed at least as well where the draw is fixed."""
    view = AdaptiveView(probe.judge.classifier, probe.purifier, mode=probe.mode, frozen=probe.judge.seed)
    count = probe.sizes.drawn
    images, goal = probe.images[:count], Goal(probe.labels[:count])
    with torch.no_grad():
        once, twice = view(images), view(images)
    again = float((once - twice).abs().max())
    if again > STILL * float(once.std()):
        yield probe.line(
            "without its randomness", "warn", f"logits differ by up to {again:.2g} under one seed",
            "its random numbers are not those of torch, NumPy or `random`: the draw could not be fixed",
        )  # fmt: skip
        return
    # Not early: a draw goes with the place of an image in its batch, and so must stay there.
    at = follow_gradient(view, images, goal, probe.epsilon, BALLS[probe.norm], steps=20, step=0.125)
    left = float((~goal.reached(view, at)).float().mean())
    alive = probe.accuracy(probe.pgd(), probe.epsilon, limit=count)
    yield probe.line(
        "without its randomness", "pass" if not probe.exceeds(left, alive, count) else "fail",
        f"{left:.1%} frozen, {alive:.1%} random",
        "an attack that fails with the draw fixed is weak, whatever the randomness",
    )  # fmt: skip


@check(gradients=0, both_norms=True, applies=is_random)
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
