"""What may differ between two runs of an experiment, and what an experiment shows at its end."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comdefend.attacks import Protocol

Progress = Callable[[int, int, str], None]
"""Called with (parts done, parts in all, what is under way)."""


@dataclass(frozen=True)
class Settings:
    """`limit`: at most so many images for each number. `classifier` and `data` replace the
    experiment's own; `trained` is a folder of runs, for weights that do not ship and for the trainings
    of an experiment, `steps` long; `full`: all points of the paper's grid, not the few that fit two
    cores.
    """

    limit: int | None = None
    protocols: tuple[Protocol, ...] = ("minimal", "fixed")
    classifier: str | None = None
    data: str | None = None
    trained: Path = Path("runs")
    steps: int | None = None
    full: bool = False
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class Grid:
    """A table for people. Its first `key` columns name a line."""

    title: str
    headings: list[str]
    lines: list[list[str]]
    key: int = 1

    def pieces(self, width: int) -> Iterator["Grid"]:
        """The same table as several, one below the other, none wider than `width` characters where its
        cells allow: each has the key, and as many of the other columns as fit.
        """
        columns = list(zip(self.headings, *self.lines, strict=True))
        # A cell is padded by a blank on both sides and has a border.
        wide = [max(map(len, column)) + 3 for column in columns]
        room = width - 1 - sum(wide[: self.key])
        taken: list[int] = []
        for index in range(self.key, len(columns)):
            if taken and sum(wide[k] for k in [*taken, index]) > room:
                yield self._piece(taken)
                taken = []
            taken.append(index)
        yield self._piece(taken)

    def _piece(self, others: list[int]) -> "Grid":
        kept = [*range(self.key), *others]
        lines = [[line[k] for k in kept] for line in self.lines]
        return Grid(self.title, [self.headings[k] for k in kept], lines, self.key)


@dataclass(frozen=True)
class Shown:
    """The end of an experiment: tables, what has to be said beside them, the files that hold it all, where
    the numbers come from, and which of them are far from the paper's.
    """

    name: str
    grids: list[Grid]
    notes: list[str]
    files: list[Path]
    origin: dict[str, Any] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        parts = ["\n".join(f"{line}  " for line in self.notes)]
        for grid in self.grids:
            head = "| " + " | ".join(grid.headings) + " |"
            rule = "|" + "---|" * len(grid.headings)
            body = ["| " + " | ".join(line) + " |" for line in grid.lines]
            parts.append("\n".join([f"**{grid.title}**", "", head, rule, *body]))
        if self.differences:
            listed = "\n".join(f"- {line}" for line in self.differences)
            parts.append(f"More than 5 points from the paper, ours for theirs:\n\n{listed}")
        parts.append(origin_line(self.origin))
        return "\n\n".join(parts)


def origin_line(origin: dict[str, Any]) -> str:
    """Seed, commit, hardware and software of numbers, in one small line of Markdown."""
    hardware, software = origin["hardware"], origin["software"]
    machine = hardware.get("gpu", f"{hardware['cores']} cores ({hardware['processor']})")
    return (
        f"<sub>seed {origin['seed']}, commit {origin['commit']}, {machine}, torch {software['torch']}</sub>"
    )
