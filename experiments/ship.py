"""Put trained weights into the package, with what they reach on the test split.

    python -m experiments.ship runs/cifar10 runs/cifar10-resnet9 ...

Each folder is a finished run of `comdefend train`, which leaves weights in half precision: the scores are
those of what ships.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from comdefend import provenance, purifiers, zoo
from comdefend.attacks import FGSM
from comdefend.classifiers import build_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.device import fast_dtype
from comdefend.evaluation import Result, evaluate, wilson
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.evaluation.worst_case import WORST
from comdefend.model import ComDefend, ComDefendConfig
from comdefend.purifiers import ComDefendPurifier
from comdefend.purifiers.hgd import DUNet, DUNetConfig
from comdefend.purifiers.pixelcnn import PixelCNN, PixelCNNConfig
from comdefend.seeding import drawn_from
from comdefend.zoo import Kind

WEIGHTS = Path(zoo.__file__).parent / "weights"
BATCH = 250
ATTACKED = 300
SAMPLED = 60
EPSILONS = {"cifar10": 8, "fashion-mnist": 25}
"""Budgets in 1/255, whatever a classifier was trained against."""

ATTACKS = ("fgsm", "bim", "mi-fgsm", "pgd")
"""What a classifier that was trained under attack is judged with."""

NETWORKS: dict[Kind, Callable[[dict[str, Any]], nn.Module]] = {
    "purifier": lambda architecture: ComDefend(ComDefendConfig(**architecture)),
    "classifier": lambda architecture: build_classifier(**architecture),
    "pixelcnn": lambda architecture: PixelCNN(PixelCNNConfig(**architecture)),
    "denoiser": lambda architecture: DUNet(DUNetConfig(**architecture)),
}


def score_purifier(network: nn.Module, known: zoo.Facts, data: ImageSet) -> dict[str, Any]:
    """PSNR; of one that was guided by classifiers also what it does for the first of them."""
    assert isinstance(network, ComDefend)
    purifier = ComDefendPurifier(network)
    found = reconstruction(purifier, data)
    scores = {"test_psnr": found.psnr, "interval": found.interval, "images": found.images}
    guides = known.recipe["purifier"]["guides"]
    return {**scores, "sample": before_a_guide(purifier, guides[0], known.data)} if guides else scores


def before_a_guide(purifier: nn.Module, guide: str, data: str) -> dict[str, Any]:
    """How many of a few images of the shipped sample a guide gets right, clean and attacked by whoever does
    not know the purifier, bare and behind it: what a test can count again within a minute. What it does for
    classifiers that took no part is another matter: experiments/guided.
    """
    settings = {"attacks": ["fgsm", "bim"], "limit": SAMPLED, "seed": 0}
    results = evaluate(
        guide, {"guided": purifier}, data=f"sample:{data}", epsilons=EPSILONS[data] / 255,
        protocol="fixed", checks=False, examples=0, **settings,  # type: ignore[arg-type]
    ).results  # fmt: skip
    right: dict[str, dict[str, float]] = {}
    for r in results:
        if r.attack != WORST:
            right.setdefault(r.defence, {})[r.attack] = r.correct
    return {"guide": guide, **settings, "epsilon": f"{EPSILONS[data]}/255 linf", "right": right}


def score_classifier(network: nn.Module, known: zoo.Facts, data: ImageSet) -> dict[str, Any]:
    """Accuracy; of a classifier that saw purified images only, on purified images.

    Of one trained under attack also the worst case per image of a few fixed attacks on some images: a
    whole evaluation is in experiments/robustness.
    """
    purifier = purifiers.load(
        known.purifier, channels=data.channels, data=known.data, dtype=fast_dtype("cpu")
    )

    def logits(images: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = network(purifier(images))
        return found

    scores = _accuracy(logits, data)
    if known.recipe["classifier"]["adversarial"] != "pgd":
        return scores
    (worst,) = _attacked(network, data, known.data, limit=ATTACKED)
    return {
        **scores, "white_box_accuracy": worst.accuracy, "white_box_interval": worst.interval,
        "attacked_images": ATTACKED, "epsilon": f"{EPSILONS[known.data]}/255 linf", "attacks": list(ATTACKS),
        "sample": on_sample(network, known.data),
    }  # fmt: skip


def on_sample(network: nn.Module, data: str) -> dict[str, Any]:
    """How many of a few images of the shipped sample withstand the same attacks: what a test counts again."""
    (worst,) = _attacked(network, f"sample:{data}", data, limit=SAMPLED)
    return {"limit": SAMPLED, "right": worst.correct}


def _attacked(network: nn.Module, data: ImageSet | str, name: str, *, limit: int) -> list[Result]:
    results = evaluate(
        network, {}, data=data, attacks=ATTACKS, epsilons=EPSILONS[name] / 255, protocol="fixed",
        knowledge=["white-box"], checks=False, limit=limit, examples=0,
    ).results  # fmt: skip
    return [r for r in results if r.attack == WORST]


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
    """The weights of a run into the package; `made` says where the scores come from."""
    source = run / "weights.safetensors"
    known = zoo.Facts(**json.loads(source.with_suffix(".json").read_text()))
    data = load_data(known.data, split="test")
    network, facts = zoo.rebuild(str(source), NETWORKS[known.kind], kind=known.kind)
    with drawn_from(0):
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
