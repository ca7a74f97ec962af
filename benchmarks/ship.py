"""Put trained weights into the package, with what they reach on the test split.

    python benchmarks/ship.py runs/cifar10 runs/cifar10-resnet9 ...
    python benchmarks/ship.py --facts-only runs/cifar10-resnet9-adversarial-averaged ...

With --facts-only what they reach goes into docs/results/alone/, and the weights stay where they are. Each
folder is a finished run of `comdefend train`, which leaves weights in half precision: the scores are those of
what ships. Where classifier and purifier were trained together, both ship; a classifier that was trained
behind a purifier which stayed as it was is judged behind the one of its name that has shipped, so that one
comes first.
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
from comdefend.atomic import write_json
from comdefend.attacks import FGSM
from comdefend.classifiers import build_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.device import fast_dtype
from comdefend.evaluation import evaluate, wilson
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.evaluation.worst_case import WORST
from comdefend.model import ComDefend, ComDefendConfig
from comdefend.purifiers import ComDefendPurifier, is_random, load_purifier
from comdefend.purifiers.hgd import DUNet, DUNetConfig
from comdefend.purifiers.pixelcnn import PixelCNN, PixelCNNConfig
from comdefend.seeding import drawn_from
from comdefend.zoo import Kind

sys.path.insert(0, str(Path(__file__).parent))
from measure import DRAWS, RESULTS, THIRD_PARTY

WEIGHTS = Path(zoo.__file__).parent / "weights"
ALONE = RESULTS / "alone"
PURIFIER = "purifier.safetensors"
BATCH = 250
ATTACKED = 300
SAMPLED, SAMPLED_IF_RANDOM = 60, 20
EPSILONS = {"cifar10": 8, "fashion-mnist": 25}
"""What a pair is judged at, in 1/255, whatever it was trained against."""

ATTACKS = ("fgsm", "bim", "mi-fgsm", "pgd")
SOURCES = {
    "cifar10": ["cifar10-resnet9-plain", "cifar10-resnet9-bim", THIRD_PARTY],
    "fashion-mnist": ["fashion-mnist-resnet9-plain", "fashion-mnist-resnet9-bim"],
}
"""What a pair is attacked with, and by data the other classifiers that PGD is run on: who trains against
attacks on a classifier may have taught it to mislead just these.
"""

NETWORKS: dict[Kind, Callable[[dict[str, Any]], nn.Module]] = {
    "purifier": lambda architecture: ComDefend(ComDefendConfig(**architecture)),
    "classifier": lambda architecture: build_classifier(**architecture),
    "pixelcnn": lambda architecture: PixelCNN(PixelCNNConfig(**architecture)),
    "denoiser": lambda architecture: DUNet(DUNetConfig(**architecture)),
}


def score_purifier(network: nn.Module, known: zoo.Facts, data: ImageSet, _: Path) -> dict[str, Any]:
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
    classifiers that took no part is another matter: benchmarks/untouched.py.
    """
    settings = {"attacks": ["fgsm", "bim"], "limit": SAMPLED, "seed": 0}
    results = evaluate(
        guide, {"guided": purifier}, data=f"sample:{data}", epsilons=EPSILONS[data] / 255,
        protocols=["fixed"], checks=False, examples=0, **settings,  # type: ignore[arg-type]
    ).results  # fmt: skip
    right: dict[str, dict[str, float]] = {}
    for r in results:
        if r.attack != WORST:
            right.setdefault(r.defence, {})[r.attack] = r.correct
    return {"guide": guide, **settings, "epsilon": f"{EPSILONS[data]}/255 linf", "right": right}


