"""The table of docs/robust.md, from what benchmarks/ablations.py left."""

import json
from pathlib import Path
from typing import Any

from pages import by_column, cell, origin, table_of

from comdefend.evaluation import read_results

MEASURED = ("clean", "8/255", "BIM-50, 8/255", "other networks', 8/255", "white-box, 8/255")
"""Of the columns: one budget."""

CHANGED = {
    "whole": "nothing",
    "no-training": "not trained: adversarial training alone, put behind a purifier of clean images",
    "no-purifier": "no purifier: adversarial training goes on alone, where gray-box is white-box",
    "purifier-stays": "the purifier stays as it was; the classifier alone is trained",
    "no-fidelity": "the purified image need not look like the clean one",
    "one-step": "attacks of one step instead of two",
    "wider": "a gradient mode whose sigmoid is too wide for this code (`tempered-200`)",
    "gray-box": "the attacker of the training knows the classifier alone",
    "from-clean": "begun from a classifier that was never attacked",
    "bits-6": "half the bits, from the start on: 6 bits a pixel",
    "bits-3": "a quarter: 3 bits a pixel",
    "stochastic": "noise on the code when the pair is used (`noise=20`); attacks take means over draws",
}
"""By name, in the order of the table."""


def table(folder: Path) -> str:
    lines: list[tuple[str, ...]] = []
    made: list[dict[str, Any]] = []
    for name, changed in CHANGED.items():
        facts_file = folder / f"{name}.facts.json"
        if not facts_file.is_file():
            continue
        facts = json.loads(facts_file.read_text())
        results = read_results(folder / f"{name}.json")
        found = by_column(results)
        clean = found["clean"]
        assert clean is not None
        psnr = f"{facts['psnr']:.1f}" if "psnr" in facts else "-"
        lines.append((changed, psnr, *(cell(found[c], clean.n) for c in MEASURED)))
        made += map(vars, results)
    if not made:
        return "Not run yet."
    return "\n".join([*table_of(("changed", "PSNR", *MEASURED), lines), "", origin(*made)])
