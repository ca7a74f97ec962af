"""Did attacks that follow gradients find what there is to find?"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from comdefend.attacks import BALLS, FGSM, Norm
from comdefend.attacks.adaptive import ESTIMATED, gradient_modes
from comdefend.attacks.base import Goal
from comdefend.attacks.iterative import follow_gradient, gradient
from comdefend.evaluation.checks.planted import output_layer, plant
from comdefend.evaluation.checks.probe import NOBODY, POINT, Probe, check
from comdefend.evaluation.results import Check, Result
from comdefend.purifiers import ComDefendPurifier

WIDE: dict[Norm, tuple[float, ...]] = {
    "linf": (16 / 255, 32 / 255, 64 / 255, 128 / 255),
    "l2": (1.0, 2.0, 5.0, 20.0),
}
"""Budgets at which every defence must fall: at the last hardly anything is left of an image."""


@check(gradients=2)
def gradients(probe: Probe) -> Iterator[Check]:
    """Whether the plain gradient is masked, and whether a way around it was followed."""
    images, goal = probe.images[: probe.sizes.few], Goal(probe.labels[: probe.sizes.few])
    nothing = {
        mode: (gradient(probe.view(mode), images, goal, "margin")[0] == 0).flatten(1).float().mean(1)
        for mode in dict.fromkeys(["autograd", *probe.tried])
        if mode != ESTIMATED
    }
    zeros = {mode: float(shares.mean()) for mode, shares in nothing.items()}
    masked = zeros["autograd"] > 0.5
    followed = [mode for mode in probe.tried if mode != ESTIMATED and zeros[mode] < 0.5]
    declared = bool(getattr(probe.purifier, "gradient_modes", ()))
    figure = f"zero: {zeros['autograd']:.0%} of the plain gradient"
    if followed and masked:
        figure += f", {min(zeros[m] for m in followed):.0%} of {min(followed, key=lambda m: zeros[m])}"
    if isinstance(probe.purifier, ComDefendPurifier):
        figure += f"; saturated: {saturated(probe.purifier, images):.0%} of the code"
    if masked and not declared:
        status, meaning = "fail", (
            "the defence hides its gradient and declares no way around it (`gradient_modes`); what an "
            "attack that follows gradients leaves here is no robustness"
        )  # fmt: skip
    elif masked and not followed:
        status, meaning = "fail", "only masked gradients were followed: nothing was measured"
    elif without := min(int((nothing[mode] == 1).sum()) for mode in followed or nothing):
        figure += f"; none at all, or no number, at {without} of {len(images)} images"
        status, meaning = "fail", "where there is no gradient an attack that follows one stands still"
    elif masked:
        status, meaning = "pass", "the plain gradient is masked; the attacks went around it"
    else:
        status, meaning = "pass", "attacks had gradients to follow"
    yield probe.line("gradient health", status, figure, meaning)  # type: ignore[arg-type]


@check(gradients=60, both_norms=True)
def reported(probe: Probe) -> Iterator[Check]:
    """The attacks that were asked for against PGD with all losses, on what they left standing, wherever
    it is, also in modes that the defence knows and nobody tried.
    """
    worst = probe.worst()
    if worst is None:
        tried = any(r.knowledge == "white-box" for r in probe.results)
        yield probe.line(
            "attacks asked for", "warn" if tried else "fail", "none under L-infinity at this budget",
            "what other norms and budgets gave was not checked" if tried else "nothing was measured",
        )  # fmt: skip
        return
    standing = probe.standing(worst)
    better = []
    looked_at = standing[: probe.sizes.images]
    broken = probe.broken(probe.pgd(restarts=6), probe.mode, looked_at, worst)
    if probe.found_more(broken, len(looked_at), worst):
        better.append(f"PGD ({probe.mode})")
    few = standing[: probe.sizes.few]
    untried = [mode for mode in gradient_modes(probe.purifier) if mode not in (*probe.tried, ESTIMATED)]
    for mode, more in _broken_in(probe, untried, few, worst).items():
        if probe.found_more(more, len(few), worst):
            better.append(f"PGD ({mode}), which was not tried")
    yield probe.line(
        "attacks asked for", "fail" if better else "pass" if standing else "skip",
        f"{worst.accuracy:.1%} left; "
        + (
            f"more broken by {', '.join(better)}" if better
            else f"PGD with six restarts breaks {broken:.3g} of {len(looked_at)} looked at" if standing
            else NOBODY
        ),
        "where the checks' own attack breaks what was reported to withstand, the attacks were too weak",
    )  # fmt: skip


def _broken_in(probe: Probe, modes: list[str], rows: list[int], worst: Result) -> dict[str, float]:
    """How many images that withstood ten steps after the margin break, in each of some modes."""
    return {mode: probe.broken(probe.pgd(steps=10), mode, rows, worst) for mode in modes}


@check(gradients=0, both_norms=True)
def modes(probe: Probe) -> Iterator[Check]:
    """The gradient modes that went on to all images against all of them, on what both were tried on."""
    of_norm = [r for r in probe.results if r.norm == probe.norm]
    scans = {r.mode: r.shares for r in of_norm if r.trial and r.mode != ESTIMATED}
    kept = {r.mode for r in of_norm if r.mode and not r.trial}
    if not scans or not kept & scans.keys():
        return
    together, ours = (
        float(torch.stack([s for m, s in scans.items() if m in among]).amin(0).mean())
        for among in (scans.keys(), kept)
    )
    count = len(next(iter(scans.values())))
    yield probe.line(
        "gradient modes left out", "warn" if probe.exceeds(ours, together, count) else "pass",
        f"of {count} images {together:.1%} withstand all modes, {ours:.1%} those that went on",
        "what only a mode finds that was left out is missed among the other images",
    )  # fmt: skip


@check(gradients=10, both_norms=True)
def dropped(probe: Probe) -> Iterator[Check]:
    """The gradient modes that were tried on some images and did not go on, by another loss than there and on
    images that withstood all attacks, wherever they are.
    """
    worst = probe.worst()
    of_norm = [r for r in probe.results if r.norm == probe.norm and r.mode not in ("", ESTIMATED)]
    kept = {r.mode for r in of_norm if not r.trial}
    left_out = [mode for mode in dict.fromkeys(r.mode for r in of_norm) if mode not in kept]
    if worst is None or not left_out:
        return
    name = "gradient modes left out, again"
    meaning = "what withstood all attacks must withstand them in the other modes as well"
    rows = probe.standing(worst)[: probe.sizes.few]
    if not rows:
        yield probe.line(name, "skip", NOBODY, meaning)
        return
    broken = _broken_in(probe, left_out, rows, worst)
    better = [mode for mode in left_out if probe.found_more(broken[mode], len(rows), worst)]
    most = max(left_out, key=broken.__getitem__)
    yield probe.line(
        name, "fail" if better else "pass",
        f"{most} breaks {broken[most]:.3g} of {len(rows)} looked at that withstood, none of {len(left_out)} "
        "modes more" + (f"; too much: {', '.join(better)}" if better else ""),
        meaning,
    )  # fmt: skip


@check(gradients=21)
def one_step(probe: Probe) -> Iterator[Check]:
    """PGD must leave no more than FGSM: that of the check, and those that were reported."""
    many = probe.accuracy(probe.pgd(), probe.epsilon)
    one = probe.accuracy(FGSM(), probe.epsilon) if many else many  # nothing is less than nothing
    figure = f"PGD {many:.1%}, FGSM {one:.1%}"
    weak = probe.exceeds(many, one)
    fgsm = [r for r in probe.reported() if r.attack == FGSM.name]
    steps = [r for r in probe.reported() if int(r.settings.get("steps", 1)) > 1]
    if fgsm and steps:
        single, several = (min(r.accuracy for r in some) for some in (fgsm, steps))
        weak = weak or probe.exceeds(several, single, min(r.n for r in (*fgsm, *steps)))
        figure += f"; reported: {several:.1%} after many, {single:.1%} after one"
    yield probe.line(
        "many steps against one", "pass" if not weak else "fail", figure,
        "an iterative attack that finds less than one step is lost in a masked gradient",
    )  # fmt: skip


@check(gradients=120, both_norms=True)
def budgets(probe: Probe) -> Iterator[Check]:
    """Accuracy at budgets below and above the evaluation's."""
    smaller = [probe.epsilon / part for part in (8, 4, 2)]
    budgets = [*smaller, probe.epsilon, *(e for e in WIDE[probe.norm] if e > probe.epsilon)]
    left: list[float] = []
    for epsilon in budgets:
        left.append(probe.accuracy(probe.pgd(), epsilon))
        if not left[-1] and epsilon >= probe.epsilon:
            break  # what a larger budget breaks is known
    budgets = budgets[: len(left)]
    rises = any(probe.exceeds(after, before) for before, after in pairwise(left))
    with torch.no_grad():
        chance = 1 / probe.view(probe.mode)(probe.images[:1]).shape[1]
    reached = not probe.exceeds(left[-1], chance + 3 * POINT)
    unit = 255 if probe.norm == "linf" else 1
    curve = ", ".join(f"{a:.0%} at {e * unit:g}" for e, a in zip(budgets, left, strict=True))
    yield probe.line(
        "other budgets", "pass" if reached and not rises else "fail", curve,
        "accuracy must fall as the budget grows, to chance or below where the image can be erased",
        curve=tuple(zip(budgets, left, strict=True)),
    )  # fmt: skip


