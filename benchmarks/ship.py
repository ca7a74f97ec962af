"""Put trained weights into the package, with what they reach on the whole test split.

    python benchmarks/ship.py runs/cifar10 runs/cifar10-resnet9 ...

Each folder is a finished run of `comdefend train`. The weights are stored in half precision; the
scores are measured on what is stored.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from comdefend import provenance, zoo
from comdefend.classifiers import build_classifier, load_classifier
from comdefend.data import load_data
from comdefend.evaluation import wilson
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.model import ComDefend, ComDefendConfig
from comdefend.purifiers import load_comdefend

WEIGHTS = Path(zoo.__file__).parent / "weights"


def ship(run: Path) -> zoo.Facts:
    source = run / "weights.safetensors"
    known = zoo.Facts(**json.loads((run / "weights.json").read_text()))
    data = load_data(known.data, split="test")
    if known.kind == "purifier":
        network: torch.nn.Module = ComDefend(ComDefendConfig(**known.architecture))
        found = reconstruction(load_comdefend(str(source)), data)
        scores: dict[str, object] = {
            "test_psnr": found.psnr,
            "interval": found.interval,
            "images": found.images,
        }
    else:
        network = build_classifier(**known.architecture)
        classifier, correct = load_classifier(str(source)), 0
        for start in range(0, len(data), 250):
            rows = range(start, min(start + 250, len(data)))
            with torch.no_grad():
                correct += int((classifier(data.images(rows)).argmax(1) == data.labels(rows)).sum())
        interval = wilson(correct, len(data))
        scores = {"test_accuracy": correct / len(data), "interval": interval, "images": len(data)}
    facts, tensors = zoo.read(str(source), kind=known.kind)
    zoo.fill(network, tensors, name=known.name)
    scores["measured"] = {"seed": 0, **provenance.made()}
    return zoo.write(network, replace(facts, scores=scores, sha256=""), WEIGHTS / f"{known.name}.safetensors")


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(json.dumps(asdict(ship(Path(folder)))["scores"]))
