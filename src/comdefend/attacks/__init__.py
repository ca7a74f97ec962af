"""Attacks by name and protocol. One interface: see `Attack`."""

from dataclasses import fields, replace
from math import inf
from typing import Any

from comdefend.attacks.autoattack import APGD, AutoAttack, Square, SquareOfMeans
from comdefend.attacks.balls import BALLS, Ball, distance
from comdefend.attacks.base import (
    OF_THE_EVALUATION,
    Attack,
    BudgetFree,
    Goal,
    attacks,
    check_adversarial,
    fooled,
)
from comdefend.attacks.carlini_wagner import CarliniWagner
from comdefend.attacks.deepfool import DeepFool
from comdefend.attacks.fgsm import FGSM
from comdefend.attacks.hopskipjump import HopSkipJump
from comdefend.attacks.iterative import BIM, MIFGSM, PGD
from comdefend.attacks.smallest import Smallest
from comdefend.errors import RequestError
from comdefend.references import split_reference
from comdefend.threat import PROTOCOLS, Norm, Protocol

__all__ = [
    "APGD",
    "BALLS",
    "BIM",
    "FGSM",
    "MIFGSM",
    "PGD",
    "PROTOCOLS",
    "Attack",
    "AutoAttack",
    "Ball",
    "BudgetFree",
    "CarliniWagner",
    "DeepFool",
    "Goal",
    "HopSkipJump",
    "Norm",
    "Protocol",
    "Smallest",
    "Square",
    "SquareOfMeans",
    "attacks",
    "check_adversarial",
    "check_protocol",
    "distance",
    "find_attack",
    "fooled",
]


def find_attack(reference: str, protocol: Protocol) -> Attack | None:
    """The attack of that name under that protocol, or None where it has no such form.

    `reference` may carry settings that are numbers: "bim:steps=50,step=0.05". DeepFool and C&W look for the
    smallest perturbation by nature: they have no fixed form. Raises `RequestError` for an unknown
    name or setting.
    """
    name, options = split_reference(reference, what="attack", known=attacks)
    attack = attacks[name]()
    if options:
        attack = replace(attack, reference=reference, **_checked(attack, options, reference))
    if attack.protocol == protocol:
        return attack
    return Smallest(attack) if protocol == "minimal" and attack.per_image_budgets else None


def check_protocol(name: str) -> None:
    """Raises `RequestError` for an unknown protocol."""
    if name not in PROTOCOLS:
        raise RequestError(f"there is no protocol {name!r} (known: {', '.join(PROTOCOLS)})")


def _checked(attack: Attack, options: dict[str, int | float | str], reference: str) -> dict[str, Any]:
    """Settings of a reference that the attack has, each a number in its range."""
    numbers = {
        own.name: (getattr(attack, own.name), own.metadata.get("least"))
        for own in fields(attack)
        if type(getattr(attack, own.name)) in (int, float) and own.metadata != OF_THE_EVALUATION
    }
    found: dict[str, Any] = {}
    for key, value in options.items():
        if key not in numbers:
            known = f"it takes {', '.join(numbers)}" if numbers else "it takes none"
            raise RequestError(f"attack {reference!r}: there is no setting {key!r}; {known}")
        usual, least = numbers[key]
        kind = "a whole number" if isinstance(usual, int) else "a number"
        number = isinstance(value, int) or (isinstance(value, float) and isinstance(usual, float))
        if not number or not (0 if least is None else least) <= value < inf or (least is None and value == 0):  # type: ignore[operator]
            bound = "above 0" if least is None else f"of at least {least}"
            raise RequestError(f"attack {reference!r}: {key} is {value!r}; it must be {kind} {bound}")
        found[key] = value
    return found
