"""Which gradient modes of a purifier go on from a trial to all images.

Where there are many images, the modes are first tried on some of them, for each norm, with those beside the
best one (`Purifier.beside`). Two go on: the one that breaks most, and the one that adds most to it.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from comdefend.attacks import Norm
from comdefend.attacks.adaptive import ESTIMATED, gradient_modes, through
from comdefend.errors import MissingExtraError, RequestError
from comdefend.evaluation.scenarios import (
    KEPT_MODES,
    MAX_ALL_MODES,
    Scenario,
    trial,
    trial_budget,
)
from comdefend.evaluation.spec import EvaluationSpec
from comdefend.purifiers import Identity, Purifier
from comdefend.purifiers.base import GENERAL_MODES

TRIAL_IMAGES = 100
"""Images that all modes are tried on, or half of them if they are fewer."""

MAX_MODES = 20
"""Modes, after which no more are added."""

Scan = Callable[[Scenario], Tensor]
"""Runs a trial; the share of draws in which each image survives."""


def choose_modes(
    spec: EvaluationSpec, purifiers: Mapping[str, nn.Module], *, images: int, image: Tensor, scan: Scan
) -> dict[tuple[str, Norm], tuple[str, ...]]:
    """The modes of each defence under each norm that is attacked, the best first.

    Those of `spec.modes` that it knows, tried on `image` (1 x C x H x W), or all that it has. Where these are
    many and so are the images, `scan` runs a trial of each, and the best go on. Raises `RequestError` for a
    mode that no defence knows, and for a defence that knows none.
    """
    if "white-box" not in spec.knowledge or not spec.attacks:
        return {}
    usable = usable_modes(purifiers, spec.modes, image)
    norms: list[Norm] = list(dict.fromkeys(attack.norm for attack in spec.gradient_based()))
    found: dict[tuple[str, Norm], tuple[str, ...]] = {}
    for name, purifier in purifiers.items():
        for norm in norms:
            found[name, norm] = usable[name]
            epsilon = trial_budget(spec, norm)
            few = len(usable[name]) <= KEPT_MODES or images <= MAX_ALL_MODES
            if not (few or spec.modes or epsilon is None):
                found[name, norm] = _best_modes(spec, name, purifier, norm, epsilon, images, scan)
    return found


def _best_modes(
    spec: EvaluationSpec, name: str, purifier: nn.Module, norm: Norm, epsilon: float, images: int, scan: Scan
) -> tuple[str, ...]:
    """The best of all modes and of those beside the leading ones, as long as there are new ones."""
    survived: dict[str, Tensor] = {}
    modes = gradient_modes(purifier)
    while True:
        for mode in modes:
            limit = min(TRIAL_IMAGES, images // 2)
            survived[mode] = scan(trial(spec, name, purifier, norm, epsilon, mode, limit))
        best = best_together({mode: shares for mode, shares in survived.items() if mode != ESTIMATED})
        leading = [m for m in best if m == best[0] or bool((survived[m] < survived[best[0]]).any())]
        beside = purifier.beside if isinstance(purifier, Purifier) else lambda _: ()
        modes = tuple(dict.fromkeys(m for mode in leading for m in beside(mode) if m not in survived))
        if not modes or not float(survived[best[0]].sum()) or len(survived) >= MAX_MODES:
            return best


def best_together(survived: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The `KEPT_MODES` to go on with, by which of the same images survive each mode: the one that breaks
    most, and then whichever adds most to those before it.
    """
    kept: list[str] = []
    together = torch.ones(())
    while len(kept) < min(KEPT_MODES, len(survived)):
        others = [mode for mode in survived if mode not in kept]
        best = min(
            others,
            key=lambda m: (float(torch.minimum(survived[m], together).sum()), float(survived[m].sum())),
        )
        kept.append(best)
        together = torch.minimum(survived[best], together)
    return tuple(kept)


def usable_modes(
    purifiers: Mapping[str, nn.Module], modes: Sequence[str], image: Tensor
) -> dict[str, tuple[str, ...]]:
    """Which of `modes` each defence knows, or all that it has where none were asked for; the undefended
    classifier, which needs none, has its plain gradient.
    """
    if not modes:
        return {name: gradient_modes(purifier) for name, purifier in purifiers.items()}
    found = {name: tuple(m for m in modes if _knows(p, m, image)) for name, p in purifiers.items()}
    for mode in modes:
        if not any(mode in known for known in found.values()):
            own = dict.fromkeys(m for p in purifiers.values() for m in (*gradient_modes(p), *GENERAL_MODES))
            raise RequestError(f"there is no gradient mode {mode!r} (known: {', '.join(own)})")
    for name, known in found.items():
        if not known and not isinstance(purifiers[name], Identity):
            own = dict.fromkeys((*gradient_modes(purifiers[name]), *GENERAL_MODES))
            raise RequestError(
                f"defence {name!r} has no gradient mode {' or '.join(modes)} (known: {', '.join(own)})"
            )
    return {name: known or gradient_modes(purifiers[name]) for name, known in found.items()}


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
