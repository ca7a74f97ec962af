"""A recipe: every setting of one training, read from YAML, checked before any work starts."""

import re
import reprlib
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from importlib import resources
from math import inf
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from comdefend.errors import RequestError, reason
from comdefend.training.options import (
    ClassifierOptions,
    DenoiserOptions,
    PixelCNNOptions,
    PurifierOptions,
)
from comdefend.zoo import Kind

PRECISIONS = {"bfloat16": "bf16-mixed", "float32": "32-true"}
"""What a recipe calls a precision, and what Lightning calls it. Weights stay float32 in both."""


_KINDS = ("null", "bool", "int", "float")
"""Of values that are no text without quotes. (A date is text, which is refused where a number is needed.)"""

_MAX_BYTES, _MAX_DEPTH, _MAX_TEXT, _MAX_DIGITS = 100_000, 20, 1000, 40
"""Of a recipe's file, its groups in groups, and a value that is text or a number."""

_SHORT = reprlib.Repr()
"""Values in messages: the user's own, and so of any length."""
_SHORT.maxstring = 100


@dataclass(frozen=True)
class Recipe:
    """One training: exactly one of `steps` and `epochs` is given."""

    trains: Kind
    data: str
    batch: int
    learning_rate: float
    steps: int | None = None
    epochs: int | None = None
    purifier: PurifierOptions = field(default_factory=PurifierOptions)
    classifier: ClassifierOptions = field(default_factory=ClassifierOptions)
    pixelcnn: PixelCNNOptions = field(default_factory=PixelCNNOptions)
    denoiser: DenoiserOptions = field(default_factory=DenoiserOptions)
    crop: int | None = None
    """The side of what is cut out of each image, in pixels (None: whole images)."""
    optimiser: Literal["adam", "sgd", "muon"] = "adam"
    """Here "sgd" has Nesterov momentum; "muon" is Muon for the convolutions and Adam for the rest."""
    side_learning_rate: float = 1e-3
    """Of that Adam."""
    schedule: Literal["one-cycle", "exponential"] = "one-cycle"
    """Of the learning rate: "one-cycle" rises linearly over the fraction `warmup` and falls as a cosine to
    zero; "exponential" decays from `learning_rate` to `final_learning_rate`."""
    warmup: float = 0.15
    final_learning_rate: float | None = None
    weight_decay: float = 0.0
    """Of the convolutions' kernels; nothing else decays."""
    clip: float | None = None
    """The largest norm that a gradient keeps (None: any)."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Here "auto" is bfloat16 where the device has instructions for it that pay and float32 elsewhere; the
    facts of the weights say which it was."""
    interval: int = 200
    """Steps between two validations, each with a checkpoint."""
    validation_images: int = 300
    seed: int = 0
    name: str = "custom"

    def __post_init__(self) -> None:
        problem = next(self.problems(), None)
        if problem:
            raise RequestError(f"recipe {self.name!r}: {problem}")

    def problems(self) -> Iterator[str]:
        """What is wrong with the settings, each thing in a sentence that says what is accepted."""
        if (self.steps is None) == (self.epochs is None):
            yield "give either steps or epochs"
        for key in ("batch", "steps", "epochs", "interval", "validation_images", "crop"):
            value = getattr(self, key)
            if value is not None and value < 1:
                yield f"{key} is {value}; it must be at least 1"
        for key in ("learning_rate", "side_learning_rate", "final_learning_rate", "clip"):
            value = getattr(self, key)
            if value is not None and not 0 < value < inf:
                yield f"{key} is {value}; it must be positive and finite"
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name.startswith("."):
            yield f"name is {self.name!r}; it must be one word: it names a folder"
        if not 0 <= self.weight_decay < inf:
            yield f"weight_decay is {self.weight_decay}; it must be finite and not negative"
        if not 0 <= self.warmup < 1:
            yield f"warmup is {self.warmup}; it must be in [0, 1)"
        if self.schedule == "exponential" and not self.final_learning_rate:
            yield "schedule exponential needs a final_learning_rate"
        if not 0 <= self.seed < 2**62:
            yield f"seed is {self.seed}; it must lie between 0 and 2^62"
        if self.purifier.guides and self.crop:
            yield "guides judge whole images; leave out crop"
        for group in ("purifier", "classifier", "pixelcnn", "denoiser"):
            for problem in getattr(self, group).problems():
                yield f"{group}.{problem}"

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole training on a data set of `images` images."""
        return self.steps if self.steps is not None else (self.epochs or 0) * self.epoch_steps(images)

    def epoch_steps(self, images: int) -> int:
        """Steps in which every image is seen once; an incomplete last batch is left out."""
        return max(1, images // self.batch)

    def to_dict(self) -> dict[str, Any]:
        """All settings, for JSON."""
        return asdict(self)


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    folder = Path(str(resources.files("comdefend.training") / "recipes"))
    return sorted(p.stem for p in folder.glob("*.yaml"))


def load_recipe(reference: str, overrides: list[str] | None = None) -> Recipe:
    """A recipe by name or path, with `key=value` overrides (`purifier.bits=8` for nested ones).

    Raises `RequestError` for an unknown name or key and for a value of the wrong type.
    """
    content = _read(reference)
    for override in overrides or []:
        _override(content, override)
    recipe: Recipe = _build(Recipe, content, where=f"recipe {reference!r}")
    return recipe


def _read(reference: str, *, depth: int = 0) -> dict[str, Any]:
    """The settings of a recipe's file, over those of the recipe that it `extends`."""
    path = Path(reference)
    if path.suffix not in (".yaml", ".yml"):
        if reference not in recipe_names():
            near = get_close_matches(reference, recipe_names(), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise RequestError(
                f"there is no recipe {reference!r}{hint} (shipped: {', '.join(recipe_names())}; "
                "the path of a .yaml file works too)"
            )
        path = Path(str(resources.files("comdefend.training") / "recipes" / f"{reference}.yaml"))
    try:
        with path.open("rb") as file:
            content = _parsed(file.read(_MAX_BYTES + 1).decode())
    except (OSError, ValueError) as error:
        raise RequestError(f"recipe {str(path)!r} cannot be read: {reason(error)}") from error
    if not isinstance(content, dict):
        raise RequestError(f"recipe {str(path)!r} must be a mapping of settings")
    content = {"name": path.stem, **content}
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str) or depth > 5:
        raise RequestError(f"recipe {str(path)!r}: extends must name another recipe, and not in a circle")
    return _merged(_read(base, depth=depth + 1), content)


