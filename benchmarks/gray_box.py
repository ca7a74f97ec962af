"""Training against the attacker who does not know the purifier, into docs/results/gray-box/.

    python benchmarks/gray_box.py [NAME ...]      (by default all that are missing, in order)

For each data set the pair that was trained so and, to compare, what its classifier was before, behind the
same purifier, and the pair that ships: attacks of a gray-box attacker on the classifier, PGD on other
networks, and PGD through the purifier. Trained in runs/gray-box/ and kept as it goes: interrupted, the same
command goes on. Needs the shared classifiers (COMDEFEND_SHARED). With one thread half an hour for a training
and a quarter of an hour for what is judged.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comdefend import provenance, zoo
from comdefend.atomic import write_json
from comdefend.paper.trainings import run_folder
from comdefend.training import load_recipe

sys.path.insert(0, str(Path(__file__).parent))
from measure import ROOT, THIRD_PARTY
from withstood import ROBUST, measured, run_missing, trained, weights_mark, withstood, write_once

RESULTS = ROOT / "docs" / "results" / "gray-box"
RUNS = Path("runs/gray-box")
IMAGES = 1000
"""For attackers who do not know the purifier."""


@dataclass(frozen=True)
class Pair:
    """A classifier, by the name of its weights or of its recipe, behind a purifier; `epsilon` is in units of
    1/255, and `others` are networks that the attacker may have besides: none that took part in the training
    against this attacker.
    """

    data: str
    classifier: str
    purifier: str
    epsilon: int
    others: tuple[str, ...]


CIFAR10 = ("cifar10-resnet9", THIRD_PARTY, ROBUST)
FASHION_MNIST = ("fashion-mnist-resnet9", "fashion-mnist-resnet9-bim")


def _pairs(data: str, purifier: str, epsilon: int, others: tuple[str, ...]) -> dict[str, Pair]:
    return {
        data: Pair(data, f"{data}-resnet9-gray-box", purifier, epsilon, others),
        f"{data}-start": Pair(data, f"{data}-resnet9-plain", purifier, epsilon, others),
        f"{data}-robust": Pair(data, f"{data}-robust-resnet9", f"{data}-robust", epsilon, others),
    }


PAIRS = {
    **_pairs("cifar10", "cifar10-guided", 8, CIFAR10),
    **_pairs("fashion-mnist", "fashion-mnist-robust", 25, FASHION_MNIST),
}


def measure(name: str) -> None:
    """One pair: its classifier trained where it does not ship, and every attacker on both."""
    pair, file, facts_file = PAIRS[name], RESULTS / f"{name}.json", RESULTS / f"{name}.facts.json"
    network = pair.classifier if ships(pair) else str(trained(load_recipe(pair.classifier), stem_of(pair)))
    budget = pair.epsilon / 255
    results = withstood(
        network, f"comdefend:weights={pair.purifier}", sources=pair.others, file=file, data=pair.data,
        images=IMAGES, epsilons=[budget], epsilon=budget,
    )  # fmt: skip
    write_once(file, results)
    write_json(facts_file, {"made_of": made_of(pair), "seed": 0, **provenance.made()})


def ships(pair: Pair) -> bool:
    return pair.classifier in zoo.names("classifier")


def stem_of(pair: Pair) -> Path:
    """Where a classifier is trained that does not ship: another place when the weights are others that it
    goes on from, or stands behind.
    """
    start = load_recipe(pair.classifier).classifier.start
    assert start is not None
    return RUNS / f"{pair.classifier}-{weights_mark(start, pair.purifier)}"


def made_of(pair: Pair) -> dict[str, Any]:
    """What tells whether a measurement is of what it would be of now: the weights that ship, or the run, and
    who attacks.
    """
    own = zoo.facts(pair.classifier).sha256 if ships(pair) else _run(pair)
    others = [zoo.facts(other).sha256 for other in pair.others if other in zoo.names("classifier")]
    return {
        "classifier": own, "purifier": zoo.facts(pair.purifier).sha256, "others": [*pair.others, *others],
        "epsilon": pair.epsilon, "images": IMAGES,
    }  # fmt: skip


def _run(pair: Pair) -> str:
    return str(run_folder(load_recipe(pair.classifier), stem_of(pair)))


def done(name: str) -> bool:
    """Whether a pair was measured to its end, with the weights and settings that there are now."""
    return measured(RESULTS / f"{name}.json", made_of(PAIRS[name]))


if __name__ == "__main__":
    os.chdir(ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    run_missing(list(PAIRS), measure, done)
