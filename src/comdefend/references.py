"""References as `NAME:key=value,...`: what all that is named on a command line has in common."""

from collections.abc import Iterable
from difflib import get_close_matches

from comdefend.errors import RequestError

Value = int | float | str


def split_reference(reference: str, *, what: str, known: Iterable[str]) -> tuple[str, dict[str, Value]]:
    """The name and the options of a reference to a `what` ("purifier").

    Raises `RequestError` for a name that is not `known`, naming the nearest, and for a malformed option.
    """
    name, _, text = reference.partition(":")
    names = list(known)
    if name not in names:
        near = get_close_matches(name, names, n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RequestError(f"there is no {what} {name!r}{hint} (known: {', '.join(names)})")
    options: dict[str, Value] = {}
    for part in filter(None, text.split(",")):
        key, separator, value = part.partition("=")
        if not separator or not value:
            raise RequestError(f"{what} {reference!r}: {part!r} must have the form key=value")
        options[key] = _value(value)
    return name, options


def split_list(text: str) -> list[str]:
    """References separated by commas, which separate the options of one of them too.

    "fgsm,bim:steps=50,step=0.1,pgd" has three: what is no more than key=value goes on with the one before.
    """
    found: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        if found and "=" in part and ":" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
