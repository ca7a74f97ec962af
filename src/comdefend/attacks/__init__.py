"""Attacks by name and protocol. One interface: see `Attack`."""

from difflib import get_close_matches

from comdefend.attacks.autoattack import APGD, AutoAttack, AutoAttackL2, Square
from comdefend.attacks.base import (
    PROTOCOLS,
    Attack,
    BudgetFree,
    Goal,
    Norm,
    Protocol,
    check_budget,
    distance,
    fooled,
)
from comdefend.attacks.carlini_wagner import CarliniWagner
from comdefend.attacks.deepfool import DeepFool, DeepFoolL2
from comdefend.attacks.fgsm import FGSM, MinimalFGSM
from comdefend.attacks.hopskipjump import HopSkipJump
from comdefend.attacks.iterative import BIM, MIFGSM, PGD, PGDL2, MinimalBIM, MinimalMIFGSM, MinimalPGD
from comdefend.errors import RequestError

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
    "attack_names",
    "check_budget",
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


def attack_names() -> list[str]:
    return list(dict.fromkeys(attack.name for attack in ATTACKS))


def find_attack(name: str, protocol: Protocol) -> Attack | None:
    """The attack of that name under that protocol, or None where it does not know the protocol.

    DeepFool and C&W look for the smallest perturbation by nature: they have no fixed form.
    Raises `RequestError` for an unknown name.
    """
    if name not in attack_names():
        near = get_close_matches(name, attack_names(), n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RequestError(f"there is no attack {name!r}{hint} (known: {', '.join(attack_names())})")
    return next((a for a in ATTACKS if (a.name, a.protocol) == (name, protocol)), None)


def check_protocol(name: str) -> None:
    """Raises `RequestError` for an unknown protocol."""
    if name not in PROTOCOLS:
        raise RequestError(f"there is no protocol {name!r} (known: {', '.join(PROTOCOLS)})")
