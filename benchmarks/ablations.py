"""What each part of the robust pair's training is worth, into docs/results/ablations/.

    python benchmarks/ablations.py [NAME ...]      (by default all that are missing, in order)

Each is the recipe `cifar10-robust-first` shortened to one epoch, with one thing changed, attacked as the
points of frontier.py are. Kept as it goes, in runs/ablations/ and in the results: interrupted, the same
command goes on. Needs runs/cifar10-half, runs/cifar10-half-resnet9 and the shared classifiers
(COMDEFEND_SHARED). Twenty-five minutes each with one thread.
"""

import json
import os
import sys
from pathlib import Path

from comdefend import provenance
from comdefend.atomic import write_json
from comdefend.paper.trainings import run_folder
from comdefend.training import Recipe, load_recipe

sys.path.insert(0, str(Path(__file__).parent))
from measure import ROOT, THIRD_PARTY
from withstood import OWN, ROBUST, facts_of, run_missing, trained, withstood, write_once

RESULTS = ROOT / "docs" / "results" / "ablations"
RUNS = Path("runs/ablations")

RECIPE = "cifar10-robust-first"

ABLATIONS: dict[str, dict[str, str]] = {
    "whole": {},
    "no-purifier": {
        "pair.purifier": "none", "pair.tuned": "false", "pair.fidelity": "0",
        "classifier.start": "cifar10-resnet9-plain",
    },
    "purifier-stays": {"pair.tuned": "false", "pair.fidelity": "0"},
    "no-attack": {"pair.attack": "none"},
    "gray-box": {"pair.knowledge": "gray-box"},
    "gray-box-random": {
        "pair.knowledge": "gray-box", "pair.goal": "random",
        "pair.sources": "[cifar10-resnet9-plain,cifar10-resnet9-smooth]",
    },
    "half-attacked": {"pair.share": "0.5"},
    "no-fidelity": {"pair.fidelity": "0"},
    "straight-through": {"pair.mode": "straight-through"},
    "bits-1.5": {"purifier.bits": "6"},
}  # fmt: skip
"""Settings that differ; `purifier.bits` is that of the purifier and the classifier that it starts from."""


def starts(name: str) -> list[tuple[Recipe, Path]]:
    """The trainings that an ablation starts from where it is not the recipe's: purifier, then classifier."""
    bits = ABLATIONS[name].get("purifier.bits")
    if bits is None:
        return []
    purifier = load_recipe("cifar10-half", [f"purifier.bits={bits}"])
    reference = f"comdefend:weights={_weights(purifier, RUNS / 'start')}"
    behind = load_recipe("cifar10-half-resnet9", [f"classifier.purifier={reference}"])
    return [(purifier, RUNS / "start"), (behind, RUNS / "start-classifier")]


def recipe_of(name: str) -> Recipe:
    """The training of an ablation; it trains nothing."""
    settings = [f"{key}={value}" for key, value in ABLATIONS[name].items() if key != "purifier.bits"]
    begun = [_weights(recipe, stem) for recipe, stem in starts(name)]
    if begun:
        settings += [f"pair.purifier=comdefend:weights={begun[0]}", f"classifier.start={begun[1]}"]
    return load_recipe(RECIPE, ["epochs=1", *settings])


def measure(name: str) -> None:
    """One ablation: trained, and every attacker on it."""
    for recipe, stem in starts(name):
        trained(recipe, stem)
    recipe = recipe_of(name)
    weights = trained(recipe, RUNS / name)
    own = weights.with_name("purifier.safetensors")
    purifier = f"comdefend:weights={own}" if own.is_file() else recipe.pair.purifier
    file = RESULTS / f"{name}.json"
    write_once(file, withstood(str(weights), purifier, sources=[OWN, ROBUST, THIRD_PARTY], file=file))
    facts = (
        {"seed": 0, **provenance.made()}
        if purifier == "none"
        else facts_of(Path(purifier.removeprefix("comdefend:weights=")))
    )
    run = {"pair": recipe.to_dict()["pair"], "run": str(run_folder(recipe, RUNS / name))}
    write_json(RESULTS / f"{name}.facts.json", {**facts, **run})


def done(name: str) -> bool:
    """Whether an ablation was measured to its end, with the settings that it has now."""
    file = RESULTS / f"{name}.facts.json"
    return file.is_file() and json.loads(file.read_text())["run"] == str(
        run_folder(recipe_of(name), RUNS / name)
    )


def _weights(recipe: Recipe, stem: Path) -> Path:
    return run_folder(recipe, stem) / "weights.safetensors"


if __name__ == "__main__":
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    run_missing(list(ABLATIONS), measure, done)
