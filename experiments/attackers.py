"""Every attacker on one classifier, alone and behind purifiers: how it is measured, and the columns it fills.

Results lie in NAME.json, and beside them in NAME.facts.json how their purifier was made; these facts are
written last, and tell that the results are complete.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from comdefend import provenance, zoo
from comdefend.atomic import write_json
from comdefend.data import ImageSet, load_data
from comdefend.evaluation import Result, Store, evaluate, kept_results, read_results, write_results
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.evaluation.tables import change, percent
from comdefend.evaluation.worst_case import WORST, worst_of
from comdefend.paper.trainings import run_folder, weights_in
from comdefend.purifiers import load
from comdefend.seeding import drawn_from
from comdefend.training import Recipe
from experiments.resources import DEVICE, EOT_SAMPLES

IMAGES, FEW_IMAGES = 300, 100
"""For attackers who do not know the purifier, and for those who do (and for fifty steps)."""

BUDGETS = (2, 4, 8, 16)
"""In units of 1/255."""
EPSILONS = tuple(budget / 255 for budget in BUDGETS)

COLUMNS = (
    "clean", *(f"{e}/255" for e in BUDGETS), "BIM-50, 8/255", "other networks', 8/255", "white-box, 8/255",
)  # fmt: skip

OWN = "cifar10-resnet9-plain"
ROBUST = "cifar10-resnet9-bim"
"""Surrogate classifiers of ours: one trained on clean images, and one trained under attack, whose adversarial
images fool far more networks.
"""


def trained(recipe: Recipe, stem: Path) -> Path:
    """Return the weights of a recipe; train them, or continue training them, where they are not complete."""
    return weights_in(run_folder(recipe, stem), recipe, device=DEVICE)


def attack_with_all(
    network: str,
    *purifiers: str,
    sources: Sequence[str],
    file: Path,
    data: str | ImageSet = "cifar10",
    images: int = IMAGES,
    epsilons: Sequence[float] = EPSILONS,
    epsilon: float | None = 8 / 255,
) -> list[Result]:
    """Attack a classifier, alone and behind each of `purifiers`, with every attacker.

    sources: surrogate classifiers, which adversarial images are made on, too.
    file: where the results will be; what is done of them is kept beside it, and the facts there are deleted.
    images: how many the attackers get who do not know the purifier.
    epsilons, epsilon: their budgets, and that of the attacker who knows it (None: nobody does).
    """
    facts_file(file).unlink(missing_ok=True)
    store = Store(store_of(file))
    store.know(kept_results(file))
    judged = partial(
        evaluate, network, list(purifiers), data, protocol="fixed", examples=0, checks=False,
        eot_samples=EOT_SAMPLES, store=store, progress=_tell, device=DEVICE,
    )  # fmt: skip
    reports = [
        judged(
            attacks=["fgsm", "bim", "pgd", "mi-fgsm"],
            epsilons=epsilons,
            surrogate_classifiers=sources,
            limit=images,
        ),
        judged(attacks=["bim:steps=50,step=0.04"], epsilons=epsilons, limit=FEW_IMAGES),
    ]
    if epsilon is not None:
        reports.append(judged(attacks=["pgd"], epsilons=[epsilon], knowledge=["white-box"], limit=FEW_IMAGES))
    return [result for report in reports for result in report.results]


def store_of(file: Path) -> Path:
    """The folder beside results that are not complete, where what is done of them is kept."""
    return file.with_suffix(".part")


def _tell(done: int, total: int, text: str) -> None:
    if text != "done":
        print(f"  {done}/{total} {text}", file=sys.stderr)


def facts_file(file: Path) -> Path:
    """The file beside results that says how their purifier was made."""
    return file.with_suffix(".facts.json")


def read_facts(file: Path) -> dict[str, Any] | None:
    """The facts beside results; None where the results are not complete."""
    path = facts_file(file)
    return json.loads(path.read_text()) if path.is_file() else None


def write_complete(file: Path, results: Sequence[Result], facts: Mapping[str, Any]) -> None:
    """Write each result once, nothing of earlier settings, and the facts."""
    write_results(file, list({r.fingerprint: r for r in results if r.fingerprint}.values()))
    write_json(facts_file(file), facts)
    Store(store_of(file)).clear()


def facts_of(reference: str, images: ImageSet | None = None) -> dict[str, Any]:
    """How the purifier "comdefend:weights=..." was made, and its PSNR on the images that attackers got.

    They are drawn from `images`, by default from CIFAR-10's test images.
    """
    images = images or load_data("cifar10")
    images = images.subset(images.pick(IMAGES, seed=0))
    purifier = load(reference, channels=images.channels)
    with drawn_from(0):
        psnr = reconstruction(purifier, images)
    facts, _ = zoo.read(reference.removeprefix("comdefend:weights=").partition(",")[0], kind="purifier")
    return {
        "reference": reference, "architecture": facts.architecture, "recipe": facts.recipe,
        "psnr": psnr.psnr, "interval": psnr.interval, "images": psnr.images, "seed": 0, **provenance.made(),
    }  # fmt: skip


def complete(folder: Path, names: Iterable[str]) -> dict[str, tuple[list[Result], dict[str, Any]]]:
    """Results and facts by name, in the order of `names`, of those that are complete."""
    pairs = {}
    for name in names:
        file = folder / f"{name}.json"
        facts = read_facts(file)
        if facts is not None:
            pairs[name] = (read_results(file), facts)
    return pairs


def attacked(results: Iterable[Result], epsilon: int, knowledge: str) -> list[Result]:
    """Attacks of one attacker at a budget in units of 1/255, without worst cases."""
    return [
        r for r in results
        if r.threat_model and r.attack != WORST and r.knowledge == knowledge
        and abs((r.threat_model.epsilon or 0) - epsilon / 255) < 1e-9
    ]  # fmt: skip


def worst_case(clean: Mapping[int, Result], attacks: Sequence[Result]) -> Result | None:
    """The worst case per image over attacks of one attacker, if any.

    clean: the results without an attack, by their number of images.
    """
    if not attacks or attacks[0].threat_model is None:
        return None
    return worst_of(clean[max(r.n for r in attacks)], attacks, attacks[0].threat_model)


def by_column(results: Sequence[Result]) -> dict[str, Result | None]:
    """Fill `COLUMNS` for the defence among results (undefended: for none): clean accuracy, the worst case of
    the gray-box attacks at each budget, and the other attackers.
    """
    own = [r for r in results if r.defence != "none"] or results
    # One for each number of images: 100 images are not the first 100 of 300.
    clean = {r.n: r for r in own if r.threat_model is None}

    def worst(wanted: Callable[[Result], bool], epsilon: int, knowledge: str = "gray-box") -> Result | None:
        return worst_case(clean, [r for r in attacked(own, epsilon, knowledge) if wanted(r)])

    columns = [
        clean[max(clean)],
        *(worst(lambda r: not r.source and ":" not in r.attack, epsilon) for epsilon in BUDGETS),
        worst(lambda r: r.attack.startswith("bim:"), 8),
        worst(lambda r: bool(r.source), 8),
        worst(lambda _: True, 8, "white-box"),
    ]
    return dict(zip(COLUMNS, columns, strict=True))


def cell(result: Result | None, images: int, reference: Result | None = None) -> str:
    """Accuracy with its interval, or with the paired difference from a reference on as many images.

    images: what the table's other results are of; a result of fewer says how many.
    """
    if result is None:
        return ""
    few = f" n={result.n}" if result.n < images else ""
    if reference is None or reference.n != result.n:
        return percent(result) + few
    return f"{100 * result.accuracy:.1f}, {change(result, reference)}{few}"