@check(gradients=60, both_norms=True)
def steps(probe: Probe) -> Iterator[Check]:
    """Whether PGD with the steps that were asked for, of the size that was asked for, had converged."""
    counts = probe.steps, 2 * probe.steps
    once = probe.accuracy(probe.pgd(steps=counts[0], step=probe.step), probe.epsilon)
    twice = probe.accuracy(probe.pgd(steps=counts[1], step=probe.step), probe.epsilon) if once else once
    yield probe.line(
        "twice the steps", "pass" if not probe.exceeds(once, twice) else "fail",
        f"{once:.1%} after {counts[0]}, {twice:.1%} after {counts[1]}",
        "an attack that twice the steps make stronger had not converged "
        f"(as far as {len(probe.images)} images tell)",
    )  # fmt: skip


@check(gradients=90, both_norms=True)
def restarts(probe: Probe) -> Iterator[Check]:
    """Whether other starting points find more."""
    survived = probe.shares(probe.pgd(restarts=3), probe.epsilon)
    once = float(survived.mean())
    rows = torch.nonzero(survived > 0)[:, 0].tolist()
    if rows:  # three more on what is left
        again = probe.retry(probe.pgd(restarts=3), probe.mode, rows, again=1)
        survived = survived.clone()
        survived[rows] = torch.minimum(survived[rows], again)
    twice = float(survived.mean())
    yield probe.line(
        "twice the restarts", "pass" if not probe.exceeds(once, twice) else "fail",
        f"{once:.1%} with 3, {twice:.1%} with 6",
        "where more starting points find more, there is more to find "
        f"(as far as {len(probe.images)} images tell)",
    )  # fmt: skip


