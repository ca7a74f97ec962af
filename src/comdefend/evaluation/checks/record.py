"""What the evaluation says of itself: its cost, its limits, its files, its warnings."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from comdefend.attacks.iterative import random_start
from comdefend.evaluation.checks.probe import POINT, Check, Probe, known_to
from comdefend.evaluation.judge import Situation
from comdefend.evaluation.results import ThreatModel
from comdefend.purifiers import ComDefendPurifier


def clean_accuracy(probe: Probe) -> Iterator[Check]:
    """What the defence costs without an attack."""
    own = probe.clean
    lost = max((r.accuracy - own.accuracy for r in probe.bare if r.threat_model is None), default=0.0)
    yield probe.line(
        "clean accuracy", "warn" if lost > 5 * POINT else "pass",
        f"{own.accuracy:.1%}, {max(lost, 0):.1%} lost",
        "what the defence costs without any attack; robustness is to be read against it",
    )  # fmt: skip


def limits(probe: Probe) -> Iterator[Check]:
    """Budget, range and logits are verified before and during the work. What is left: a mode may
    borrow a gradient, but must not change what is attacked.
    """
    count = sum(r.threat_model is not None for r in probe.results)
    images, others = probe.images[: probe.sizes.few], []
    # Half of them with noise: a mode may be true to the defence on clean images alone.
    images = torch.cat([images, random_start(images, probe.epsilon, "linf")])

    def drawn(model: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(probe.judge.seed)
            return model(at).detach()

    with torch.no_grad():
        own = drawn(lambda at: probe.judge.classifier(probe.purifier(at)), images)
    for mode in probe.tried:
        # As an attack sees it: with gradients.
        logits = drawn(probe.view(mode, draws=1), images.clone().requires_grad_(True))
        if not torch.allclose(logits, own, rtol=1e-2, atol=1e-2 * float(own.abs().max())):
            others.append(mode)
    yield probe.line(
        "budget, range, logits", "fail" if others else "pass",
        f"{count} attacks" + (f"; not the defence itself: {', '.join(others)}" if others else ""),
        "every adversarial image must lie within its budget and [0, 1], the classifier give logits, and "
        "every gradient mode attack the defence itself",
    )  # fmt: skip


def rounding(probe: Probe) -> Iterator[Check]:
    """The worst case over white-box attacks before and after their images are stored as 8 bits."""
    measured = [
        r for r in probe.results
        if known_to(r, "white-box") and probe.at_budget(r) and r.rounded is not None
    ]  # fmt: skip
    count = max((r.n for r in measured), default=0)
    shares = [(r.shares, r.rounded_shares) for r in measured if r.n == count]
    if not shares:
        return
    before, after = (float(torch.stack(part).amin(0).mean()) for part in zip(*shares, strict=True))
    yield probe.line(
        "stored as 8 bits", "warn" if probe.more(after, before + POINT, count) else "pass",
        f"{before:.1%} before, {after:.1%} after rounding, over {len(shares)} attacks on {count} images",
        "adversarial images that are kept as PNG",
    )  # fmt: skip


def warnings(probe: Probe) -> Iterator[Check]:
    """What attacks said of themselves."""
    said = dict.fromkeys(flag for r in probe.results for flag in r.flags)
    yield probe.line(
        "warnings of the attacks", "warn" if said else "pass", "; ".join(said) or "none",
        "what AutoAttack says of itself: zero gradients, random answers, queries that beat gradients",
    )  # fmt: skip


def precision(probe: Probe) -> Iterator[Check]:
    """A purifier in half precision against itself in float32, on attacked images."""
    twin = copy.deepcopy(probe.purifier)
    assert isinstance(twin, ComDefendPurifier)
    twin.model.float()
    threat = ThreatModel("linf", probe.epsilon, "white-box")
    situation = Situation(probe.view(probe.mode), (probe.name,), probe.pgd(), threat)
    at = probe.judge.attack(situation, probe.images, probe.labels, 0)
    rough, exact = (
        probe.judge.predict(probe.judge.classifier, p(at)) == probe.labels for p in (probe.purifier, twin)
    )
    apart = int((rough != exact).sum())
    yield probe.line(
        "computed in half precision", "pass" if apart <= max(1, POINT * len(at)) else "warn",
        f"{apart} of {len(at)} attacked images end otherwise in float32", "bfloat16 is only for speed",
    )  # fmt: skip
