"""What each part of the robust pair's training is worth, into docs/results/ablations/.

    python benchmarks/ablations.py [NAME ...]      (by default all that are missing, in order)

Each goes on from the pair that ships, by its recipe `cifar10-robust-resnet9` shortened to half an epoch, with
one thing changed there or in its purifier's own training. It is attacked as the points of frontier.py are, at
8/255 alone. Kept as it goes, in runs/ablations/ and in the results: interrupted, the same command goes on.
Needs the shared classifiers (COMDEFEND_SHARED). Ten minutes each with one thread that computes in bfloat16,
three times that with others, more where the code has noise.
"""

import os
import sys
from pathlib import Path
from typing import Any

from comdefend import provenance
from comdefend.atomic import write_json
from comdefend.paper.trainings import run_folder
from comdefend.training import Recipe, load_recipe
from comdefend.training.base import WEIGHTS

sys.path.insert(0, str(Path(__file__).parent))
from measure import ROOT, THIRD_PARTY
from withstood import (
    OWN,
    ROBUST,
    facts_of,
    measured,
    run_missing,
    trained,
    weights_mark,
    withstood,
    write_once,
)

RESULTS = ROOT / "docs" / "results" / "ablations"
RUNS = Path("runs/ablations")

RECIPE = "cifar10-robust-resnet9"
PURIFIER = "cifar10-robust"

SHORTENED = (
    f"classifier.start={RECIPE}",
    f"pair.purifier=comdefend:weights={PURIFIER}",
    "steps=100",
    "interval=100",
    "pair.average=0.992",  # over as large a part of the training
)
"""What every ablation has: weights that ship, so that it takes no hours of adversarial training before."""

EPSILON = 8 / 255
SOURCES = (OWN, ROBUST, THIRD_PARTY)

ABLATIONS: dict[str, dict[str, str]] = {
    "whole": {},
    "no-purifier": {"pair.purifier": "none", "pair.attack_modes": "[]"},
    "one-cut": {"purifier.cuts": "1", "purifier.spread": "0"},
    "fewer-cuts": {"purifier.cuts": "15"},
    "noise": {"purifier.code_noise": "80"},
    "noise-for-cuts": {"purifier.cuts": "1", "purifier.spread": "0", "purifier.code_noise": "80"},
    "not-settled": {"purifier.settling": "0", "purifier.settling_temperature": "0"},
    "compressor-stays": {"purifier.settling_temperature": "0"},
    "tuned": {"pair.tuned": "true", "pair.fidelity": "30"},
    "no-attack": {"pair.attack": "none", "pair.attack_modes": "[]"},
    "gray-box": {"pair.knowledge": "gray-box", "pair.attack_modes": "[]"},
    "straight-through": {"pair.mode": "straight-through", "pair.attack_modes": "[]"},
    "half-bits": {"purifier.bits": "6"},
    "larger-budget": {"pair.epsilon": "10.5"},
    "one-step": {"pair.steps": "1", "pair.step": "1.25"},
    "no-teacher": {"pair.mean_teacher": "0"},
    "trades": {"pair.trades": "5", "pair.mean_teacher": "0"},
}  # fmt: skip
"""Settings that differ, of the pair's training and of its purifier's."""


def runs() -> Path:
    """Where all is trained: another place when the weights that ship are others."""
    return RUNS / weights_mark(RECIPE, PURIFIER)


def purifier_of(name: str) -> Recipe | None:
    """The training of an ablation's purifier, where it is another."""
    settings = _of(name, "purifier.")
    return load_recipe(PURIFIER, settings) if settings else None


def recipe_of(name: str) -> Recipe:
    """The training of an ablation; it trains nothing."""
    settings = [*SHORTENED, *_of(name, "pair.")]
    own = purifier_of(name)
    if own is not None:
        weights = f"{run_folder(own, runs() / 'purifier') / WEIGHTS}.safetensors"
        settings.append(f"pair.purifier=comdefend:weights={weights}")
    return load_recipe(RECIPE, settings)


def _of(name: str, group: str) -> list[str]:
    return [f"{key}={value}" for key, value in ABLATIONS[name].items() if key.startswith(group)]


def measure(name: str) -> None:
    """One ablation: trained, and every attacker on it."""
    own = purifier_of(name)
    if own is not None:
        trained(own, runs() / "purifier")
    recipe = recipe_of(name)
    weights = trained(recipe, runs() / name)
    tuned = weights.with_name("purifier.safetensors")
    purifier = f"comdefend:weights={tuned}" if tuned.is_file() else recipe.pair.purifier
    file = RESULTS / f"{name}.json"
    behind = [] if purifier == "none" else [purifier]
    results = withstood(
        str(weights), *behind, sources=SOURCES, file=file, epsilons=[EPSILON], epsilon=EPSILON
    )
    write_once(file, results)
    facts = {"seed": 0, **provenance.made()} if purifier == "none" else facts_of(purifier)
    whole = {**facts, "pair": recipe.to_dict()["pair"], "made_of": made_of(name)}
    write_json(RESULTS / f"{name}.facts.json", whole)


def made_of(name: str) -> dict[str, Any]:
    """What tells whether a measurement is of what it would be of now: the run, whose place names the weights
    that ship, and who attacks.
    """
    run = str(run_folder(recipe_of(name), runs() / name))
    return {"run": run, "sources": list(SOURCES), "epsilon": EPSILON}


def done(name: str) -> bool:
    """Whether an ablation was measured to its end, with the weights and settings that there are now."""
    return measured(RESULTS / f"{name}.json", made_of(name))


if __name__ == "__main__":
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    run_missing(list(ABLATIONS), measure, done)
