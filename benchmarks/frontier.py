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
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from comdefend import provenance, zoo
from comdefend.atomic import write_json
from comdefend.data import load_data
from comdefend.evaluation import Result, evaluate, read_results, write_results
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.paper.trainings import run_folder, weights_in
from comdefend.purifiers import load_comdefend
from comdefend.training import Recipe, load_recipe

sys.path.insert(0, str(Path(__file__).parent))
from measure import ROOT, THIRD_PARTY

RESULTS = ROOT / "docs" / "results" / "frontier"
RUNS = Path("runs/frontier")

IMAGES, FEW_IMAGES = 300, 100
"""For attackers who do not know the purifier, and for those who do (and for fifty steps)."""

EPSILONS = tuple(e / 255 for e in (2, 4, 8, 16))

OWN = "cifar10-resnet9-plain"
"""The classifier that is trained on with purified images; adversarial images of it are tried on the other."""

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


def trained(recipe: Recipe, stem: str) -> Path:
    """Weights of a recipe: there already, gone on with, or trained now."""
    return weights_in(run_folder(recipe, RUNS / stem), recipe, device="cpu")


def measure(name: str) -> None:
    """One point: its purifier, its classifier, and every attacker on both."""
    facts_file = RESULTS / f"{name}.facts.json"
    weights = trained(POINTS[name].recipe(), name)
    purifier = f"comdefend:weights={weights}"
    tuning = [f"classifier.purifier={purifier}", "epochs=2"]
    classifier = trained(load_recipe("cifar10-resnet9-purified", tuning), f"{name}-classifier")
    file = RESULTS / f"{name}.json"
    if facts_file.is_file() and not done(name):
        facts_file.unlink()  # of another purifier: what stood there is no point of the frontier any more
        file.unlink()
    made: list[Result] = []
    for network, sources in ((THIRD_PARTY, [OWN]), (str(classifier), [OWN, THIRD_PARTY])):
        judged = partial(
            evaluate, network, purifier, data="cifar10", protocols=["fixed"], examples=0, checks=False,
            known=_kept(file), keep=partial(_keep, file), progress=_tell,
        )  # fmt: skip
        for report in (
            judged(
                attacks=["fgsm", "bim", "pgd", "mi-fgsm"], epsilons=EPSILONS, sources=sources, limit=IMAGES
            ),
            judged(attacks=["bim:steps=50,step=0.04"], epsilons=EPSILONS, limit=FEW_IMAGES),
            judged(attacks=["pgd"], epsilons=[8 / 255], knowledge=["white-box"], limit=FEW_IMAGES),
        ):
            made += report.results
    # Each once, and nothing of what earlier settings gave.
    write_results(file, list({r.fingerprint: r for r in made if r.fingerprint}.values()))
    images = load_data("cifar10")
    images = images.subset(images.pick(IMAGES, seed=0))
    psnr = reconstruction(load_comdefend(str(weights)), images)
    facts, _ = zoo.read(str(weights), kind="purifier")
    write_json(
        facts_file,
        {
            "reference": purifier, "dial": POINTS[name].dial, "architecture": facts.architecture,
            "recipe": facts.recipe,
            "psnr": psnr.psnr, "interval": psnr.interval, "images": psnr.images, "seed": 0,
            **provenance.made(),
        },
    )  # fmt: skip


def done(name: str) -> bool:
    """Whether a point was measured to its end, with the settings that it has now."""
    file = RESULTS / f"{name}.facts.json"
    folder = run_folder(POINTS[name].recipe(), RUNS / name)
    return file.is_file() and f"{folder}/" in json.loads(file.read_text())["reference"]


def _kept(file: Path) -> list[Result]:
    return read_results(file) if file.is_file() else []


def _keep(file: Path, results: Sequence[Result]) -> None:
    """Into the file, beside what it holds of other situations."""
    prints = {result.fingerprint for result in results}
    write_results(file, [*results, *(r for r in _kept(file) if r.fingerprint not in prints)])


def _tell(done: int, total: int, text: str) -> None:
    if text != "done" and done % 5 == 0:
        print(f"  {done}/{total} {text}", file=sys.stderr)


if __name__ == "__main__":
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    unknown = set(sys.argv[1:]) - set(POINTS)
    if unknown:
        sys.exit(f"there are no points {', '.join(sorted(unknown))}; known: {', '.join(POINTS)}")
    for name in sys.argv[1:] or [name for name in POINTS if not done(name)]:
        print(name, file=sys.stderr)
        measure(name)
