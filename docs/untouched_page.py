"""The tables of docs/untouched.md, from what benchmarks/untouched.py left."""

from pathlib import Path

import ablations_page
from pages import COLUMNS, by_column, cell, origin, table_of

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
"""Attacks with a column of their own, at 8/255."""


def table(folder: Path) -> str:
    """Every classifier, alone and behind each purifier."""
    heads = ("classifier", "purifier", "clean", *(f"{a.upper()}, 8/255" for a in SINGLE), *COLUMNS[1:])
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
            cells = [cell(found[column], clean.n) for column in COLUMNS]
            single = [cell(_single(own, attack), clean.n) for attack in SINGLE]
            shown = "none" if defence == "none" else f"`{label(defence).rpartition('=')[2]}`"
            lines.append((title, shown, cells[0], *single, *cells[1:]))
        made += results
    if not made:
        return "Not run yet."
    return "\n".join([*table_of(heads, lines), "", origin(*map(vars, made))])


def parts(folder: Path) -> str:
    """What each part of the training is worth."""
    return ablations_page.table(folder, CHANGED)


def _single(results: list[Result], attack: str) -> Result | None:
    """A gray-box attack at 8/255 that was made on the classifier itself."""
    return next(
        (
            r for r in results
            if r.attack == attack and r.knowledge == "gray-box" and not r.source
            and r.threat_model and abs((r.threat_model.epsilon or 0) - 8 / 255) < 1e-9
        ),
        None,
    )  # fmt: skip