def _parsed(text: str) -> Any:
    """Numbers, texts, true, false, null, lists and mappings in YAML; `ValueError` for anything else."""
    if len(text) > _MAX_BYTES:
        raise RequestError(f"it has more than {_MAX_BYTES} bytes")
    try:
        return yaml.load(text, _Loader)  # a subclass of the safe one
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RequestError(f"line {line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise RequestError(reason(error)) from error


class _Loader(yaml.SafeLoader):
    """YAML without what no recipe needs and its reader would not expect: references to other parts, tags,
    dates, keys that are given twice, and depths and lengths that only an attack has.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] in _KINDS]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None:
            self._refuse("anchors and aliases (& and *) are not accepted", event)
        if event.tag is not None:
            self._refuse("tags (!) are not accepted", event)
        if self.depth == _MAX_DEPTH:
            self._refuse(f"it is more than {_MAX_DEPTH} levels deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode):
            longest = _MAX_TEXT if node.tag.endswith(":str") else _MAX_DIGITS
            if len(node.value) > longest:
                self._refuse(f"a value has more than {longest} characters", node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                self._refuse(f"{_SHORT.repr(key)} is given twice", key_node)
            keys.add(key)
        return mapping

    def _refuse(self, problem: str, where: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two mappings of settings, group by group; `above` wins."""
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        both[key] = _merged(under, value) if isinstance(value, dict) and isinstance(under, dict) else value
    if "epochs" in above:  # a training has one length
        both.pop("steps", None)
    if "steps" in above:
        both.pop("epochs", None)
    return both


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RequestError(f"override {_SHORT.repr(override)} must have the form key=value")
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise RequestError(f"override {_SHORT.repr(override)}: {parent} is not a group of settings")
    try:
        content[last] = _parsed(text)
    except ValueError as error:
        raise RequestError(
            f"override {_SHORT.repr(override)}: the value is no YAML: {reason(error)}"
        ) from error
    # A training has one length: whichever of the two is given last is meant.
    if key == "steps":
        content.pop("epochs", None)
    if key == "epochs":
        content.pop("steps", None)


def _build(kind: type[Any], content: dict[str, Any], *, where: str) -> Any:
    """A dataclass from a mapping, its keys and the types of its values checked."""
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    for key in content:
        if key not in known:
            raise RequestError(
                f"{where}: unknown setting {_SHORT.repr(key)}; known: {', '.join(sorted(known))}"
            )
    missing = [
        f.name for f in fields(kind)
        if f.default is MISSING and f.default_factory is MISSING and f.name not in content
    ]  # fmt: skip
    if missing:
        raise RequestError(f"{where}: {', '.join(missing)} must be given")
    values = {}
    for key, value in content.items():
        hint = hints[key]
        if hasattr(hint, "__dataclass_fields__"):
            if not isinstance(value, dict):
                raise RequestError(f"{where}: {key} must be a group of settings")
            values[key] = _build(hint, value, where=f"{where}, {key}")
        else:
            values[key] = _checked(value, hint, where=f"{where}: {key}")
    return kind(**values)


_IN_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def _in_words(kind: Any) -> str:
    """A type of settings as somebody who writes YAML would call it."""
    if get_origin(kind) is tuple:
        return "a list of texts" if get_args(kind)[0] is str else "a list of whole numbers"
    return _IN_WORDS[kind]


def _checked(value: Any, hint: Any, *, where: str) -> Any:
    allowed = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    for kind in allowed:
        if get_origin(kind) is Literal:
            if value in get_args(kind):
                return value
        elif get_origin(kind) is tuple:
            if isinstance(value, list | tuple) and all(type(v) is get_args(kind)[0] for v in value):
                return tuple(value)
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif kind is float and isinstance(value, str):
            try:  # YAML reads 1e-3 as text
                return float(value)
            except ValueError:
                continue
        elif isinstance(value, kind) and not (isinstance(value, bool) and kind is int):
            return value
    choices = [a for k in allowed if get_origin(k) is Literal for a in get_args(k)]
    accepted = "one of " + ", ".join(choices) if choices else " or ".join(_in_words(k) for k in allowed)
    raise RequestError(f"{where} is {_SHORT.repr(value)}; it must be {accepted}")
