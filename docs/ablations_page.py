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
    "no-training": "not trained on: adversarial training alone, put behind the purifier",
    "no-purifier": "no purifier: adversarial training goes on alone, where gray-box is white-box",
    "all-purified": "nothing goes past the purifier",
    "white-box": "the attacker of the training knows the purifier, and its gradient modes",
    "both-white-box": "so too; the purifier is trained with the classifier, and nothing goes past it",
    "both-gray-box": "the purifier is trained with it, but by an attacker who does not know the purifier",
    "from-clean": "begun from a classifier that was never attacked",
    "stochastic": "noise on the code when the pair is used (`noise=20`); attacks take means over draws",
    "bits-3": "a purifier that was trained on clean images only, 3 bits a pixel",
    "bits-6": "the same, 6 bits a pixel",
    "bits-1.5": "the same, 1.5 bits a pixel",
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
