"""Attacks by name and protocol. One interface: see `Attack`."""

from dataclasses import fields, replace
from math import inf

from comdefend.attacks.autoattack import APGD, AutoAttack, AutoAttackL2, Square, SquareOfMeans
from comdefend.attacks.base import (
    OF_THE_EVALUATION,
    PROTOCOLS,
    Attack,
    BudgetFree,
    Goal,
    Norm,
    Protocol,
    check_adversarial,
    distance,
    fooled,
)
from comdefend.attacks.carlini_wagner import CarliniWagner
from comdefend.attacks.deepfool import DeepFool, DeepFoolL2
from comdefend.attacks.fgsm import FGSM, MinimalFGSM
from comdefend.attacks.hopskipjump import HopSkipJump
from comdefend.attacks.iterative import BIM, MIFGSM, PGD, PGDL2, MinimalBIM, MinimalMIFGSM, MinimalPGD
from comdefend.errors import RequestError
from comdefend.references import split_reference

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "FGSM",
    "MIFGSM",
    "PGD",
    "PGDL2",
    "PROTOCOLS",
    "Attack",
    "AutoAttack",
    "AutoAttackL2",
    "BudgetFree",
    "CarliniWagner",
    "DeepFool",
    "DeepFoolL2",
    "Goal",
    "HopSkipJump",
    "MinimalBIM",
    "MinimalFGSM",
    "MinimalMIFGSM",
    "MinimalPGD",
    "Norm",
    "Protocol",
    "Square",
    "SquareOfMeans",
    "attack_names",
    "check_adversarial",
    "check_protocol",
    "distance",
    "find_attack",
    "fooled",
]

ATTACKS: tuple[Attack, ...] = (
    FGSM(), BIM(), PGD(), PGDL2(), MIFGSM(),
    MinimalFGSM(), MinimalBIM(), MinimalPGD(), MinimalMIFGSM(),
    DeepFool(), DeepFoolL2(), CarliniWagner(),
    APGD(), AutoAttack(), AutoAttackL2(), Square(), HopSkipJump(),
)  # fmt: skip
"""Every attack with its default settings, one entry for each protocol it knows."""


LEAST = {"candidates": 2, "confidence": 0, "decay": 0}
"""The smallest value of some settings. All others must be above 0."""


def attack_names() -> list[str]:
    return list(dict.fromkeys(attack.name for attack in ATTACKS))


def find_attack(name: str, protocol: Protocol) -> Attack | None:
    """The attack of that name under that protocol, or None where it does not know the protocol.

    `name` may carry settings that are numbers: "bim:steps=50,step=0.05". DeepFool and C&W look for the
    smallest perturbation by nature: they have no fixed form. Raises `RequestError` for an unknown
    name or setting.
    """
    usual_name, options = split_reference(name, what="attack", known=attack_names())
    usual = next((a for a in ATTACKS if (a.name, a.protocol) == (usual_name, protocol)), None)
    if usual is None or not options:
        return usual
    numbers = {
        own.name: value
        for own in fields(usual)
        if type(value := getattr(usual, own.name)) in (int, float) and own.metadata != OF_THE_EVALUATION
    }
    for key, value in options.items():
        if key not in numbers:
            takes = f"it takes {', '.join(numbers)}" if numbers else "it takes none"
            raise RequestError(
                f"attack {name!r}: there is no setting {key!r} under protocol {protocol}; {takes}"
            )
        whole = isinstance(numbers[key], int)
        least = LEAST.get(key)
        if not isinstance(value, int if whole else int | float) or not (
            (value > 0 if least is None else least <= value) and value < inf
        ):
            kind = "a whole number" if whole else "a number"
            bound = "above 0" if least is None else f"of at least {least}"
            raise RequestError(f"attack {name!r}: {key} is {value!r}; it must be {kind} {bound}")
    return replace(usual, reference=name, **options)


def check_protocol(name: str) -> None:
    """Raises `RequestError` for an unknown protocol."""
    if name not in PROTOCOLS:
        raise RequestError(f"there is no protocol {name!r} (known: {', '.join(PROTOCOLS)})")
