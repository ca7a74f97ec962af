"""Put trained weights into the package, with what they reach on the test split.

    python benchmarks/ship.py runs/cifar10 runs/cifar10-resnet9 ...

Each folder is a finished run of `comdefend train`, which leaves weights in half precision: the scores
are those of what ships.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from comdefend import provenance, zoo
from comdefend.attacks import FGSM
from comdefend.classifiers import build_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.device import fast_dtype
from comdefend.evaluation import wilson
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.model import ComDefend, ComDefendConfig
from comdefend.purifiers import ComDefendPurifier, load_purifier
from comdefend.purifiers.hgd import DUNet, DUNetConfig
from comdefend.purifiers.pixelcnn import PixelCNN, PixelCNNConfig
from comdefend.zoo import Kind

WEIGHTS = Path(zoo.__file__).parent / "weights"
BATCH = 250

NETWORKS: dict[Kind, Callable[[dict[str, Any]], nn.Module]] = {
    "purifier": lambda architecture: ComDefend(ComDefendConfig(**architecture)),
    "classifier": lambda architecture: build_classifier(**architecture),
    "pixelcnn": lambda architecture: PixelCNN(PixelCNNConfig(**architecture)),
    "denoiser": lambda architecture: DUNet(DUNetConfig(**architecture)),
}


def score_purifier(network: nn.Module, _: zoo.Facts, data: ImageSet) -> dict[str, Any]:
    assert isinstance(network, ComDefend)
    found = reconstruction(ComDefendPurifier(network), data)
    return {"test_psnr": found.psnr, "interval": found.interval, "images": found.images}


def score_classifier(network: nn.Module, known: zoo.Facts, data: ImageSet) -> dict[str, Any]:
    """Accuracy; of a classifier that saw purified images only, on purified images."""
    reference = known.recipe["classifier"].get("purifier", "none")
    purifier = load_purifier(reference, channels=data.channels, data=known.data, dtype=fast_dtype("cpu"))

    def logits(images: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = network(purifier(images))
        return found

    return _accuracy(logits, data)


def score_pixelcnn(network: nn.Module, _: zoo.Facts, data: ImageSet) -> dict[str, Any]:
    """Bits per dimension on 1,000 images, with the interval of the mean."""
    assert isinstance(network, PixelCNN)
    rows = data.pick(1000, seed=0)
    with torch.no_grad():
        bits = torch.cat([network.bits_per_dimension(data.images(part)) for part in _parts(rows)]).double()
    half = 1.96 * float(bits.std()) / len(bits) ** 0.5
    mean = float(bits.mean())
    return {
        "test_bits_per_dimension": mean,
        "interval": (mean - half, mean + half),
        "images": len(bits),
    }


def score_denoiser(network: nn.Module, known: zoo.Facts, data: ImageSet) -> dict[str, Any]:
    """Accuracy of the classifier that guided it on denoised FGSM images at a fixed 8/255."""
    target = load_classifier(known.recipe["denoiser"]["classifier"])

    def logits(images: Tensor, labels: Tensor) -> Tensor:
        attacked = FGSM()(target, images, labels, epsilon=8 / 255)
        with torch.no_grad():
            found: Tensor = target(network(attacked).clamp(0, 1))
        return found

    return _accuracy(logits, data.subset(data.pick(1000, seed=0)))


SCORES: dict[Kind, Callable[[nn.Module, zoo.Facts, ImageSet], dict[str, Any]]] = {
    "purifier": score_purifier,
    "classifier": score_classifier,
    "pixelcnn": score_pixelcnn,
    "denoiser": score_denoiser,
}


def ship(run: Path, made: dict[str, Any]) -> zoo.Facts:
    """One run's weights into the package; `made` says where the scores come from."""
    source = run / "weights.safetensors"
    known = zoo.Facts(**json.loads((run / "weights.json").read_text()))
    data = load_data(known.data, split="test")
    facts, tensors = zoo.read(str(source), kind=known.kind)
    network = zoo.fill(NETWORKS[known.kind](known.architecture), tensors, name=known.name)
    scores = SCORES[known.kind](network, known, data)
    scores["measured"] = {"seed": 0, **made}
    return zoo.write(network, replace(facts, scores=scores, sha256=""), WEIGHTS / f"{known.name}.safetensors")


def _accuracy(logits: Callable[[Tensor, Tensor], Tensor], data: ImageSet) -> dict[str, Any]:
    correct = 0
    for rows in _parts(list(range(len(data)))):
        labels = data.labels(rows)
        correct += int((logits(data.images(rows), labels).argmax(1) == labels).sum())
    interval = wilson(correct, len(data))
    return {"test_accuracy": correct / len(data), "interval": interval, "images": len(data)}


def _parts(rows: list[int]) -> list[list[int]]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


if __name__ == "__main__":
    made = provenance.made()  # before the first weights change the checkout
    for folder in sys.argv[1:]:
        print(json.dumps(asdict(ship(Path(folder), made))["scores"]))
