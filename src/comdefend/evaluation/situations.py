"""Which situations each attacker makes: of those who know the classifier, the defence, or only its answers.

White-box, every attack goes through every gradient mode of a purifier. Where there are many images, the
modes are first tried on some of them, for each norm, with those beside the best one (`Purifier.beside`),
and two go on to all: the one that breaks most, and the one that adds most to it. Slow attacks go through
the one of the two in which quick ones left least.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from comdefend.attacks import (
    BIM,
    MIFGSM,
    PGD,
    PGDL2,
    Attack,
    AutoAttack,
    HopSkipJump,
    Norm,
)
from comdefend.attacks.adaptive import ESTIMATED, AdaptiveView, gradient_modes, through
from comdefend.attacks.base import LossName
from comdefend.errors import MissingExtraError, RequestError
from comdefend.evaluation.judge import Situation
from comdefend.evaluation.results import ThreatModel
from comdefend.evaluation.worst_case import FEW
from comdefend.purifiers import Identity, Purifier, is_random
from comdefend.purifiers.base import GENERAL_MODES

SCAN, KEPT = 100, 2
"""Images that all modes are tried on, or half of them if they are fewer; how many modes go on to the rest."""

MOST = 20
"""Modes, after which no more are added."""

SCANS: dict[Norm, PGD] = {
    "linf": PGD(steps=10, step=0.25, reference="pgd:steps=10,step=0.25"),
    "l2": PGDL2(steps=10, step=0.25, reference="pgd-l2:steps=10,step=0.25"),
}
"""What modes are tried with, named by its settings, so that nobody takes it for the whole attack."""

TRANSFERRED: dict[Norm, PGD] = {"linf": PGD(), "l2": PGDL2()}
"""What is run on other networks, for what it makes to be tried here."""

ALL_MODES = 40
"""Up to so many images every mode is tried on all."""

FEWEST = 16
"""Images for estimated gradients, which take dozens of answers a step; `FEW` or more are for slow attacks."""

HARD_LABEL = 40
"""Images for attacks that see labels only, and need thousands of them."""

LOSSES: tuple[LossName, ...] = ("cross-entropy", "margin", "dlr")
"""Of white-box PGD: one after the other on what is left."""

DRAWS = 20
"""Draws of a random defence behind each gradient (EOT)."""

SURE = 10
"""Single answers of a random defence that an image must fool, for PGD not to try it again."""


class Surrogate(nn.Module):
    """The classifier behind a purifier's differentiable stand-in: what a transfer attack is made on."""

    def __init__(self, classifier: nn.Module, purifier: Purifier) -> None:
        super().__init__()
        self.classifier, self.purifier = classifier, purifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.purifier.surrogate(images).clamp(0, 1))
        return logits


def gray_box(
    network: nn.Module,
    defences: tuple[str, ...],
    attacks: Iterable[tuple[Attack, float | None]],
    *,
    alone: bool,
    slow_limit: int = FEW,
) -> list[Situation]:
    """Attacks on the bare classifier, each tried on all defences; slow ones on more than `slow_limit` images
    only where this attacker is `alone`, with none beside him to be compared with.
    """
    return [
        Situation(
            network, defences, attack, ThreatModel(attack.norm, epsilon),
            limit=slow_limit if attack.slow and not alone else None,
        )
        for attack, epsilon in attacks
    ]  # fmt: skip


