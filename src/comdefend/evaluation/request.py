"""What an evaluation is asked to attack with, checked before any work."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from comdefend.attacks import ATTACKS, PROTOCOLS, Attack, Norm, Protocol, check_protocol, find_attack
from comdefend.errors import RequestError
from comdefend.evaluation.results import KNOWLEDGE, Knowledge
from comdefend.evaluation.worst_case import FEW
from comdefend.references import split_list

USUAL: dict[Norm, float] = {"linf": 8 / 255, "l2": 0.5}
"""Checks are made at the budget nearest to this."""


@dataclass(frozen=True)
class Request:
    """The attackers of an evaluation; `evaluate` says what each field means.

    `linf` are budgets as fractions, `l2` Euclidean lengths. Raises `RequestError` for what does not exist or
    does not fit together: a level of knowledge without an attack for it would say nothing and look tried.
    """

    attacks: tuple[str, ...]
    knowledge: tuple[Knowledge, ...]
    protocols: tuple[Protocol, ...]
    linf: tuple[float, ...]
    l2: tuple[float, ...]
    modes: tuple[str, ...] | None = None
    draws: int = 1
    stand_ins: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    slow_limit: int = FEW

    @classmethod
    def of(
        cls,
        *,
        attacks: Any,
        knowledge: Any,
        protocols: Any,
        linf: Any,
        l2: Any,
        modes: Any,
        draws: int,
        stand_ins: Any,
        sources: Any,
        slow_limit: int = FEW,
    ) -> "Request":
        """The same from what callers may write: one thing for several, and names in one string."""
        return cls(
            attacks=tuple(name for name in _names(attacks) if name != "none"),
            knowledge=_names(knowledge),  # type: ignore[arg-type]
            protocols=_names(protocols),  # type: ignore[arg-type]
            linf=_numbers("epsilons", linf, "8 / 255"),
            l2=_numbers("l2_epsilons", l2, "0.5"),
            modes=None if modes is None else _names(modes),
            draws=draws,
            stand_ins=_several(stand_ins, str),
            sources=_several(sources, str),
            slow_limit=slow_limit,
        )

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise RequestError(f"draws is {self.draws}; it must be at least 1")
        if self.slow_limit < FEW:
            raise RequestError(f"slow_limit is {self.slow_limit}; it must be at least {FEW}")
        for level in self.knowledge:
            if level not in KNOWLEDGE:
                raise RequestError(f"there is no knowledge {level!r} (known: {', '.join(KNOWLEDGE)})")
        if not self.knowledge:
            raise RequestError(f"knowledge is empty; it must name some of {', '.join(KNOWLEDGE)}")
        for protocol in self.protocols:
            check_protocol(protocol)
        if not self.protocols:
            raise RequestError(f"protocols is empty; it must name some of {', '.join(PROTOCOLS)}")
        if (self.stand_ins or self.sources) and "gray-box" not in self.knowledge:
            raise RequestError(
                "stand-ins and sources are a gray-box attacker's: knowledge must name gray-box and is "
                + ",".join(self.knowledge)
            )
        self._check_budgets()
        self._check_attacks()

    @property
    def gray_box_only(self) -> bool:
        """Whether no attacker knows more than the classifier."""
        return self.knowledge == ("gray-box",)

    def by_protocol(self) -> tuple[list[Attack], list[str]]:
        """What follows gradients under each protocol, and a note for each form that an attack lacks."""
        found: list[Attack] = []
        notes: list[str] = []
        for name in self.attacks:
            for protocol in self.protocols:
                attack = find_attack(name, protocol)
                if attack is None:
                    notes.append(_lacking(name, protocol))
                elif not attack.query_based:
                    found.append(attack)
        return list(dict.fromkeys(found)), list(dict.fromkeys(notes))

    def gradient_based(self) -> list[Attack]:
        """Attacks that follow gradients, in one form each, the fixed one where there is one."""
        return [attack for attack in self._one_each() if not attack.query_based]

    def query_based(self) -> list[Attack]:
        """The same of those that ask for answers only."""
        return [attack for attack in self._one_each() if attack.query_based]

    def _one_each(self) -> list[Attack]:
        found = (find_attack(name, "fixed") or find_attack(name, "minimal") for name in self.attacks)
        return [attack for attack in dict.fromkeys(found) if attack]

    def budgets(self, attacks: Iterable[Attack]) -> Iterator[tuple[Attack, float | None]]:
        """Each attack with each of its budgets; L2 attacks that look for the nearest have none."""
        for attack in attacks:
            chosen: Sequence[float | None] = self.linf
            if attack.norm == "l2":
                chosen = (None,) if attack.protocol == "minimal" else self.l2
            for epsilon in dict.fromkeys(chosen):
                yield attack, epsilon

    def spent(self) -> list[tuple[Norm, float]]:
        """The budgets, with their norms, of attacks that follow gradients and have one."""
        asked = self.budgets(self.gradient_based())
        return list(dict.fromkeys((attack.norm, epsilon) for attack, epsilon in asked if epsilon))

    def checked_at(self) -> dict[Norm, float]:
        """The budget that checks are made at, under L-infinity always, under L2 where it is attacked."""
        own: dict[Norm, list[float]] = {
            "linf": list(self.linf or (USUAL["linf"],)),
            "l2": [epsilon for norm, epsilon in self.spent() if norm == "l2"],
        }
        return {
            norm: min(some, key=lambda epsilon: abs(epsilon - USUAL[norm]))
            for norm, some in own.items()
            if some
        }

    def _check_budgets(self) -> None:
        for epsilon in self.linf:
            if not 0 < epsilon <= 1:
                raise RequestError(
                    f"epsilon is {epsilon:g} as a fraction ({epsilon * 255:g}/255); "
                    "it must lie above 0 and at most at 1 (255/255)"
                    + (f"; did you mean {epsilon:g}/255?" if epsilon > 1 and epsilon == int(epsilon) else "")
                )
        for epsilon in self.l2:
            if not 0 < epsilon < float("inf"):
                raise RequestError(f"l2_epsilon is {epsilon:g}; it must be a length above 0")

    def _check_attacks(self) -> None:
        follow, ask = self.gradient_based(), self.query_based()
        asking = " or ".join(attack.name for attack in ATTACKS if attack.query_based)
        if not self.attacks:
            return
        if ask and "black-box" not in self.knowledge:
            raise RequestError(
                f"attack {ask[0].title!r} asks for answers, as a black-box attacker does: "
                f"knowledge must name black-box and is {','.join(self.knowledge)}"
            )
        if "black-box" in self.knowledge and not ask:
            raise RequestError(f"knowledge black-box needs an attack that asks for answers: {asking}")
        for level in self.knowledge:
            if level != "black-box" and not follow:
                raise RequestError(
                    f"knowledge {level} needs an attack that follows gradients, not {asking} alone"
                )
        if "gray-box" in self.knowledge and not self.by_protocol()[0]:
            raise RequestError(
                f"no attack of {', '.join(self.attacks)} has a form under protocol "
                f"{', '.join(self.protocols)}"
            )
        for attack in follow + ask:
            if not list(self.budgets([attack])):
                which = "epsilons" if attack.norm == "linf" else "l2_epsilons"
                raise RequestError(f"attack {attack.title!r} needs a budget, and {which} is empty")
        if (self.stand_ins or self.sources) and not self.spent():
            raise RequestError(
                "stand-ins and sources are attacked with the budgets of the other attacks, and "
                f"{', '.join(self.attacks)} has none"
            )


def _lacking(name: str, protocol: Protocol) -> str:
    if protocol == "fixed":
        return f"{name} has no fixed form: it looks for the smallest perturbation by nature"
    return f"{name} has no minimal form: it spends its whole budget"


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(split_list(given) if isinstance(given, str) else given)


def _numbers(what: str, given: Any, example: str) -> tuple[float, ...]:
    found = _several(given, Real | str)
    for number in found:
        if isinstance(number, bool) or not isinstance(number, Real):
            raise RequestError(f"{what} holds {number!r}; budgets are numbers such as {example}")
    return found


def _several(given: Any, one: Any) -> tuple[Any, ...]:
    """Several things, or a single one of what they would be."""
    return (given,) if isinstance(given, one) else tuple(given)