def score_classifier(network: nn.Module, known: zoo.Facts, data: ImageSet, run: Path) -> dict[str, Any]:
    """Accuracy; of a classifier that saw purified images only, on purified images. Of one trained behind a
    purifier under attack also what it withstands, image by image, on a part of the images, before an attacker
    who does not know the purifier and before one who does, in the gradient mode that breaks most
    of a hundred images and the one that adds most to it: a whole evaluation is benchmarks/robustness.py.
    """
    paired, reference = known.recipe.get("trains") == "pair", known.purifier
    if (run / PURIFIER).is_file():
        reference = f"comdefend:weights={run / PURIFIER}"
    elif paired and reference != "none":  # as it ships, whatever noise training had
        reference = f"comdefend:weights={known.name.rpartition('-')[0]}"
    purifier = load_purifier(reference, channels=data.channels, data=known.data, dtype=fast_dtype("cpu"))

    def logits(images: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = network(purifier(images))
        return found

    scores = _accuracy(logits, data)
    if not paired:
        return scores
    epsilon = EPSILONS[known.data]
    name = "none" if reference == "none" else "pair"
    random = is_random(purifier)
    sources = SOURCES.get(known.data, [])
    results = evaluate(
        network, {"pair": purifier} if name == "pair" else {}, data=data, attacks=ATTACKS,
        epsilons=epsilon / 255, protocols=["fixed"], knowledge=["gray-box", "white-box"], sources=sources,
        checks=False, limit=ATTACKED, draws=DRAWS, examples=0,
    ).results  # fmt: skip
    modes = {  # what is made on the surrogate and tried on the pair has none
        r.mode: None for r in results
        if r.knowledge == "white-box" and (r.attack, r.defence, r.n) == ("pgd", name, ATTACKED) and r.mode
    }  # fmt: skip
    worst = {
        r.knowledge.replace("-", "_"): r
        for r in results if r.defence == name and r.attack == WORST and r.knowledge
    }  # fmt: skip
    return {
        **scores,
        **{f"{level}_accuracy": found.accuracy for level, found in worst.items()},
        **{f"{level}_interval": found.interval for level, found in worst.items()},
        "attacked_images": ATTACKED, "epsilon": f"{epsilon}/255 linf", "attacks": list(ATTACKS),
        "modes": list(modes), "draws": DRAWS if random else 1, "sources": sources,
        "dtype": fast_dtype("cpu"),
        "sample": on_sample(network, load_purifier(reference), known.data, epsilon, list(modes)),
    }  # fmt: skip


def on_sample(
    network: nn.Module, purifier: nn.Module, data: str, epsilon: int, modes: list[str]
) -> dict[str, Any]:
    """How many of a few images of the shipped sample a pair gets right, clean and under PGD, computed in
    float32: what a test can count again within a minute.
    """
    limit = SAMPLED_IF_RANDOM if is_random(purifier) else SAMPLED
    settings = {"attacks": ["pgd"], "modes": modes, "limit": limit, "draws": DRAWS, "seed": 0}
    results = evaluate(
        network, {"pair": purifier}, data=f"sample:{data}", epsilons=epsilon / 255, protocols=["fixed"],
        knowledge=["gray-box", "white-box"], checks=False, examples=0, **settings,  # type: ignore[arg-type]
    ).results  # fmt: skip
    own = [r for r in results if r.defence == "pair"]
    right = {r.knowledge or "clean": r.correct for r in own if r.attack in ("none", WORST)}
    return {**settings, "right": right}


def score_pixelcnn(network: nn.Module, _: zoo.Facts, data: ImageSet, __: Path) -> dict[str, Any]:
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


def score_denoiser(network: nn.Module, known: zoo.Facts, data: ImageSet, _: Path) -> dict[str, Any]:
    """Accuracy of the classifier that guided it on denoised FGSM images at a fixed 8/255."""
    target = load_classifier(known.recipe["denoiser"]["classifier"])

    def logits(images: Tensor, labels: Tensor) -> Tensor:
        attacked = FGSM()(target, images, labels, epsilon=8 / 255)
        with torch.no_grad():
            found: Tensor = target(network(attacked).clamp(0, 1))
        return found

    return _accuracy(logits, data.subset(data.pick(1000, seed=0)))


SCORES: dict[Kind, Callable[[nn.Module, zoo.Facts, ImageSet, Path], dict[str, Any]]] = {
    "purifier": score_purifier,
    "classifier": score_classifier,
    "pixelcnn": score_pixelcnn,
    "denoiser": score_denoiser,
}


def ship(run: Path, file: str, made: dict[str, Any], *, facts_only: bool = False) -> zoo.Facts:
    """One file of a run into the package; `made` says where the scores come from."""
    source = run / file
    known = zoo.Facts(**json.loads(source.with_suffix(".json").read_text()))
    data = load_data(known.data, split="test")
    network, facts = zoo.rebuild(str(source), NETWORKS[known.kind], kind=known.kind)
    with drawn_from(0):
        scores = SCORES[known.kind](network, known, data, run)
    scores["measured"] = {"seed": 0, **made}
    facts = replace(facts, scores=scores, sha256="")
    if not facts_only:
        return zoo.write(network, facts, WEIGHTS / f"{known.name}.safetensors")
    write_json(ALONE / f"{known.name}.json", {"facts": asdict(facts), **scores["measured"]})
    return facts


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
    facts_only = "--facts-only" in sys.argv
    for folder in (word for word in sys.argv[1:] if word != "--facts-only"):
        for file in ("weights.safetensors", PURIFIER):
            if (Path(folder) / file).is_file():
                print(json.dumps(asdict(ship(Path(folder), file, made, facts_only=facts_only))["scores"]))
