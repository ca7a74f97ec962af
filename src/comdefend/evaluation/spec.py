"""What an evaluation is asked for: every option once, with what it means and what it accepts.

The parameters of `evaluate`, the options of `comdefend evaluate` and the request in a report are made from
the fields of `EvaluationSpec`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import TYPE_CHECKING, Any

from comdefend.errors import RequestError
from comdefend.references import split_list
from comdefend.threat import KNOWLEDGE, PROTOCOLS, Knowledge, Norm, Protocol

if TYPE_CHECKING:  # the command line reads the fields without what an evaluation imports
    from comdefend.attacks import Attack

MIN_SLOW = 100
"""Images for slow attacks, at least: with fewer nothing can be told."""

USUAL: dict[Norm, float] = {"linf": 8 / 255, "l2": 0.5}
"""Checks are made at the budget nearest to this."""

Read = Callable[[str, Any], Any]
"""From an option's name and what was given for it to its value; `RequestError` where it is none."""


def _option(
    default: Any,
    meaning: str,
    read: Read,
    *,
    text: Callable[[str], Any] = str,
    write: Callable[[Any], str] = str,
    known: Callable[[], Iterable[str]] | None = None,
) -> Any:
    """A field with its help; `text` is how the command line reads one value, `write` how it shows one, and
    `known` the names that there are.
    """
    about = {"help": meaning, "read": read, "text": text, "write": write, "known": known}
    return field(default=default, metadata=about)


def _attack_names() -> list[str]:
    from comdefend.attacks import attacks

    return list(attacks)


def _purifier_names() -> list[str]:
    from comdefend.purifiers import purifiers

    return list(purifiers)


def _names(name: str, given: Any) -> tuple[str, ...]:
    try:
        return tuple(split_list(given) if isinstance(given, str) else given)
    except TypeError as error:
        raise RequestError(f"{name} is {given!r}; names are needed") from error


def _some_of(known: Iterable[str]) -> Read:
    def read(name: str, given: Any) -> tuple[str, ...]:
        found = _names(name, given)
        for one in found:
            if one not in known:
                raise RequestError(f"there is no {name} {one!r} (known: {', '.join(known)})")
        if not found:
            raise RequestError(f"{name} is empty; it must name some of {', '.join(known)}")
        return tuple(dict.fromkeys(found))

    return read


def _numbers(name: str, given: Any, example: str) -> tuple[float, ...]:
    several = (given,) if isinstance(given, Real | str) else tuple(given)
    for number in several:
        if isinstance(number, bool) or not isinstance(number, Real):
            raise RequestError(f"{name} holds {number!r}; budgets are numbers such as {example}")
    return tuple(dict.fromkeys(several))


def _fractions(name: str, given: Any) -> tuple[float, ...]:
    found = _numbers(name, given, "8 / 255")
    for epsilon in found:
        if not 0 < epsilon <= 1:
            meant = f"; did you mean {epsilon:g}/255?" if epsilon > 1 and epsilon == int(epsilon) else ""
            raise RequestError(
                f"epsilon is {epsilon:g} as a fraction ({epsilon * 255:g}/255); it must lie above 0 and at "
                f"most at 1 (255/255){meant}"
            )
    return found


def _lengths(name: str, given: Any) -> tuple[float, ...]:
    found = _numbers(name, given, "0.5")
    for epsilon in found:
        if not 0 < epsilon < float("inf"):
            raise RequestError(f"l2_epsilon is {epsilon:g}; it must be a length above 0")
    return found


def _whole(least: int, *, optional: bool = False) -> Read:
    def read(name: str, given: Any) -> int | None:
        if (given is None and optional) or (type(given) is int and least <= given < 2**62):
            return given
        raise RequestError(f"{name} is {given!r}; it must be a whole number, at least {least}")

    return read


def _dtype(_: str, given: Any) -> str:
    from comdefend.device import find_dtype

    find_dtype(given)
    return str(given)


def _asking() -> str:
    from comdefend.attacks import attacks

    return " or ".join(name for name in attacks if attacks[name]().query_based)


def _find(name: str, protocol: Protocol) -> "Attack | None":
    from comdefend.attacks import find_attack

    return find_attack(name, protocol)


