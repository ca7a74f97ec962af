"""Rate against robustness, point by point.

Each point trains a purifier and a classifier on what it purifies, then judges the purifier before a
classifier that it never met, and both together. Trainings are kept in runs/frontier/. Needs the shared
classifiers (COMDEFEND_SHARED). About forty minutes a point with one thread; two points can run side by side.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from comdefend.paper.trainings import run_folder
from comdefend.training import Recipe, load_recipe
from experiments.attackers import (
    OWN,
    ROBUST,
    attack_with_all,
    facts_of,
    read_facts,
    trained,
    write_complete,
)
from experiments.experiment import Experiment, in_turn
from experiments.frontier.tables import draw, table
from experiments.resources import THIRD_PARTY

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/frontier")

BASE = {
    "purifier.block": "2", "purifier.com_widths": "[64,64,64,64]", "purifier.rec_widths": "[64,64,64,64]",
    "purifier.noise": "8", "weight_decay": "0.3", "steps": "1500", "interval": "500",
}  # fmt: skip
"""Of the recipe `cifar10`: half the resolution, a 25th of the arithmetic."""


@dataclass(frozen=True)
class Point:
    """One purifier: what turns the dial, and the settings that differ from `BASE`."""

    dial: Literal["rate", "noise", "loss"]
    settings: dict[str, str] = field(default_factory=dict)

    def recipe(self) -> Recipe:
        chosen = {**BASE, **self.settings}
        return load_recipe("cifar10", [f"{key}={value}" for key, value in chosen.items()])


def _rate(bits: int) -> Point:
    return Point("rate", {"purifier.bits": str(bits)})


def _noise(amplitude: int) -> Point:
    return Point("noise", {"purifier.bits": "12", "purifier.noise": str(amplitude)})


def _guided(weight: float) -> Point:
    """Teacher classifiers judge whole images, four times as large as the crops."""
    return Point(
        "loss",
        {
            "purifier.bits": "12", "purifier.guides": "[cifar10-resnet9-plain]", "crop": "null",
            "purifier.guidance": str(weight), "steps": "500",
        },
    )  # fmt: skip


POINTS: dict[str, Point] = {
    "bits-3": _rate(12),
    "bits-1.5": _rate(6),
    "noise-24": _noise(24),
    "guided": _guided(0.01),
    "bits-12": _rate(48),
    "bits-0.5": _rate(2),
    "noise-0": _noise(0),
    "bits-6": _rate(24),
    "bits-1": _rate(4),
    "noise-16": _noise(16),
}
"""In the order of their runs: a frontier that is not finished has its ends first."""


def measure(name: str) -> None:
    """One point: its purifier, its classifier, and every attacker on both."""
    weights = trained(POINTS[name].recipe(), RUNS / name)
    purifier = f"comdefend:weights={weights}"
    tuning = [f"classifier.purifier={purifier}", "epochs=2"]
    classifier = trained(load_recipe("cifar10-resnet9-purified", tuning), RUNS / f"{name}-classifier")
    file = RESULTS / f"{name}.json"
    if read_facts(file) and not done(name):
        file.unlink()  # of a purifier with other settings
    results = [
        *attack_with_all(THIRD_PARTY, purifier, sources=[OWN, ROBUST], file=file),
        *attack_with_all(str(classifier), purifier, sources=[OWN, ROBUST, THIRD_PARTY], file=file),
    ]
    write_complete(file, results, {"dial": POINTS[name].dial, **facts_of(purifier)})


def done(name: str) -> bool:
    """Whether a point is complete, with the settings that it has now."""
    facts = read_facts(RESULTS / f"{name}.json")
    return facts is not None and f"{run_folder(POINTS[name].recipe(), RUNS / name)}/" in facts["reference"]


EXPERIMENT = Experiment(
    parts=list(POINTS),
    run=in_turn(measure),
    done=done,
    tables={"points": lambda: table(RESULTS)},
    draw=lambda: draw(RESULTS),
)
