"""Measure what the documentation quotes, into docs/results/*.json: `make results`.

    python benchmarks/measure.py [NAME ...]      (by default all that are missing)

Needs the shared data (COMDEFEND_SHARED): whole test splits, third-party classifiers, the authors'
weights. About half an hour on two cores.
"""

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path

from comdefend import provenance, zoo
from comdefend.atomic import write_json
from comdefend.cli import main as comdefend
from comdefend.data import load_data
from comdefend.evaluation import evaluate, write_results
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.model import ComDefendConfig
from comdefend.purifiers import load_comdefend

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("COMDEFEND_SHARED", "../shared"))
RESULTS = ROOT / "docs" / "results"
PICTURE = ROOT / "docs" / "images" / "demo.png"
BUILD = ROOT / "build" / "measure"

OFFICIAL = {"cifar10": ("enc20_0.0001", "dec20_0.0001"), "fashion-mnist": ("enc_mnist", "dec_mnist")}

# Relative, so that result files say the same wherever the repository lies.
THIRD_PARTY = f"{SHARED}/classifiers/classifiers.py:resnet20"

DEVICE = os.environ.get("COMDEFEND_DEVICE", "cpu")
"""What the robustness and frontier benchmarks compute on."""

DRAWS = 5
"""Of a random defence, for each gradient (EOT). Few: the check of more draws that a whole evaluation makes
tells whether they are enough.
"""


def asked_for(names: Collection[str], done: Callable[[str], bool]) -> list[str]:
    """What the command line names, or else all that is not done, in order; exits where it names another."""
    asked = sys.argv[1:]
    unknown = set(asked) - set(names)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    return asked or [name for name in names if not done(name)]


def official(data: str) -> str:
    """The authors' weights for a data set, converted."""
    target = BUILD / f"authors-{data}.safetensors"
    if not target.exists():
        encoder, decoder = (str(SHARED / "official" / f"{name}.npy") for name in OFFICIAL[data])
        assert comdefend(["convert", encoder, decoder, "--output", str(target), "--overwrite"]) == 0
    return os.path.relpath(target, ROOT)


def measure_reconstruction() -> None:
    """PSNR on whole test splits: ours as the zoo's facts record it, and the authors' weights."""
    entries = []
    for name in zoo.names("purifier"):
        facts = zoo.facts(name)
        entries.append(
            {
                "data": facts.data,
                "weights": "comdefend" if name == facts.data else name,
                "bits": ComDefendConfig(**facts.architecture).rate,
                "psnr": facts.scores["test_psnr"],
                "interval": facts.scores["interval"],
                "images": facts.scores["images"],
                "measured": facts.scores["measured"],
            }
        )
        if name in OFFICIAL:
            purifier = load_comdefend(official(name))
            found = reconstruction(purifier, load_data(name, split="test"))
            bits = purifier.model.config.bits
            entries.append({"data": name, "weights": "authors", "bits": bits, **asdict(found)})
    write_json(RESULTS / "reconstruction.json", {"entries": entries, "seed": 0, **provenance.made()})


def command(name: str, *arguments: str) -> None:
    folder = BUILD / name
    assert comdefend(["evaluate", *arguments, "--resume", "--output", str(folder)]) == 0
    (RESULTS / f"{name}.json").write_bytes((folder / "results.json").read_bytes())


def measure_third_party() -> None:
    """A classifier that is not ours under every attack, behind our weights and the authors'."""
    command(
        "third-party-cifar10",
        "--classifier", THIRD_PARTY, "--data", "cifar10", "--limit", "300",
        "--defences", "comdefend", "--defences", f"comdefend:weights={official('cifar10')}",
        "--attacks", "fgsm,bim,deepfool,cw", "--epsilons", "2,8,16",
    )  # fmt: skip


def measure_first() -> None:
    """The same on the first 300 test images, of which numbers of the authors' weights are on record.

    The classifier finds them easier than most (84 % of them, 81 % of all): compare within the table.
    """
    report = evaluate(
        THIRD_PARTY,
        ["comdefend", f"comdefend:weights={official('cifar10')}"],
        data=load_data("cifar10").subset(range(300)),
        attacks=["fgsm", "bim", "deepfool", "cw"],
        epsilons=[2 / 255, 8 / 255, 16 / 255],
        examples=0,
    )
    write_results(RESULTS / "first-cifar10.json", report.results)


def measure_shipped(data: str, epsilons: str) -> None:
    """The shipped classifier and purifier for a data set, on the attacks of the demo and more budgets."""
    command(
        f"shipped-{data}",
        "--classifier", f"{data}-resnet9", "--data", data, "--limit", "100",
        "--attacks", "fgsm,bim,deepfool", "--epsilons", epsilons, "--dtype", "bfloat16",
    )  # fmt: skip


def measure_picture() -> None:
    """The README's picture: what the demo draws."""
    assert comdefend(["demo", "--output", str(BUILD / "demo")]) == 0
    PICTURE.write_bytes((BUILD / "demo" / "paper" / "examples.png").read_bytes())


MEASUREMENTS: dict[str, Callable[[], None]] = {
    "picture": measure_picture,
    "reconstruction": measure_reconstruction,
    "third-party-cifar10": measure_third_party,
    "first-cifar10": measure_first,
    "shipped-cifar10": partial(measure_shipped, "cifar10", "2,8,16"),
    "shipped-fashion-mnist": partial(measure_shipped, "fashion-mnist", "8,25"),
}


def made_by(name: str) -> Path:
    """The file that a measurement leaves."""
    return PICTURE if name == "picture" else RESULTS / f"{name}.json"


if __name__ == "__main__":
    os.chdir(ROOT)
    BUILD.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    assert zoo.names("purifier"), "the package ships no weights"
    for name in asked_for(MEASUREMENTS, lambda name: made_by(name).exists()):
        print(f"measuring {name}", file=sys.stderr)
        MEASUREMENTS[name]()
