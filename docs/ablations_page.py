"""The table of docs/robust.md, from what benchmarks/ablations.py left, and others like it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pages import COLUMNS, by_column, cell, origin, table_of

from comdefend.evaluation import Result, read_results
from comdefend.evaluation.tables import change

CHANGED = {
    "whole": "nothing",
    "no-purifier": "no purifier from here on, where gray-box is white-box",
    "one-cut": "one cut, the paper's",
    "fewer-cuts": "fifteen cuts",
    "noise": "noise on the logits beside the cuts, in training and in use",
    "noise-for-cuts": "noise instead: one cut",
    "not-settled": "neither network is trained on for the cuts",
    "compressor-stays": "the reconstructor alone is trained on for the cuts",
    "tuned": "the purifier is trained, too",
    "no-attack": "nothing is attacked in training",
    "gray-box": "the attacker of the training knows the classifier alone",
    "straight-through": "the code's gradient as if nothing had been cut (straight-through)",
    "half-bits": "half the bits for a block",
    "larger-budget": "attacks of 10.5/255 in training instead of 8/255",
    "one-step": "attacks of one step in training",
    "no-teacher": "labels alone: no mean teacher",
    "trades": "TRADES' loss, and no mean teacher",
}
"""By name, in the order of the table."""


def table(folder: Path, changed: Mapping[str, str] = CHANGED) -> str:
    """A line for each part that was measured, with the columns that any of them has; `changed` are their
    names, and what they change in words. Those after the first have the paired difference from it.
    """
    lines: list[tuple[str, str, dict[str, Result | None]]] = []
    made: list[dict[str, Any]] = []
    for name, words in changed.items():
        facts_file = folder / f"{name}.facts.json"
        if not facts_file.is_file():
            continue
        facts = json.loads(facts_file.read_text())
        results = read_results(folder / f"{name}.json")
        found = by_column(results)
        lines.append((words, f"{facts['psnr']:.1f}" if "psnr" in facts else "-", found))
        made += map(vars, results)
    if not made:
        return "Not run yet."
    columns = [column for column in COLUMNS if any(found[column] for _, _, found in lines)]
    most = max(found["clean"].n for _, _, found in lines if found["clean"])
    whole = lines[0][2] if next(iter(changed.values())) == lines[0][0] else {}
    rows = [
        (words, psnr, *(_with_change(found[c], whole.get(c) if number else None, most) for c in columns))
        for number, (words, psnr, found) in enumerate(lines)
    ]
    return "\n".join([*table_of(("changed", "PSNR", *columns), rows), "", origin(*made)])


def _with_change(result: Result | None, whole: Result | None, most: int) -> str:
    """Accuracy, with the difference from what nothing was changed of, where there is such a result of as many
    images, and with an interval of its own where there is none.
    """
    if result is None or whole is None or result.n != whole.n:
        return cell(result, most)
    few = f" n={result.n}" if result.n < most else ""
    return f"{100 * result.accuracy:.1f}, {change(result, whole)}{few}"
