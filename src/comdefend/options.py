"""Options of the command line from the fields of a dataclass, so that each is declared once."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from functools import wraps
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from comdefend.references import split_list


def with_options_of(spec: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a dataclass, in place of its parameter `spec`.

    A field's metadata hold its `help` and how to read one value from `text`. A field of several values is an
    option that takes them with commas between, and may be repeated. What was not given keeps its default.
    """
    kinds = get_type_hints(spec)
    options = {field.name: field for field in fields(spec)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def wrapped(**given: Any) -> None:
            asked = {
                name: _read(field, given[name]) for name, field in options.items() if given[name] is not None
            }
            others = {name: value for name, value in given.items() if name not in options}
            command(spec=spec(**asked), **others)

        parameters = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == "spec":
                parameters += [_option(field, kinds[field.name]) for field in options.values()]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapped

    return decorate


def _read(field: Field[Any], given: Any) -> Any:
    if not isinstance(given, list):
        return given
    read = field.metadata["text"]
    return tuple(read(one) for text in given for one in split_list(text))


def _option(field: Field[Any], kind: Any) -> inspect.Parameter:
    several, default = get_origin(kind) is tuple, field.default
    kind = list[str] if several else next(k for k in (*get_args(kind), kind) if k is not NoneType)
    if isinstance(default, tuple):
        default = ",".join(field.metadata["write"](value) for value in default)
    about = field.metadata["help"]
    if (known := field.metadata.get("known")) and {"--help", "-h"} & set(sys.argv):
        about += f" Known: {', '.join(known())}."  # only here, since it imports them all
    about += f" (default: {default})" if default not in (None, "") else ""
    dashed = field.name.replace("_", "-")
    names = (f"--{dashed}/--no-{dashed}",) if kind is bool else (f"--{dashed}",)
    metavar = {list[str]: "LIST", int: "N", str: "TEXT"}.get(kind)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[
            kind | None, typer.Option(*names, help=about, show_default=False, metavar=metavar)
        ],
    )  # fmt: skip
