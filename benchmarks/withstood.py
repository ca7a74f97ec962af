"""What several benchmarks share: trainings in folders of their own, and every attacker."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from measure import DEVICE, DRAWS, asked_for

from comdefend import provenance, purifiers, zoo
from comdefend.data import ImageSet, load_data
from comdefend.evaluation import Result, evaluate, keep_results, kept_results, write_results
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.paper.trainings import run_folder, weights_in
from comdefend.purifiers import Purifier
from comdefend.seeding import drawn_from
from comdefend.training import Recipe

IMAGES, FEW_IMAGES = 300, 100
"""For attackers who do not know the purifier, and for those who do (and for fifty steps)."""

EPSILONS = tuple(e / 255 for e in (2, 4, 8, 16))


OWN = "cifar10-resnet9-plain"
ROBUST = "cifar10-resnet9-bim"
"""Classifiers of ours that adversarial images are made on for others: one trained on clean images, and
one trained under attack, whose adversarial images fool far more networks.
"""


def run_missing(names: Sequence[str], measure: Callable[[str], None], done: Callable[[str], bool]) -> None:
    """Measure what the command line names, or else all that is not done, in order."""
    for name in asked_for(names, done):
        print(name, file=sys.stderr)
        measure(name)


def trained(recipe: Recipe, stem: Path) -> Path:
    """Weights of a recipe: there already, gone on with, or trained now."""
    return weights_in(run_folder(recipe, stem), recipe, device=DEVICE)


def withstood(
    network: str,
    *purifiers: str,
    sources: Sequence[str],
    file: Path,
    data: str | ImageSet = "cifar10",
    images: int = IMAGES,
    epsilons: Sequence[float] = EPSILONS,
    epsilon: float | None = 8 / 255,
) -> list[Result]:
    """Every attacker on a classifier, alone and behind each of `purifiers`, every result kept in `file` as it
    is made; `sources` are other classifiers that adversarial images are made on, `images` how many those
    attackers get who do not know the purifier; who knows it spends `epsilon`, and is not tried where that is
    None. The facts beside `file`, which tell that it is whole, go first: until it is again, what stands in it
    may be of several weights.
    """
    file.with_suffix(".facts.json").unlink(missing_ok=True)
    judged = partial(
        evaluate, network, list(purifiers), data=data, protocols=["fixed"],
        examples=0, checks=False, draws=DRAWS, known=kept_results(file), keep=partial(keep_results, file),
        progress=_tell, device=DEVICE,
    )  # fmt: skip
    reports = [
        judged(attacks=["fgsm", "bim", "pgd", "mi-fgsm"], epsilons=epsilons, sources=sources, limit=images),
        judged(attacks=["bim:steps=50,step=0.04"], epsilons=epsilons, limit=FEW_IMAGES),
    ]
    if epsilon is not None:
        reports.append(judged(attacks=["pgd"], epsilons=[epsilon], knowledge=["white-box"], limit=FEW_IMAGES))
    return [result for report in reports for result in report.results]


def weights_mark(*names: str) -> str:
    """A part of a folder's name that is another when one of some weights that ship is another."""
    return "-".join(zoo.facts(name).sha256[:6] for name in names)


def measured(file: Path, made_of: Any) -> bool:
    """Whether a measurement whose results are in `file` came to its end, and is of what it would be of now:
    weights that ship, runs and settings, as its facts keep them under `made_of`.
    """
    facts = file.with_suffix(".facts.json")
    return facts.is_file() and json.loads(facts.read_text()).get("made_of") == made_of


def write_once(file: Path, results: Sequence[Result]) -> None:
    """Each result once, and nothing of what earlier settings gave."""
    write_results(file, list({r.fingerprint: r for r in results if r.fingerprint}.values()))


def facts_of(reference: str, images: ImageSet | None = None) -> dict[str, Any]:
    """Of "comdefend:weights=...": how it was made, and its PSNR on the images that attackers were given, of
    CIFAR-10's test images or of `images`.
    """
    images = images or load_data("cifar10")
    images = images.subset(images.pick(IMAGES, seed=0))
    purifier = purifiers.load(reference, channels=images.channels)
    assert isinstance(purifier, Purifier)
    with drawn_from(0):
        psnr = reconstruction(purifier, images)
    facts, _ = zoo.read(reference.removeprefix("comdefend:weights=").partition(",")[0], kind="purifier")
    return {
        "reference": reference, "architecture": facts.architecture, "recipe": facts.recipe,
        "psnr": psnr.psnr, "interval": psnr.interval, "images": psnr.images, "seed": 0, **provenance.made(),
    }  # fmt: skip


def _tell(done: int, total: int, text: str) -> None:
    if text != "done" and done % 5 == 0:
        print(f"  {done}/{total} {text}", file=sys.stderr)
