"""What each part of the robust pair's training is worth, into docs/results/ablations/.

    python benchmarks/ablations.py [NAME ...]      (by default all that are missing, in order)

Each is the recipe `cifar10-robust-resnet9` shortened to one epoch, with one thing changed, attacked as the
points of frontier.py are, at 8/255. Kept as it goes, in runs/ablations/ and in the results: interrupted, the
same command goes on. Needs runs/cifar10-resnet9-robust, runs/cifar10-half-48 and the shared classifiers
(COMDEFEND_SHARED). Half an hour each with one thread.
"""

import json
import os
import sys
from dataclasses import dataclass, field
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
PURIFIERS = RUNS / "purifier"

RECIPE = "cifar10-robust-resnet9"
EPSILON = 8 / 255

STAYS = {"pair.tuned": "false", "pair.fidelity": "0"}


@dataclass(frozen=True)
class Ablation:
    """What differs from the recipe."""

    settings: dict[str, str] = field(default_factory=dict)
    bits: int | None = None
    """The purifier that it starts from is `cifar10-half` with so many bits for a block."""
    trained: bool = True
    """Otherwise the classifier stays what the recipe starts from."""
    noise: float = 0.0
    """Of the code when the pair is used, see `ComDefendPurifier`; nothing else may differ then."""

    def purifier(self) -> Recipe | None:
        """What trains the purifier, where it is not the recipe's."""
        return None if self.bits is None else load_recipe("cifar10-half", [f"purifier.bits={self.bits}"])

    def recipe(self) -> Recipe:
        """What trains the classifier."""
        settings, own = [f"{key}={value}" for key, value in self.settings.items()], self.purifier()
        if own is not None:
            settings.append(f"pair.purifier=comdefend:weights={_weights(own, PURIFIERS)}")
        return load_recipe(RECIPE, ["epochs=1", *settings])

    def judged(self, stem: Path) -> tuple[str, str]:
        """References of its classifier and its purifier, which tell one ablation from another."""
        recipe = self.recipe()
        weights, purifier = _weights(recipe, stem), recipe.pair.purifier
        if recipe.pair.tuned and self.trained:
            purifier = f"comdefend:weights={weights.with_name('purifier.safetensors')}"
        if self.noise:
            purifier += f",noise={self.noise:g}"
        return str(weights) if self.trained else str(recipe.classifier.start), purifier


ABLATIONS = {
    "whole": Ablation(),
    "no-training": Ablation(trained=False),
    "no-purifier": Ablation({**STAYS, "pair.purifier": "none", "pair.attack_modes": "[]"}),
    "purifier-stays": Ablation(STAYS),
    "no-fidelity": Ablation({"pair.fidelity": "0"}),
    "one-step": Ablation({"pair.steps": "1", "pair.step": "1.25"}),
    "wider": Ablation({"pair.mode": "tempered-200", "pair.attack_modes": "[]"}),
    "gray-box": Ablation({"pair.knowledge": "gray-box", "pair.attack_modes": "[]"}),
    "from-clean": Ablation({"classifier.start": "cifar10-resnet9-plain"}),
    "bits-6": Ablation(bits=24),
    "bits-3": Ablation(bits=12),
    "stochastic": Ablation(noise=20),
}


def measure(name: str) -> None:
    """One ablation: trained, and every attacker on it."""
    ablation, stem = ABLATIONS[name], _stem(name)
    given, recipe = ablation.purifier(), ablation.recipe()
    if given is not None:
        trained(given, PURIFIERS)
    if ablation.trained:
        trained(recipe, stem)
    network, purifier = ablation.judged(stem)
    file = RESULTS / f"{name}.json"
    sources = [OWN, ROBUST, THIRD_PARTY]
    write_once(file, withstood(network, purifier, sources=sources, file=file, epsilons=[EPSILON]))
    weights = purifier.removeprefix("comdefend:weights=").partition(",")[0]
    facts = {"seed": 0, **provenance.made()} if purifier == "none" else facts_of(weights)
    judged = {"pair": recipe.to_dict()["pair"], "judged": [network, purifier]}
    write_json(RESULTS / f"{name}.facts.json", {**facts, **judged})


def done(name: str) -> bool:
    """Whether an ablation was measured to its end, with the settings that it has now."""
    file = RESULTS / f"{name}.facts.json"
    return file.is_file() and json.loads(file.read_text())["judged"] == list(
        ABLATIONS[name].judged(_stem(name))
    )


def _stem(name: str) -> Path:
    return RUNS / ("whole" if ABLATIONS[name].noise else name)


def _weights(recipe: Recipe, stem: Path) -> Path:
    return run_folder(recipe, stem) / "weights.safetensors"


if __name__ == "__main__":
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    run_missing(list(ABLATIONS), measure, done)
