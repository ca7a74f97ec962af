"""The interface of an experiment, and how it is found by name."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Experiment:
    """What `experiments/NAME/experiment.py` calls `EXPERIMENT`."""

    parts: Sequence[str]
    """What can be run alone, in the order in which all of it is run."""
    run: Callable[[Sequence[str]], None]
    """Run parts, and write their results. Work that is interrupted continues where it stopped."""
    done: Callable[[str], bool]
    """Whether the results of a part are complete and up to date."""
    tables: Mapping[str, Callable[[], str]]
    """Markdown by name, made of the results: a page has it at `<!-- tables: EXPERIMENT/NAME -->`."""
    pages: Mapping[str, str] = field(default_factory=dict)
    """Templates by name, beside page.md; NAME is rendered into docs/EXPERIMENT/NAME.md."""
    draw: Callable[[], None] = lambda: None
    """Draw figures of the results again."""


def names() -> list[str]:
    """Every experiment, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob("*/experiment.py"))


def load(name: str) -> Experiment:
    """An experiment by name. Raises `KeyError` where there is none."""
    if name not in names():
        raise KeyError(f"there is no experiment {name!r}, there are: {', '.join(names())}")
    experiment = import_module(f"experiments.{name}.experiment").EXPERIMENT
    assert isinstance(experiment, Experiment)
    return experiment


def template(name: str) -> str:
    """The text of an experiment's page.md."""
    return (FOLDER / name / "page.md").read_text()


def title(name: str) -> str:
    """The heading of an experiment's page."""
    return template(name).splitlines()[0].removeprefix("# ")


def in_turn(measure: Callable[[str], None]) -> Callable[[Sequence[str]], None]:
    """Return what runs several parts, one after the other."""

    def run(parts: Sequence[str]) -> None:
        for part in parts:
            print(part, file=sys.stderr)
            measure(part)

    return run