def in_255ths(text: str) -> float:
    """A budget as the command line gives it, in units of 1/255 ("8" or "8/255"), as a fraction."""
    try:
        units = float(text.removesuffix("/255"))
    except ValueError as error:
        raise RequestError(f"epsilon {text!r} is no number in units of 1/255, such as 8 or 8/255") from error
    if 0 < units < MIN_UNITS and not text.endswith("/255"):
        raise RequestError(f"epsilon {text} is in units of 1/255, and so nearly nothing: write 8, or 8/255")
    return units / 255


MIN_UNITS = 0.1
"""Units of 1/255 below which a budget on the command line is taken for a fraction that was meant."""


def _length(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RequestError(f"l2-epsilons {text!r} is no number, a length such as 0.5") from error


@dataclass(frozen=True)
class EvaluationSpec:
    """What an evaluation is asked for.

    In Python names may stand in a sequence or in one string with commas, and one budget for several. Raises
    `RequestError` for what does not exist or does not fit together: a level of knowledge without an attack
    for it would say nothing and look tried.
    """

    attacks: tuple[str, ...] = _option(
        ("fgsm", "bim"),
        "Attacks by name, with settings as in bim:steps=50; none: clean accuracy only.",
        _names,
        known=_attack_names,
    )
    epsilons: tuple[float, ...] = _option(
        (8 / 255,), "L-infinity budgets: fractions of [0, 1]; on the command line in units of 1/255.",
        _fractions, text=in_255ths, write=lambda epsilon: f"{epsilon * 255:g}",
    )  # fmt: skip
    l2_epsilons: tuple[float, ...] = _option(
        (0.5,), "Budgets of fixed attacks under L2: Euclidean lengths.", _lengths, text=_length
    )
    protocol: tuple[Protocol, ...] = _option(
        PROTOCOLS, "Of gray-box attacks: fixed spends the whole budget, minimal as little as fools.",
        _some_of(PROTOCOLS),
    )  # fmt: skip
    knowledge: tuple[Knowledge, ...] = _option(
        ("gray-box",), "What attackers know: gray-box, white-box, black-box.", _some_of(KNOWLEDGE)
    )
    modes: tuple[str, ...] = _option(
        (), "Gradient modes of white-box attacks; by default all that a purifier has.", _names
    )
    eot_samples: int = _option(20, "Draws of a random purifier behind each gradient (EOT).", _whole(1))
    surrogate_purifiers: tuple[str, ...] = _option(
        (),
        "Purifiers that a gray-box attacker takes for the defence, by reference.",
        _names,
        known=_purifier_names,
    )
    surrogate_classifiers: tuple[str, ...] = _option(
        (), "Other classifiers whose adversarial images are tried, by reference.", _names
    )
    limit: int | None = _option(None, "Use only so many images, drawn by the seed.", _whole(1, optional=True))
    slow_limit: int = _option(
        MIN_SLOW,
        "Images for slow attacks where an attacker knows more than the classifier.",
        _whole(MIN_SLOW),
    )
    size: int | None = _option(
        None,
        "Bring images to this height and width: scaled, and the middle cut out.",
        _whole(1, optional=True),
    )
    checks: bool = _option(True, "Look for signs of a weak attack (white-box only).", lambda _, on: bool(on))
    seed: int = _option(0, "Seed of every random choice.", _whole(0))
    batch: int | None = _option(
        None,
        "Images at a time; by default by their size. What an attack draws depends on it.",
        _whole(1, optional=True),
    )
    device: str = _option("cpu", "cpu, cuda, cuda:1, ...", lambda _, given: str(given))
    dtype: str = _option(
        "float32", "What purifiers given by reference compute in: float32, bfloat16, float16.", _dtype
    )
    examples: int = _option(8, "Images in each picture of the report.", _whole(0))

    def __post_init__(self) -> None:
        for option in fields(self):
            value = option.metadata["read"](option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, value)
        if "none" in self.attacks:
            object.__setattr__(self, "attacks", tuple(name for name in self.attacks if name != "none"))
        self._check_attacks()

    @property
    def gray_box_only(self) -> bool:
        """Whether no attacker knows more than the classifier."""
        return self.knowledge == ("gray-box",)

    def gray_box(self) -> "list[Attack]":
        """Attacks that follow gradients, in each form that the protocols ask for."""
        found = (_find(name, protocol) for name in self.attacks for protocol in self.protocol)
        return [attack for attack in dict.fromkeys(found) if attack and not attack.query_based]

    def lacking(self) -> list[str]:
        """A note for each form that an attack lacks under a protocol."""
        return [
            f"{name} has no fixed form: it looks for the smallest perturbation by nature"
            if protocol == "fixed"
            else f"{name} has no minimal form: it spends its whole budget"
            for name in self.attacks for protocol in self.protocol if _find(name, protocol) is None
        ]  # fmt: skip

    def gradient_based(self) -> "list[Attack]":
        """Attacks that follow gradients, in one form each, the fixed one where there is one: to an attacker
        who judges what they attack the protocols are the same.
        """
        return [attack for attack in self._one_each() if not attack.query_based]

    def query_based(self) -> "list[Attack]":
        """The same of those that ask for answers only."""
        return [attack for attack in self._one_each() if attack.query_based]

    def _one_each(self) -> "list[Attack]":
        found = (_find(name, "fixed") or _find(name, "minimal") for name in self.attacks)
        return [attack for attack in dict.fromkeys(found) if attack]

    def budgets(self, some: "Iterable[Attack]") -> "Iterator[tuple[Attack, float | None]]":
        """Each attack with each of its budgets; L2 attacks that look for the nearest have none."""
        for attack in some:
            chosen: Sequence[float | None] = self.epsilons
            if attack.norm == "l2":
                chosen = (None,) if attack.protocol == "minimal" else self.l2_epsilons
            for epsilon in chosen:
                yield attack, epsilon

    def spent(self) -> list[tuple[Norm, float]]:
        """The budgets, with their norms, of attacks that follow gradients and have one."""
        asked = self.budgets(self.gradient_based())
        return list(dict.fromkeys((attack.norm, epsilon) for attack, epsilon in asked if epsilon))

    def checked_at(self) -> dict[Norm, float]:
        """The budget that checks are made at, under L-infinity always, under L2 where it is attacked."""
        own: dict[Norm, list[float]] = {
            "linf": list(self.epsilons or (USUAL["linf"],)),
            "l2": [epsilon for norm, epsilon in self.spent() if norm == "l2"],
        }
        return {
            norm: min(some, key=lambda epsilon: abs(epsilon - USUAL[norm]))
            for norm, some in own.items() if some
        }  # fmt: skip

    def _check_attacks(self) -> None:
        if (self.surrogate_purifiers or self.surrogate_classifiers) and "gray-box" not in self.knowledge:
            raise RequestError(
                "surrogates are a gray-box attacker's: knowledge must name gray-box and is "
                + ",".join(self.knowledge)
            )
        follow, ask = self.gradient_based(), self.query_based()
        if not self.attacks:
            return
        if ask and "black-box" not in self.knowledge:
            raise RequestError(
                f"attack {ask[0].title!r} asks for answers, as a black-box attacker does: "
                f"knowledge must name black-box and is {','.join(self.knowledge)}"
            )
        if "black-box" in self.knowledge and not ask:
            raise RequestError(f"knowledge black-box needs an attack that asks for answers: {_asking()}")
        for level in self.knowledge:
            if level != "black-box" and not follow:
                raise RequestError(
                    f"knowledge {level} needs an attack that follows gradients, not {_asking()} alone"
                )
        if "gray-box" in self.knowledge and not self.gray_box():
            raise RequestError(
                f"no attack of {', '.join(self.attacks)} has a form under protocol {', '.join(self.protocol)}"
            )
        for attack in follow + ask:
            if not list(self.budgets([attack])):
                which = "epsilons" if attack.norm == "linf" else "l2_epsilons"
                raise RequestError(f"attack {attack.title!r} needs a budget, and {which} is empty")
        if (self.surrogate_purifiers or self.surrogate_classifiers) and not self.spent():
            raise RequestError(
                "surrogates are attacked with the budgets of the other attacks, and "
                f"{', '.join(self.attacks)} has none"
            )
