"""The paper's tables and figures: what `comdefend reproduce` writes, beside the paper's numbers.

Needs what the page says; the ImageNet tables need the shared data (COMDEFEND_SHARED).
"""

import os
from functools import partial
from pathlib import Path

from comdefend.cli import main as comdefend
from comdefend.paper import EXPERIMENTS
from comdefend.paper.experiments import show
from experiments.experiment import Experiment, in_turn
from experiments.resources import ROOT, SHARED

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

IMAGENET = (
    "--classifier", f"{SHARED}/classifiers/classifiers.py:squeezenet",
    "--data", f"{SHARED}/datasets/imagenet_val", "--limit", "100",
)  # fmt: skip
"""A small classifier, and as many photographs as a purifier of this size gets through on two cores."""

OPTIONS = dict.fromkeys(("table7", "table8", "table9"), IMAGENET)


def measure(part: str) -> None:
    """Reproduce a table or a figure; cells that are in the results already are not run again."""
    output = os.path.relpath(RESULTS, ROOT)
    assert comdefend(["reproduce", part, *OPTIONS.get(part, ()), "--output", output]) == 0


def table(part: str) -> str:
    """A table or a figure's numbers, ours beside the paper's."""
    return "\n\n".join(shown.markdown() for shown in show(part, RESULTS))


EXPERIMENT = Experiment(
    parts=list(EXPERIMENTS),
    run=in_turn(measure),
    done=lambda part: any(RESULTS.glob(f"{part}*")),
    tables={part: partial(table, part) for part in EXPERIMENTS},
    pages={path.stem: path.read_text() for path in sorted(FOLDER.glob("pages/*.md"))},
)