def white_box(
    classifier: nn.Module,
    name: str,
    purifier: nn.Module,
    attacks: Iterable[tuple[Attack, float | None]],
    *,
    modes: Sequence[str] | None,
    draws: int,
    images: int,
    slow_limit: int = FEW,
    scan: Callable[[Situation], Tensor],
) -> list[Situation]:
    """The situations of an attacker who knows one defence; `scan` runs one of those by which
    modes are chosen, and gives the share of draws in which each image is right.

    `attacks` come with their budgets; slow ones are given `slow_limit` images. `modes`, all of them on all
    images; where it is None those of the purifier, scanned where there are many images.
    """
    made = partial(_through_mode, classifier, name, purifier, draws=draws)
    tried = tuple(modes) if modes else gradient_modes(purifier)
    chosen = list(attacks)
    budgets = list(dict.fromkeys((attack.norm, epsilon) for attack, epsilon in chosen))
    found: list[Situation] = []
    going: dict[Norm, tuple[str, ...]] = {"linf": tried, "l2": tried}
    if not modes and len(tried) > KEPT and images > ALL_MODES:
        for norm in dict.fromkeys(norm for norm, _ in budgets):
            # The smallest, where modes differ most: at a large budget many of them break everything.
            epsilon = min((e for other, e in budgets if other == norm and e), default=None)
            if epsilon is None:
                continue
            trial = partial(made, SCANS[norm], epsilon, trial=True)
            trials, going[norm] = _best_modes(purifier, tried, trial, scan, min(SCAN, images // 2))
            found += trials
    for attack, budget in sorted(chosen, key=lambda one: one[0].slow):
        kept = going[attack.norm]
        if attack.slow and kept is not tried:
            quick = [situation for situation in found if _in_full_at(situation, attack.norm, budget)]
            kept = (_strongest(kept, quick, scan),)
        for mode in kept:
            if mode == ESTIMATED:
                found += [made(attack, budget, mode, FEWEST)] if isinstance(attack, PGD) else []
            else:
                found.append(made(_in_full(attack), budget, mode, slow_limit if attack.slow else None))
    if isinstance(purifier, Purifier) and purifier.has_surrogate:
        target = Surrogate(classifier, purifier)
        found += [
            Situation(
                target, (name,), PGD(), ThreatModel("linf", epsilon, "white-box"),
                source="its surrogate",
            )
            for norm, epsilon in budgets if norm == "linf"
        ]  # fmt: skip
    return found


def _in_full_at(situation: Situation, norm: Norm, epsilon: float | None) -> bool:
    """Whether a situation is no trial, of all images, and at that budget, or at any for an attack that has
    none.
    """
    threat = situation.threat_model
    if threat is None or situation.trial or situation.limit is not None:
        return False
    return threat.norm == norm and epsilon in (None, threat.epsilon)


def _strongest(modes: tuple[str, ...], made: Sequence[Situation], scan: Callable[[Situation], Tensor]) -> str:
    """Of some modes the one in which the attacks `made` leave least: those that chose the modes took few
    steps. The first where none was made.
    """
    left = {
        mode: torch.stack(shares).amin(0).sum().item()
        for mode in modes
        if (shares := [scan(situation) for situation in made if situation.mode == mode])
    }
    return min(left, key=left.__getitem__) if left else modes[0]


def _in_full(attack: Attack) -> Attack:
    """PGD with a restart at least for each loss; any other attack as it is."""
    if not isinstance(attack, PGD):
        return attack
    return replace(attack, restarts=max(len(LOSSES), attack.restarts), losses=LOSSES)


def _through_mode(
    classifier: nn.Module,
    name: str,
    purifier: nn.Module,
    attack: Attack,
    epsilon: float | None,
    mode: str,
    limit: int | None,
    *,
    draws: int,
    trial: bool = False,
) -> Situation:
    """One white-box attack through one gradient mode, in the form that suits a random defence, or none."""
    random = is_random(purifier)
    behind = draws if random else 1
    if isinstance(attack, AutoAttack) and random:
        attack = replace(attack, kind="rand", draws=1)  # the view draws
    if isinstance(attack, PGD) and random:
        attack = replace(attack, sure=SURE)
    if isinstance(attack, BIM | PGD | MIFGSM) and not random:
        attack = replace(attack, early=True)
    return Situation(
        AdaptiveView(classifier, purifier, mode=mode, draws=behind), (name,), attack,
        ThreatModel(attack.norm, epsilon, "white-box"),
        mode=mode, draws=behind, trial=trial, limit=limit,
    )  # fmt: skip


def _best_modes(
    purifier: nn.Module,
    modes: tuple[str, ...],
    trial: Callable[[str, int], Situation],
    scan: Callable[[Situation], Tensor],
    images: int,
) -> tuple[list[Situation], tuple[str, ...]]:
    """The trials on so many images of all modes, and of those beside the best one, and beside the other to go
    on with where that adds something, as long as there are new ones; the modes to go on with.
    """
    trials: list[Situation] = []
    left: dict[str, Tensor] = {}
    while True:
        for mode in modes:
            trials.append(trial(mode, FEWEST if mode == ESTIMATED else images))
            left[mode] = scan(trials[-1])
        best = best_together({mode: shares for mode, shares in left.items() if mode != ESTIMATED})
        leading = [m for m in best if m == best[0] or bool((left[m] < left[best[0]]).any())]
        beside = purifier.beside if isinstance(purifier, Purifier) else lambda _: ()
        modes = tuple(dict.fromkeys(m for mode in leading for m in beside(mode) if m not in left))
        if not modes or not float(left[best[0]].sum()) or len(left) >= MOST:
            return trials, best


def best_together(left: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Of modes, by what each leaves of the same images, the `KEPT` to go on with: the one that leaves least,
    and then whichever adds most to those before it.
    """
    kept: list[str] = []
    together = torch.ones(())
    while len(kept) < min(KEPT, len(left)):
        others = [mode for mode in left if mode not in kept]
        best = min(
            others,
            key=lambda m: (float(torch.minimum(left[m], together).sum()), float(left[m].sum())),
        )
        kept.append(best)
        together = torch.minimum(left[best], together)
    return tuple(kept)


def black_box(
    classifier: nn.Module,
    name: str,
    purifier: nn.Module,
    attacks: Iterable[tuple[Attack, float | None]],
    *,
    draws: int,
    slow_limit: int = FEW,
) -> list[Situation]:
    """The situations of an attacker who only sees answers of the defended classifier: of a random one
    means over `draws` of them, so that no lucky one counts. He gets `slow_limit` images, or where he sees
    labels only `HARD_LABEL`.
    """
    random = is_random(purifier)
    behind = draws if random else 1
    target = AdaptiveView(classifier, purifier, draws=behind)
    found = []
    for attack, epsilon in attacks:
        asking = attack.against_random() if random else attack
        found.append(
            Situation(
                target, (name,), asking, ThreatModel(attack.norm, epsilon, "black-box"), draws=behind,
                limit=HARD_LABEL if isinstance(asking, HopSkipJump) else slow_limit,
            )
        )  # fmt: skip
    return found


def transfers(
    classifier: nn.Module,
    stand_ins: Mapping[str, nn.Module],
    defences: Sequence[str],
    budgets: Sequence[tuple[Norm, float]],
) -> list[Situation]:
    """PGD on the classifier behind stand-ins for the defences, which the attacker does not know.

    It goes through the first gradient mode of a stand-in. What breaks most of the stand-in itself is not
    what moves best to another: images made in the narrow temperatures that suit the authors' weights break
    more of these, and less of a ComDefend that was trained by itself.
    """
    targets = {
        reference: AdaptiveView(classifier, purifier, mode=gradient_modes(purifier)[0])
        for reference, purifier in stand_ins.items()
    }
    return from_others(targets, defences, budgets)


def from_others(
    sources: Mapping[str, nn.Module], defences: Sequence[str], budgets: Sequence[tuple[Norm, float]]
) -> list[Situation]:
    """PGD on other classifiers, for an attacker who has not even the one that is attacked."""
    return [
        Situation(source, tuple(defences), TRANSFERRED[norm], ThreatModel(norm, epsilon), source=reference)
        for reference, source in sources.items()
        for norm, epsilon in budgets
    ]


def usable_modes(
    defences: Mapping[str, nn.Module], modes: Sequence[str], image: Tensor
) -> dict[str, tuple[str, ...]]:
    """Which of `modes` each defence knows, tried on an image (1 x C x H x W); the undefended classifier,
    which needs none, has its plain gradient where it knows none of them.

    Raises `RequestError` for a mode that no defence knows, and for a defence that knows none.
    """
    found = {name: tuple(mode for mode in modes if _knows(d, mode, image)) for name, d in defences.items()}
    for mode in modes:
        if not any(mode in known for known in found.values()):
            own = dict.fromkeys(m for d in defences.values() for m in (*gradient_modes(d), *GENERAL_MODES))
            raise RequestError(f"there is no gradient mode {mode!r} (known: {', '.join(own)})")
    for name, known in found.items():
        if not known and not isinstance(defences[name], Identity):
            own = dict.fromkeys((*gradient_modes(defences[name]), *GENERAL_MODES))
            raise RequestError(
                f"defence {name!r} has no gradient mode {' or '.join(modes)} (known: {', '.join(own)})"
            )
    return {name: known or gradient_modes(defences[name]) for name, known in found.items()}


def _knows(purifier: nn.Module, mode: str, image: Tensor) -> bool:
    if mode == ESTIMATED:
        return True
    if isinstance(purifier, Purifier) and not purifier.knows(mode):
        return False
    try:
        with torch.no_grad():
            through(purifier, image, mode)
    except MissingExtraError:
        raise  # it knows the mode, and needs a package for it
    except RequestError:
        return False
    return True
