"""Tables in Markdown, and where their numbers come from."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOT_RUN = "Not run yet."
"""What stands in the place of a table without results."""


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return [head, "|---" * len(heads) + "|", *body]


def decibel(entry: Mapping[str, Any]) -> str:
    """A PSNR with its interval."""
    low, high = entry["interval"]
    return f"{entry['psnr']:.2f} [{low:.2f}, {high:.2f}]"


def origin(*provenances: Mapping[str, Any]) -> str:
    """Where the numbers of a table come from; of several measurements, every value that differs is named."""
    seeds, commits = _distinct(p["seed"] for p in provenances), _distinct(p["commit"] for p in provenances)
    machines = _distinct(_machine(p["hardware"]) for p in provenances)
    torch = _distinct(p["software"]["torch"] for p in provenances)
    return f"<sub>seed {seeds}, commit {commits}, {machines}, torch {torch}</sub>"


def _machine(hardware: Mapping[str, Any]) -> str:
    """The GPU where there is one, and the processor."""
    cores = f"{hardware['cores']} cores ({hardware['processor']})"
    return f"{hardware['gpu']}, {cores}" if "gpu" in hardware else cores


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))
