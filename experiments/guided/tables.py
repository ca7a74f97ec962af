"""The tables of the page, from results in a folder; `titles` are those of their rows, by file, in order."""

from collections.abc import Mapping
from pathlib import Path

from comdefend.evaluation import Result
from comdefend.evaluation.tables import defences, label
from experiments.attackers import COLUMNS, attacked, by_column, cell, complete, worst_case
from experiments.markdown import NOT_RUN, origin, table_of

SINGLE = ("fgsm", "bim")
"""Attacks with a column of their own."""


def classifiers(folder: Path, titles: Mapping[str, str]) -> str:
    """Every classifier, alone and behind each purifier."""
    single = [f"{attack.upper()}, 8/255" for attack in SINGLE]
    heads = ("classifier", "purifier", "clean", "all, 8/255", *single, *COLUMNS[1:])
    lines: list[tuple[str, ...]] = []
    measured = complete(folder, titles)
    for name, (results, _) in measured.items():
        for defence in defences(results):
            own = [r for r in results if r.defence == defence]
            columns = by_column(own)
            clean = columns["clean"]
            assert clean is not None
            attacks = [r for r in attacked(own, 8, "gray-box") if r.n == clean.n]  # transfers, too
            worst = worst_case({clean.n: clean}, attacks)
            alone = [next((r for r in attacks if r.attack == a and not r.source), None) for a in SINGLE]
            cells = [cell(r, clean.n) for r in (clean, worst, *alone, *(columns[c] for c in COLUMNS[1:]))]
            shown = "none" if defence == "none" else f"`{label(defence).rpartition('=')[2]}`"
            lines.append((titles[name], shown, *cells))
    if not lines:
        return NOT_RUN
    provenances = (vars(r) for results, _ in measured.values() for r in results)
    return "\n".join([*table_of(heads, lines), "", origin(*provenances)])


def parts(folder: Path, titles: Mapping[str, str]) -> str:
    """A row for each change to the training, with the columns that any of them has.

    The first is the whole; the others have the paired difference from it.
    """
    measured = complete(folder, titles)
    if not measured:
        return NOT_RUN
    rows = {name: by_column(results) for name, (results, _) in measured.items()}
    whole: dict[str, Result | None] = rows.get(next(iter(titles)), {})
    columns = [column for column in COLUMNS if any(row[column] for row in rows.values())]
    images = max(row["clean"].n for row in rows.values() if row["clean"])
    lines = []
    for name, row in rows.items():
        _, facts = measured[name]
        psnr = f"{facts['psnr']:.1f}" if "psnr" in facts else "-"
        cells = [cell(row[c], images, None if row is whole else whole.get(c)) for c in columns]
        lines.append((titles[name], psnr, *cells))
    provenances = (vars(r) for results, _ in measured.values() for r in results)
    return "\n".join([*table_of(("changed", "PSNR", *columns), lines), "", origin(*provenances)])
