"""A recipe: every setting of one training, read from YAML, checked before any work starts."""

import re
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from math import inf
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from comdefend.errors import RequestError
from comdefend.model import ComDefendConfig

PRECISIONS = {"bfloat16": "bf16-mixed", "float32": "32-true"}
"""What a recipe calls a precision, and what Lightning calls it. Weights stay float32 in both."""


@dataclass(frozen=True)
class PurifierOptions:
    """The purifier that is trained: the fields of `ComDefendConfig`, and how training starts.

    `image_channels`: 1 or 3; by default what the data has. `gain`: see `ComCNN`.
    """

    image_channels: int | None = None
    bits: int = 12
    phi: float = 20.0
    lam: float = 1e-4
    gain: float = 1.0

    def config(self, image_channels: int) -> ComDefendConfig:
        return ComDefendConfig(
            image_channels=image_channels if self.image_channels is None else self.image_channels,
            bits=self.bits,
            phi=self.phi,
            lam=self.lam,
        )


@dataclass(frozen=True)
class ClassifierOptions:
    """The classifier that is trained, and what is done to its images and labels.

    `shift`: images are moved by up to so many pixels, mirrored at the border. `flip`: mirrored left
    to right in every second epoch. `cutout`: side of a grey square put at a random place (0: none).
    """

    architecture: str = "resnet9"
    label_smoothing: float = 0.0
    shift: int = 0
    flip: bool = False
    cutout: int = 0


@dataclass(frozen=True)
class Recipe:
    """One training. Exactly one of `steps` and `epochs` is given; `crop` is in pixels.

    `optimiser`: "adam", "sgd" (Nesterov momentum) or "muon" (Muon for the convolutions, Adam at
    `side_learning_rate` for the rest). `schedule`: "one-cycle" rises linearly over the fraction
    `warmup` and falls as a cosine to zero; "exponential" decays from `learning_rate` to
    `final_learning_rate`. `weight_decay` is that of the convolutions' kernels; nothing else decays.
    `interval`: steps between two validations, each with a checkpoint.
    """

    trains: Literal["purifier", "classifier"]
    data: str
    batch: int
    learning_rate: float
    steps: int | None = None
    epochs: int | None = None
    purifier: PurifierOptions = field(default_factory=PurifierOptions)
    classifier: ClassifierOptions = field(default_factory=ClassifierOptions)
    crop: int | None = None
    optimiser: Literal["adam", "sgd", "muon"] = "adam"
    side_learning_rate: float = 1e-3
    schedule: Literal["one-cycle", "exponential"] = "one-cycle"
    warmup: float = 0.15
    final_learning_rate: float | None = None
    weight_decay: float = 0.0
    clip: float | None = None
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    interval: int = 200
    validation_images: int = 300
    seed: int = 0
    name: str = "custom"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise RequestError(f"recipe {self.name!r}: give either steps or epochs")
        for key in ("batch", "steps", "epochs", "interval", "validation_images", "crop"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RequestError(f"recipe {self.name!r}: {key} is {value}; it must be at least 1")
        for key in ("learning_rate", "side_learning_rate", "final_learning_rate", "clip"):
            value = getattr(self, key)
            if value is not None and not 0 < value < inf:
                raise RequestError(f"recipe {self.name!r}: {key} is {value}; it must be positive and finite")
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name.startswith("."):
            raise RequestError(f"recipe name {self.name!r} must be one word: it names a folder")
        options = self.classifier
        if not (min(options.shift, options.cutout) >= 0 and 0 <= self.weight_decay < inf):
            raise RequestError(f"recipe {self.name!r}: shift, cutout and weight_decay must not be negative")
        if not 0 <= options.label_smoothing < 1:
            raise RequestError(f"recipe {self.name!r}: label_smoothing must be in [0, 1)")
        if not 0 < self.purifier.gain < inf:
            raise RequestError(f"recipe {self.name!r}: gain is {self.purifier.gain}; it must be positive")
        if not 0 <= self.warmup < 1:
            raise RequestError(f"recipe {self.name!r}: warmup is {self.warmup}; it must be in [0, 1)")
        if self.schedule == "exponential" and not self.final_learning_rate:
            raise RequestError(f"recipe {self.name!r}: schedule exponential needs a final_learning_rate")
        try:
            self.purifier.config(3)
        except ValueError as error:
            raise RequestError(f"recipe {self.name!r}: {error}") from error

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole training on a data set of `images` images."""
        return self.steps if self.steps is not None else (self.epochs or 0) * self.epoch_steps(images)

    def epoch_steps(self, images: int) -> int:
        """Steps in which every image is seen once; an incomplete last batch is left out."""
        return max(1, images // self.batch)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    folder = Path(str(resources.files("comdefend.training") / "recipes"))
    return sorted(p.stem for p in folder.glob("*.yaml"))


def load_recipe(reference: str, overrides: list[str] | None = None) -> Recipe:
    """A recipe by name or path, with `key=value` overrides (`purifier.bits=8` for nested ones).

    Raises `RequestError` for an unknown name or key and for a value of the wrong type.
    """
    path = Path(reference)
    if path.suffix not in (".yaml", ".yml"):
        if reference not in recipe_names():
            raise RequestError(
                f"there is no recipe {reference!r}; these ship: {', '.join(recipe_names())} "
                "(or give the path of a .yaml file)"
            )
        path = Path(str(resources.files("comdefend.training") / "recipes" / f"{reference}.yaml"))
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"recipe {str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(f"recipe {str(path)!r} must be a mapping of settings")
    content = {"name": path.stem, **content}
    for override in overrides or []:
        _override(content, override)
    recipe: Recipe = _build(Recipe, content, where=f"recipe {content['name']!r}")
    return recipe


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RequestError(f"override {override!r} must have the form key=value")
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise RequestError(f"override {override!r}: {parent} is not a group of settings")
    try:
        content[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"override {override!r}: the value is no YAML: {error}") from error
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
            raise RequestError(f"{where}: unknown setting {key!r}; known: {', '.join(sorted(known))}")
    values = {}
    for key, value in content.items():
        hint = hints[key]
        if hasattr(hint, "__dataclass_fields__"):
            if not isinstance(value, dict):
                raise RequestError(f"{where}: {key} must be a group of settings")
            values[key] = _build(hint, value, where=f"{where}, {key}")
        else:
            values[key] = _checked(value, hint, where=f"{where}: {key}")
    try:
        return kind(**values)
    except TypeError as error:
        raise RequestError(f"{where}: {error}") from error


def _checked(value: Any, hint: Any, *, where: str) -> Any:
    allowed = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    for kind in allowed:
        if get_origin(kind) is Literal:
            if value in get_args(kind):
                return value
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
    accepted = (
        "one of " + ", ".join(choices)
        if choices
        else " or ".join("nothing" if k is type(None) else k.__name__ for k in allowed)
    )
    raise RequestError(f"{where} is {value!r}; it must be {accepted}")
