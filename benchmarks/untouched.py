"""The purifier `cifar10-guided` before classifiers that stay as they are, into docs/results/untouched/.

    python benchmarks/untouched.py [NAME ...]      (by default all that are missing, in order)

First the classifiers that took no part in its training and, to compare, one that did, each alone, behind this
purifier and behind others, on test images that were not looked at when its settings were chosen. Then what
each part of the training is worth, under the name "parts": the recipe shortened, with one thing changed,
before the first classifier at 8/255, all of them under the same attacks. Kept as it goes, in runs/untouched/
and in the results: interrupted, the same command goes on. Needs the shared classifiers (COMDEFEND_SHARED),
and what `comdefend train cifar10-vgg-plain` and `comdefend train cifar10-resnet20-plain` leave. With one
thread half an hour a classifier and more before large ones, an hour for the parts, three where it does not
compute in bfloat16.
"""

import os
import sys
from pathlib import Path

from comdefend import zoo
from comdefend.atomic import write_json
from comdefend.data import ImageSet, load_data
from comdefend.paper.trainings import run_folder
from comdefend.training import Recipe, load_recipe

sys.path.insert(0, str(Path(__file__).parent))
from measure import ROOT, THIRD_PARTY
from withstood import OWN, ROBUST, facts_of, measured, run_missing, trained, withstood, write_once

RESULTS = ROOT / "docs" / "results" / "untouched"
RUNS = Path("runs/untouched")

RECIPE = "cifar10-guided"
PURIFIERS = ("comdefend", "jpeg", f"comdefend:weights={RECIPE}")
IMAGES = 1000
"""For attackers who do not know the purifier."""

JUDGES = {
    "resnet20": THIRD_PARTY,
    "resnet32": THIRD_PARTY.replace("resnet20", "resnet32"),
    "vgg": "runs/cifar10-vgg-plain/weights.safetensors",
    "resnet20-ours": "runs/cifar10-resnet20-plain/weights.safetensors",
    "resnet9-wide": "cifar10-resnet9",
    "resnet9-guide": OWN,
}
"""By name of their results: two that are not ours, three of ours that took no part, and one of the guides."""

CHOSEN_ON = 300
"""So many test images, drawn with seed 0, were purified and classified while the settings were chosen."""

PARTS: dict[str, dict[str, str]] = {
    "whole": {},
    "pixels": {"guides": "[]", "guidance": "0", "matching": "0", "guide_noise": "0"},
    "logits": {"matching": "0"},
    "features": {"guidance": "0"},
    "one-guide": {"guides": f"[{OWN}]"},
    "no-guide-noise": {"guide_noise": "0"},
    "white-noise": {"noise_octaves": "0"},
    "no-noise": {"noise": "0", "noise_octaves": "0"},
}
"""Settings of the purifier that differ."""

ALL_PARTS = "parts"

STEPS = 1000
"""Of such a training."""

EPSILON = 8 / 255
"""At which the parts are attacked."""


def unseen() -> ImageSet:
    """The test images but for those `CHOSEN_ON`. A thousand more were looked at when one of three trainings
    was chosen; none of them is among the `IMAGES` that are drawn of these with seed 0.
    """
    images = load_data("cifar10")
    looked_at = set(images.pick(CHOSEN_ON, seed=0))
    return images.subset([row for row in range(len(images)) if row not in looked_at])


def recipe_of(name: str) -> Recipe:
    """The training of a part; it trains nothing."""
    settings = [f"purifier.{key}={value}" for key, value in PARTS[name].items()]
    return load_recipe(RECIPE, [f"steps={STEPS}", f"interval={STEPS}", *settings])


def measure(name: str) -> None:
    """One classifier, or all parts: every attacker on it."""
    if name == ALL_PARTS:
        measure_parts()
        return
    file, data = RESULTS / f"{name}.json", unseen()
    sources = [source for source in (OWN, ROBUST, THIRD_PARTY) if source != JUDGES[name]]
    found = withstood(JUDGES[name], *PURIFIERS, sources=sources, file=file, data=data, images=IMAGES)
    write_once(file, found)
    _write_facts(name, PURIFIERS[-1], data)


def measure_parts() -> None:
    """All parts at once: who does not know the purifier attacks the bare classifier once for all of them. Who
    knows it leaves nothing of the whole, so that there is nothing to compare.
    """
    purifiers = {name: f"comdefend:weights={trained(recipe_of(name), RUNS / name)}" for name in PARTS}
    data = unseen()
    found = withstood(
        THIRD_PARTY, *purifiers.values(), sources=(OWN, ROBUST), file=RUNS / f"{ALL_PARTS}.json", data=data,
        images=IMAGES, epsilons=[EPSILON], epsilon=None,
    )  # fmt: skip
    for name, purifier in purifiers.items():
        write_once(RESULTS / f"{name}.json", [r for r in found if r.defence in ("none", purifier)])
        _write_facts(name, purifier, data)


def _write_facts(name: str, purifier: str, data: ImageSet) -> None:
    write_json(RESULTS / f"{name}.facts.json", {**facts_of(purifier, data), "made_of": made_of(name)})


def made_of(name: str) -> str:
    """What tells whether a measurement is of what it would be of now: the weights that ship, or the run."""
    return str(run_folder(recipe_of(name), RUNS / name)) if name in PARTS else zoo.facts(RECIPE).sha256


def done(name: str) -> bool:
    """Whether this was measured to its end, with the weights and settings that there are now."""
    names = PARTS if name == ALL_PARTS else [name]
    return all(measured(RESULTS / f"{each}.json", made_of(each)) for each in names)


if __name__ == "__main__":
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    run_missing([*JUDGES, ALL_PARTS], measure, done)
