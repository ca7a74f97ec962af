"""Rate against robustness, point by point, into docs/results/frontier/NAME.json and .facts.json.

    python benchmarks/frontier.py [NAME ...]      (by default all points, in order)

Each point trains a purifier and a classifier on what it purifies, then judges the purifier before a
classifier that it never met, and both together. Everything is kept as it goes, in runs/frontier/ and in the
results: interrupted, the same command goes on. Needs the shared classifiers (COMDEFEND_SHARED). About forty
minutes a point with one thread; two of these with different points get along.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from comdefend.atomic import write_json
from comdefend.paper.trainings import run_folder
from comdefend.training import Recipe, load_recipe

sys.path.insert(0, str(Path(__file__).parent))
from measure import ROOT, THIRD_PARTY
from withstood import OWN, ROBUST, facts_of, run_missing, trained, withstood, write_once

RESULTS = ROOT / "docs" / "results" / "frontier"
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


def _noise(most: int) -> Point:
    return Point("noise", {"purifier.bits": "12", "purifier.noise": str(most)})


def _guided(weight: float) -> Point:
    """Guides judge whole images, four times as large as the crops."""
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
"""In the order in which they tell most: a frontier that is not finished has its ends first."""


def measure(name: str) -> None:
    """One point: its purifier, its classifier, and every attacker on both."""
    facts_file = RESULTS / f"{name}.facts.json"
    weights = trained(POINTS[name].recipe(), RUNS / name)
    purifier = f"comdefend:weights={weights}"
    tuning = [f"classifier.purifier={purifier}", "epochs=2"]
    classifier = trained(load_recipe("cifar10-resnet9-purified", tuning), RUNS / f"{name}-classifier")
    file = RESULTS / f"{name}.json"
    if facts_file.is_file() and not done(name):
        file.unlink()  # of another purifier: what stood there is no point of the frontier any more
    write_once(
        file,
        [
            *withstood(THIRD_PARTY, purifier, sources=[OWN, ROBUST], file=file),
            *withstood(str(classifier), purifier, sources=[OWN, ROBUST, THIRD_PARTY], file=file),
        ],
    )
    write_json(facts_file, {"dial": POINTS[name].dial, **facts_of(purifier)})


def done(name: str) -> bool:
    """Whether a point was measured to its end, with the settings that it has now."""
    file = RESULTS / f"{name}.facts.json"
    folder = run_folder(POINTS[name].recipe(), RUNS / name)
    return file.is_file() and f"{folder}/" in json.loads(file.read_text())["reference"]


if __name__ == "__main__":
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    run_missing(list(POINTS), measure, done)
