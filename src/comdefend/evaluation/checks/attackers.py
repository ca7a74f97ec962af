"""Do attackers who know less, or chance, find what the one who knows missed?"""

from collections.abc import Iterator

import torch

from comdefend.attacks import Square
from comdefend.errors import MissingExtraError
from comdefend.evaluation.checks.probe import NOBODY, Probe, check
from comdefend.evaluation.results import Check
from comdefend.evaluation.worst_case import WORST


@check(gradients=0, both_norms=True)
def other_attackers(probe: Probe) -> Iterator[Check]:
    """Attackers who know less must break nothing that one who knows does not, on the images that both were
    given: not merely no more of them.
    """
    at = [r for r in probe.results if probe.at_budget(r) and r.attack != WORST and r.right]
    white = [r for r in at if r.knowledge == "white-box" and r.mode in probe.tried]
    if not white:
        return
    full = probe.clean.shares
    for result in white:
        full[: result.n] = torch.minimum(full[: result.n], result.shares)
    worse, most = [], 0.0
    others = [r for r in at if r not in white]
    for result in others:
        missed = float((full[: result.n] - result.shares).clamp_min(0).sum())
        most = max(most, missed)
        if probe.exceeds(missed / result.n, 0, result.n):
            via = result.via or result.knowledge
            worse.append(f"{result.attack} {via} breaks {missed:.3g} of {result.n} more")
    figure = f"white-box {float(full.mean()):.1%}; "
    figure += (
        ", ".join(worse)
        if worse
        else f"of what it leaves none of {len(others)} other attacks breaks more than {most:.3g}"
    )
    if not others:
        figure = "there are none: ask for black-box or gray-box ones too"
    yield probe.line(
        "attackers who know less", "fail" if worse else "pass" if others else "warn", figure,
        "where queries or transferred images break what it does not, the white-box attack was too weak",
    )  # fmt: skip


@check(gradients=42)
def gradient_free(probe: Probe) -> Iterator[Check]:
    """Square, which asks for logits alone, on what all attacks of an attacker who knows left standing."""
    name, meaning = "gradient-free attack", "what queries find and gradients miss was hidden"
    worst = probe.worst()
    if worst is None:
        return
    rows = probe.standing(worst)[: probe.sizes.few]
    if not rows:
        yield probe.line(name, "skip", NOBODY, meaning)
        return
    square = Square(queries=probe.sizes.queries)
    attack = square.informed(random=probe.random)
    try:
        after = probe.retry(attack, "autograd", rows)
    except MissingExtraError as error:
        yield probe.line(name, "warn", str(error), meaning)
        return
    broken = float((worst.shares[rows] - after).clamp_min(0).sum())
    yield probe.line(
        name, "fail" if broken > 1.5 else "warn" if broken > 0.5 else "pass",
        f"{broken:.3g} of {len(rows)} images that withstood, with {probe.sizes.queries} queries each",
        meaning,
    )  # fmt: skip


@check(gradients=0)
def black_box(probe: Probe) -> Iterator[Check]:
    """Whether black-box attacks are strong enough to break a classifier that nothing defends."""
    found = [r for r in probe.bare if r.knowledge == "black-box" and probe.at_budget(r)]
    if not found or not any(r.knowledge == "black-box" for r in probe.results):
        return
    clean = next(r for r in probe.bare if r.threat_model is None).shares
    found = [r for r in found if bool(clean[: r.n].any())]  # where none is right there is nothing to break
    if not found:
        return
    left = {f"{r.attack} {r.via}".strip(): r.accuracy / float(clean[: r.n].mean()) for r in found}
    weak = [name for name, share in left.items() if share > 0.25]
    yield probe.line(
        "black-box attacks", "warn" if weak else "pass",
        ", ".join(f"{name} leaves {share:.0%}" for name, share in left.items())
        + " of what the classifier without a purifier gets right",
        "an attack that leaves much of what nothing defends says little of a defence",
    )  # fmt: skip


@check(gradients=42, both_norms=True)
def noise(probe: Probe) -> Iterator[Check]:
    """Random corners of the budget (under L2 random points on its sphere), on what all attacks of an attacker
    who knows left standing.
    """
    worst = probe.worst()
    if worst is None:
        return
    meaning = "noise of the size of the budget must not find what the attack missed"
    rows = probe.standing(worst)[: probe.sizes.few]
    if not rows:
        yield probe.line("random noise", "skip", NOBODY, meaning)
        return
    broken = 0
    view = probe.view(probe.mode)
    for row in rows:
        image, label = probe.judge.gather([row])
        for start in range(0, probe.sizes.noise, 50):
            away = torch.randn(min(50, probe.sizes.noise - start), *image.shape[1:])
            away = (
                away.sign()
                if probe.norm == "linf"
                else away / away.flatten(1).norm(dim=1)[:, None, None, None]
            )
            draws = (image + probe.epsilon * away.to(image)).clamp(0, 1)
            wrong = draws[probe.judge.predict(view, draws) != label]
            # Behind a random defence once is chance.
            if len(wrong) and bool((probe.judge.shares(probe.name, wrong[:1], label, row) < 0.5).all()):
                broken += 1
                break
    yield probe.line(
        "random noise", "fail" if broken > (1 if probe.random else 0) else "pass",
        f"{broken} of {len(rows)} images that withstood, in {probe.sizes.noise} draws each", meaning,
    )  # fmt: skip
