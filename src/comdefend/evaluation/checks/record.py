"""What the evaluation says of itself: its cost, its limits, its files, its warnings."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from comdefend.attacks import BALLS
from comdefend.evaluation.checks.probe import POINT, Probe, check, in_half_precision
from comdefend.evaluation.results import Check
from comdefend.purifiers import ComDefendPurifier
from comdefend.seeding import drawn_from

ENOUGH = 100
"""Images that tell one point of accuracy, or nearly."""

SAME = 1e-2
"""How far logits may lie apart, as a share of the largest, and count as the same."""


@check(gradients=0)
def clean_accuracy(probe: Probe) -> Iterator[Check]:
    """What the defence costs without an attack."""
    own = probe.clean
    lost = max((r.accuracy - own.accuracy for r in probe.bare if r.threat_model is None), default=0.0)
    cost = f", {max(lost, 0):.1%} lost" if probe.name != "none" else ""
    yield probe.line(
        "clean accuracy", "warn" if lost > 5 * POINT else "pass", f"{own.accuracy:.1%}{cost}",
        "what the defence costs without any attack; robustness is to be read against it",
    )  # fmt: skip


@check(gradients=0)
def images(probe: Probe) -> Iterator[Check]:
    """What the other checks can notice with the images that there are."""
    few, fewest = len(probe.images), probe.sizes.fewest
    yield probe.line(
        "images", "fail" if few < fewest else "warn" if few < ENOUGH else "pass",
        f"{probe.clean.n} attacked, {few} of them by the checks, which let differences up to "
        f"{probe.tolerance(few):.1%} pass",
        f"with fewer than {ENOUGH} images a weak attack can go unnoticed, with fewer than {fewest} any can",
    )  # fmt: skip


@check(gradients=3)
def limits(probe: Probe) -> Iterator[Check]:
    """A mode may borrow a gradient, but must not change what is attacked; and what comes out must be logits.
    Budget and range are verified during the work.
    """
    images = probe.images[: probe.sizes.few]
    # Half of them with noise: a mode may be true to the defence on clean images alone.
    images = torch.cat([images, BALLS["linf"].start(images, probe.epsilon)])

    def drawn(model: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        with drawn_from(probe.judge.seed):
            return model(at).detach()

    name, meaning = "budget, range, logits", (
        "every adversarial image lies within its budget and [0, 1], or the evaluation would have stopped; "
        "every gradient mode must attack the defence itself, and the classifier give logits"
    )  # fmt: skip
    with torch.no_grad():
        own, again = (drawn(lambda at: probe.judge.classifier(probe.purifier(at)), images) for _ in range(2))
    scale = max(float(own.abs().max()), 1e-12)
    if float((own - again).abs().max()) > SAME * scale:
        figure = "answers differ under one seed, so that modes could not be compared with the defence"
        yield probe.line(name, "warn", figure, meaning)
        return
    apart = {
        mode: float((drawn(probe.view(mode, draws=1), images.clone().requires_grad_(True)) - own).abs().max())
        for mode in probe.tried
    }  # with gradients, as an attack sees it
    others = [mode for mode, away in apart.items() if away > SAME * scale]
    sums = own.sum(1)
    if others:
        yield probe.line(name, "fail", f"not the defence itself: {', '.join(others)}", meaning)
    elif float((sums - sums[0]).abs().max()) < 1e-4 * scale < float(sums[0].abs()):
        figure = f"the logits of every image sum to {float(sums[0]):.3g}: are they scaled probabilities?"
        yield probe.line(name, "warn", figure, meaning)
    else:
        away = max(apart.values(), default=0.0) / scale
        figure = (
            f"{len(apart)} modes, whose logits differ from the defence's by up to {away:.1g} of the largest"
        )
        yield probe.line(name, "pass", figure, meaning)


@check(gradients=0, both_norms=True)
def rounding(probe: Probe) -> Iterator[Check]:
    """The worst case over white-box attacks before and after their images are stored as 8 bits."""
    measured = [
        r for r in probe.results
        if r.knowledge == "white-box" and probe.at_budget(r) and r.rounded is not None
    ]  # fmt: skip
    count = max((r.n for r in measured), default=0)
    shares = [(r.shares, r.rounded_shares) for r in measured if r.n == count]
    if not shares:
        return
    before, after = (float(torch.stack(part).amin(0).mean()) for part in zip(*shares, strict=True))
    yield probe.line(
        "stored as 8 bits", "warn" if probe.exceeds(after, before + POINT, count) else "pass",
        f"{before:.1%} before, {after:.1%} after rounding, over {len(shares)} attacks on {count} images",
        "adversarial images that are kept as PNG",
    )  # fmt: skip


@check(gradients=0)
def warnings(probe: Probe) -> Iterator[Check]:
    """What attacks said of themselves."""
    said = dict.fromkeys(flag for r in probe.results for flag in r.flags)
    yield probe.line(
        "warnings of the attacks", "warn" if said else "pass", "; ".join(said) or "none",
        "what AutoAttack says of itself: zero gradients, random answers, queries that beat gradients",
    )  # fmt: skip


@check(gradients=25, both_norms=True, applies=in_half_precision)
def precision(probe: Probe) -> Iterator[Check]:
    """A purifier in half precision against itself in float32, on attacked images."""
    twin = copy.deepcopy(probe.purifier)
    assert isinstance(twin, ComDefendPurifier)
    twin.model.float()
    at = probe.judge.attack(probe.scenario(probe.pgd(), probe.mode), probe.images, probe.labels, 0)
    rough, exact = (
        probe.judge.predict(probe.judge.classifier, p(at)) == probe.labels for p in (probe.purifier, twin)
    )
    apart = int((rough != exact).sum())
    yield probe.line(
        "computed in half precision", "pass" if apart <= max(1, POINT * len(at)) else "warn",
        f"{apart} of {len(at)} attacked images end otherwise in float32", "bfloat16 is only for speed",
    )  # fmt: skip