@check(gradients=12)
def planted(probe: Probe) -> Iterator[Check]:
    """A linear head that calls one corner of the budget adversarial and its neighbours
    harmless: an attack that works finds its way to the planted one.
    """
    layer = output_layer(probe.judge.classifier, probe.images[:2])
    found = made = 0
    tried = min(probe.sizes.few, len(probe.images))
    for row in range(tried):
        head = plant(probe.view(probe.mode), layer, probe.images[row : row + 1], probe.epsilon)
        if head is None:
            continue
        made += 1
        goal = Goal(torch.zeros(1, dtype=torch.long, device=probe.images.device))
        image = probe.images[row : row + 1]
        for _ in range(2):
            at = follow_gradient(
                head, image, goal, probe.epsilon, BALLS["linf"], steps=50, step=0.1, loss="margin",
                start=BALLS["linf"].start(image, probe.epsilon), early=not probe.random,
            )  # fmt: skip
            if bool(goal.reached(head, at).all()):
                found += 1
                break
    if not made:
        yield probe.line(
            "planted example", "warn", "none could be planted",
            "the defence maps the whole neighbourhood to the same features",
        )  # fmt: skip
        return
    barren = f"; none could be planted at {tried - made} others" if made < tried else ""
    if layer is None:
        barren += "; planted in the logits, where it is found more easily, as no linear layer comes last"
    doubtful = made < tried / 2 or layer is None
    yield probe.line(
        "planted example", "fail" if found < 0.8 * made else "warn" if doubtful else "pass",
        f"{found} of {made} found{barren}",
        "an attack that misses adversarial examples which are there says nothing where it finds none",
    )  # fmt: skip


def saturated(purifier: ComDefendPurifier, images: Tensor) -> float:
    """The share of the code whose sigmoid has a derivative of exactly zero in float32."""
    with torch.no_grad():
        code = torch.sigmoid(purifier.model.com(images.to(purifier.dtype)).float())
    return float((code * (1 - code) == 0).float().mean())
