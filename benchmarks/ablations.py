"""What each part of the robust pair's training is worth, into docs/results/ablations/.

    python benchmarks/ablations.py [NAME ...]      (by default all that are missing, in order)

Each is the recipe `cifar10-robust-resnet9` shortened to one epoch, with one thing changed, attacked as the
points of frontier.py are. Kept as it goes, in runs/ablations/ and in the results: interrupted, the same
command goes on. Needs runs/cifar10-half, runs/cifar10-half-resnet9 and the shared classifiers
(COMDEFEND_SHARED). Twenty-five minutes each with one thread.
"""

import os
import sys
from pathlib import Path

from comdefend.atomic import write_json
from comdefend.paper.trainings import run_folder
from comdefend.training import Recipe, load_recipe

sys.path.insert(0, str(Path(__file__).parent))
from measure import ROOT, THIRD_PARTY
from withstood import facts_of, trained, withstood, write_once

RESULTS = ROOT / "docs" / "results" / "ablations"
RUNS = Path("runs/ablations")

RECIPE = "cifar10-robust-resnet9"
OWN = "cifar10-resnet9-plain"

ABLATIONS: dict[str, dict[str, str]] = {
    "as-shipped": {},
    "purifier-stays": {"pair.tuned": "false", "pair.fidelity": "0"},
    "no-attack": {"pair.attack": "none"},
    "no-noise": {"pair.noise": "0"},
    "no-fidelity": {"pair.fidelity": "0"},
    "straight-through": {"pair.mode": "straight-through"},
    "bits-1.5": {"purifier.bits": "6"},
    "no-purifier": {"pair.purifier": "none", "pair.tuned": "false", "pair.fidelity": "0"},
}
"""Settings that differ; `purifier.bits` is that of the purifier that training starts from."""


def recipe_of(name: str) -> Recipe:
    settings = dict(ABLATIONS[name])
    bits = settings.pop("purifier.bits", None)
    if bits:
        start = trained(load_recipe("cifar10-half", [f"purifier.bits={bits}"]), RUNS / "start")
        settings["pair.purifier"] = f"comdefend:weights={start}"
    return load_recipe(RECIPE, ["epochs=1", *(f"{key}={value}" for key, value in settings.items())])


def measure(name: str) -> None:
    """One ablation: trained, and every attacker on it."""
    recipe = recipe_of(name)
    weights = trained(recipe, RUNS / name)
    own = weights.with_name("purifier.safetensors")
    purifier = f"comdefend:weights={own}" if own.is_file() else recipe.pair.purifier
    file = RESULTS / f"{name}.json"
    write_once(file, withstood(str(weights), purifier, sources=[OWN, THIRD_PARTY], file=file))
    facts = {} if purifier == "none" else facts_of(Path(purifier.removeprefix("comdefend:weights=")))
    write_json(
        RESULTS / f"{name}.facts.json",
        {**facts, "pair": recipe.to_dict()["pair"], "run": str(run_folder(recipe, RUNS / name))},
    )


def done(name: str) -> bool:
    return (RESULTS / f"{name}.facts.json").is_file()


if __name__ == "__main__":
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    unknown = set(sys.argv[1:]) - set(ABLATIONS)
    if unknown:
        sys.exit(f"there are no ablations {', '.join(sorted(unknown))}; known: {', '.join(ABLATIONS)}")
    for name in sys.argv[1:] or [name for name in ABLATIONS if not done(name)]:
        print(name, file=sys.stderr)
        measure(name)
