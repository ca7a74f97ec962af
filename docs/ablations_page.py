"""The table of docs/robust.md, from what benchmarks/ablations.py left, and others like it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pages import COLUMNS, by_column, cell, origin, table_of

from comdefend.evaluation import Result, read_results

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
    whole: dict[str, Result | None] = {}
    for number, (name, words) in enumerate(changed.items()):
        facts_file = folder / f"{name}.facts.json"
        if not facts_file.is_file():
            continue
        facts = json.loads(facts_file.read_text())
        results = read_results(folder / f"{name}.json")
        found = by_column(results)
        if number == 0:
            whole = found
        lines.append((words, f"{facts['psnr']:.1f}" if "psnr" in facts else "-", found))
        made += map(vars, results)
    if not made:
        return "Not run yet."
    columns = [column for column in COLUMNS if any(found[column] for _, _, found in lines)]
    most = max(found["clean"].n for _, _, found in lines if found["clean"])
    rows = [
        (words, psnr, *(cell(found[c], most, None if found is whole else whole.get(c)) for c in columns))
        for words, psnr, found in lines
    ]
    return "\n".join([*table_of(("changed", "PSNR", *columns), rows), "", origin(*made)])
