"""The tables of docs/untouched.md, from what benchmarks/untouched.py left."""

import json
from pathlib import Path
from typing import Any

from pages import COLUMNS, attacked, by_column, cell, origin, table_of, worst_case

from comdefend.evaluation import Result, read_results
from comdefend.evaluation.tables import defences as names_of_defences
from comdefend.evaluation.tables import label

JUDGES = {
    "resnet20": "ResNet-20, not ours",
    "resnet32": "ResNet-32, not ours",
    "vgg": "a VGG of ours, no guide",
    "resnet20-ours": "a ResNet-20 of ours, no guide",
    "resnet9-wide": "a wider ResNet-9 of ours, no guide",
    "resnet9-guide": "a ResNet-9 of ours, a guide",
}
"""Classifiers by the name of their results, in the order of the table."""

CHANGED = {
    "whole": "nothing",
    "pixels": "no guides: pixels alone",
    "logits": "of the guides the logits alone",
    "features": "of the guides the features alone",
    "one-guide": "one guide",
    "no-guide-noise": "no noise on what guides are shown",
    "white-noise": "noise of each value for itself",
    "no-noise": "no noise on what is compressed",
}
"""Parts of the training by the name of their results, in the order of the table."""

SINGLE = ("fgsm", "bim")
"""Attacks with a column of their own."""


def table(folder: Path) -> str:
    """Every classifier, alone and behind each purifier."""
    single = [f"{attack.upper()}, 8/255" for attack in SINGLE]
    heads = ("classifier", "purifier", "clean", "all, 8/255", *single, *COLUMNS[1:])
    lines: list[tuple[str, ...]] = []
    made: list[Result] = []
    for name, title in JUDGES.items():
        if not (folder / f"{name}.facts.json").is_file():
            continue
        results = read_results(folder / f"{name}.json")
        for defence in names_of_defences(results):
            own = [r for r in results if r.defence == defence]
            found = by_column(own)
            clean = found["clean"]
            assert clean is not None
            tried = [r for r in attacked(own, 8, "gray-box") if r.n == clean.n]  # transfers, too
            worst = worst_case({clean.n: clean}, tried)
            alone = [
                next((r for r in tried if r.attack == attack and not r.source), None) for attack in SINGLE
            ]
            cells = [cell(one, clean.n) for one in (clean, worst, *alone, *(found[c] for c in COLUMNS[1:]))]
            shown = "none" if defence == "none" else f"`{label(defence).rpartition('=')[2]}`"
            lines.append((title, shown, *cells))
        made += results
    if not made:
        return "Not run yet."
    return "\n".join([*table_of(heads, lines), "", origin(*map(vars, made))])


def parts(folder: Path) -> str:
    """A line for each part of the training that was measured, with the columns that any of them has.

    Those after the first have the paired difference from it.
    """
    lines: list[tuple[str, str, dict[str, Result | None]]] = []
    made: list[dict[str, Any]] = []
    whole: dict[str, Result | None] = {}
    for number, (name, words) in enumerate(CHANGED.items()):
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
