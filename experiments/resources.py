"""What experiments need: shared data, the authors' weights, a device."""

import os
from pathlib import Path

from comdefend.cli import main as comdefend

ROOT = Path(__file__).parent.parent

SHARED = Path(os.environ.get("COMDEFEND_SHARED", "../shared"))
"""Whole test splits, third-party classifiers and the authors' weights."""

THIRD_PARTY = f"{SHARED}/classifiers/classifiers.py:resnet20"
"""A CIFAR-10 classifier that is not ours. Relative by default: result files read the same anywhere."""

DEVICE = os.environ.get("COMDEFEND_DEVICE", "cpu")
"""What trainings and attacks compute on."""

EOT_SAMPLES = 5
"""Of a random defence, for each gradient: few. A check of an evaluation tells whether they are enough."""

BUILD = ROOT / "build" / "measure"
"""Outputs that are not kept. The authors' weights in it are named in results: it keeps its place."""

OFFICIAL = {"cifar10": ("enc20_0.0001", "dec20_0.0001"), "fashion-mnist": ("enc_mnist", "dec_mnist")}
"""Files of the authors' weights, by data."""


def official(data: str) -> str:
    """Convert the authors' weights for a data set, unless they are there; return their path from the root."""
    target = BUILD / f"authors-{data}.safetensors"
    if not target.exists():
        encoder, decoder = (str(SHARED / "official" / f"{name}.npy") for name in OFFICIAL[data])
        assert comdefend(["convert", encoder, decoder, "--output", str(target), "--overwrite"]) == 0
    return os.path.relpath(target, ROOT)
