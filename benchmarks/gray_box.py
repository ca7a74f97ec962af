"""Training against the attacker who does not know the purifier, into docs/results/gray-box/.

    python benchmarks/gray_box.py [NAME ...]      (by default all that are missing, in order)

For each data set the pair that was trained so and, to compare, the one that ships: attacks of a gray-box
attacker on the classifier, the same attacks on other networks, and PGD through the purifier. Trained in
runs/gray-box/ and kept as it goes: interrupted, the same command goes on. Needs the shared classifiers
(COMDEFEND_SHARED). With one thread half an hour for a training and a quarter of an hour for what is judged.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from comdefend import zoo
from comdefend.atomic import write_json
from comdefend.paper.trainings import run_folder
from comdefend.training import load_recipe

sys.path.insert(0, str(Path(__file__).parent))
from measure import ROOT, THIRD_PARTY
from withstood import OWN, ROBUST, run_missing, trained, withstood, write_once

RESULTS = ROOT / "docs" / "results" / "gray-box"
RUNS = Path("runs/gray-box")
IMAGES = 1000
"""For attackers who do not know the purifier."""


@dataclass(frozen=True)
class Pair:
    """A classifier, by the name of its weights or of its recipe, behind a purifier; `epsilon` is in units of
    1/255, and `others` are networks that the attacker may have besides.
    """

    data: str
    classifier: str
    purifier: str
    epsilon: int
    others: tuple[str, ...]

    @property
    def reference(self) -> str:
        return f"comdefend:weights={self.purifier}"


CIFAR10 = (OWN, "cifar10-resnet9", THIRD_PARTY, ROBUST)
FASHION_MNIST = ("fashion-mnist-resnet9-plain", "fashion-mnist-resnet9", "fashion-mnist-resnet9-bim")

PAIRS = {
    "cifar10": Pair("cifar10", "cifar10-resnet9-gray-box", "cifar10-guided", 8, CIFAR10),
    "fashion-mnist": Pair(
        "fashion-mnist", "fashion-mnist-resnet9-gray-box", "fashion-mnist-robust", 25, FASHION_MNIST
    ),
    "cifar10-robust": Pair("cifar10", "cifar10-robust-resnet9", "cifar10-robust", 8, CIFAR10),
    "fashion-mnist-robust": Pair(
        "fashion-mnist", "fashion-mnist-robust-resnet9", "fashion-mnist-robust", 25, FASHION_MNIST
    ),
}


def measure(name: str) -> None:
    """One pair: its classifier trained where it does not ship, and every attacker on both."""
    pair, file = PAIRS[name], RESULTS / f"{name}.json"
    network = pair.classifier
    if network not in zoo.names("classifier"):
        network = str(trained(load_recipe(network), RUNS / network))
    budget = pair.epsilon / 255
    results = withstood(
        network, pair.reference, sources=pair.others, file=file, data=pair.data, images=IMAGES,
        epsilons=[budget], epsilon=budget,
    )  # fmt: skip
    write_once(file, results)
    write_json(RESULTS / f"{name}.facts.json", {"made_of": made_of(pair)})


def made_of(pair: Pair) -> list[str]:
    """What tells whether a measurement is of what it would be of now: the weights that ship, or the run."""
    network, ships = pair.classifier, pair.classifier in zoo.names("classifier")
    made = zoo.facts(network).sha256 if ships else str(run_folder(load_recipe(network), RUNS / network))
    return [made, zoo.facts(pair.purifier).sha256]


def done(name: str) -> bool:
    """Whether a pair was measured to its end, with the weights and settings that there are now."""
    file = RESULTS / f"{name}.facts.json"
    return file.is_file() and json.loads(file.read_text())["made_of"] == made_of(PAIRS[name])


if __name__ == "__main__":
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    run_missing(list(PAIRS), measure, done)
