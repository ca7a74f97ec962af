"""Tables 3 and 4: one short training of the purifier for each point, unattended, resumable.

The paper trains each for 30 epochs on a GPU; here every point gets the same few steps of the recipe
`cifar10`, so that a table fits two cores, and the table says how many.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from comdefend import provenance
from comdefend.atomic import write_json
from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import load_data
from comdefend.device import device_of
from comdefend.errors import RequestError
from comdefend.evaluation import wilson
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.evaluation.store import digest, key_of
from comdefend.paper.numbers import BITS, GRID
from comdefend.paper.settings import Grid, Progress, Settings, Shown
from comdefend.purifiers import load_comdefend
from comdefend.training import Recipe, load_recipe, start

RECIPE = "cifar10"
STEPS, BATCH = 200, 32
"""Steps of a point, by default, and crops in each: two to six minutes on two cores, by the processor."""

IMAGES = 1000
CLASSIFIER = "cifar10-resnet9"

LAMBDAS = tuple(GRID)
PHIS = (1, 10, 20, 25, 30, 35, 40, 50)
FEW_PHIS = (1, 10, 20, 35, 50)


@dataclass(frozen=True)
class Point:
    """One training: the settings that differ from the recipe's."""

    bits: int = 12
    lam: float = 0.0001
    phi: float = 20.0
    gain: float = 20.0

    @property
    def overrides(self) -> list[str]:
        return [f"purifier.{key}={value}" for key, value in asdict(self).items()]

    @property
    def name(self) -> str:
        scaled = "" if self.gain == Point.gain else f"-gain{self.gain:g}"
        return f"bits{self.bits}-lambda{self.lam:g}-phi{self.phi:g}{scaled}"


def points_of_table4(*, full: bool) -> list[Point]:
    """All forty of the paper, or a cross through its best one: enough to see a rise and a fall in each."""
    if full:
        return [Point(lam=lam, phi=phi) for lam in LAMBDAS for phi in PHIS]
    across = [Point(phi=phi) for phi in FEW_PHIS]
    return across + [Point(lam=lam) for lam in LAMBDAS if Point(lam=lam) not in across]


def table3(settings: Settings, *, output: Path, progress: Progress | None = None) -> Shown:
    """PSNR against the bits of one pixel."""
    points = [Point(bits=bits) for bits in BITS]
    return show_table3(_run("table3", points, settings, output, progress, classify=False))


def table4(settings: Settings, *, output: Path, progress: Progress | None = None) -> Shown:
    """Accuracy on purified training images against lambda and phi."""
    points = points_of_table4(full=settings.full)
    return show_table4(_run("table4", points, settings, output, progress, classify=True))


def show_table3(file: Path) -> Shown:
    """Table 3 from its results file."""
    content = _of_one_run(file)
    lines = []
    for entry in content["entries"]:
        bits = entry["bits"]
        low, high = entry["interval"]
        lines.append([str(bits), f"{entry['psnr']:.2f} [{low:.2f}, {high:.2f}]", f"{BITS[bits]:.2f}"])
    first = content["entries"][0]
    notes = [
        f"Mean PSNR in dB over {first['images']} clean CIFAR-10 test images (95 % interval), hard code; "
        f"each row a training of {_length(first)} (the paper: 30 epochs, lossless images).",
    ]
    grid = Grid("Table 3: PSNR against bits a pixel", ["bits a pixel", "ours", "paper"], lines)
    return Shown("table3", [grid], notes, [file], content)


def show_table4(file: Path) -> Shown:
    """Table 4 from its results file."""
    content = _of_one_run(file)
    entries = {(entry["lam"], entry["phi"]): entry for entry in content["entries"]}
    phis = sorted({phi for _, phi in entries})
    lines = []
    for lam in LAMBDAS:
        row = [entries.get((lam, phi)) for phi in phis]
        if any(row):
            lines.append([f"{lam:g}", *(_accuracy(entry) if entry else "" for entry in row)])
    first = content["entries"][0]
    notes = [
        f"Accuracy in % of {content['classifier']} on {first['n']} purified CIFAR-10 training images (95 % "
        f"Wilson interval; without purifier {_accuracy(content['unpurified'])}); each point a training of "
        f"{_length(first)}. The paper: best at phi 20 and lambda "
        "0.0001 with 91.82 (its second column); which of its other columns is which phi is not known.",
    ]
    grid = Grid(
        "Table 4: accuracy against lambda (rows) and phi (columns)",
        ["lambda", *(f"phi {phi:g}" for phi in phis)],
        lines,
    )
    paper = Grid(
        "The paper's table 4, in the order of its columns",
        ["lambda", *"ABCDEFGH", "average"],
        [[f"{lam:g}", *(f"{v:g}" for v in row), f"{sum(row) / len(row):.2f}"] for lam, row in GRID.items()],
    )
    return Shown("table4", [grid, paper], notes, [file], content)


def _run(
    name: str,
    points: Sequence[Point],
    settings: Settings,
    output: Path,
    progress: Progress | None,
    *,
    classify: bool,
) -> Path:
    """Train and measure what is missing of the points; the results file."""
    steps = STEPS if settings.steps is None else settings.steps
    limit = min(IMAGES, settings.limit or IMAGES)
    file = output / f"{name}.json"
    content = read_content(file) if file.is_file() else {"entries": []}
    entries = {json.dumps(entry["key"]): entry for entry in content["entries"]}
    reference = settings.classifier or CLASSIFIER
    source = settings.data or "cifar10"
    common: dict[str, Any] = {"seed": settings.seed, **provenance.made()}
    images = load_data(source, split="train" if classify else "test")
    rows = images.pick(limit, seed=settings.seed)
    judged_by: list[str] = []
    if classify:
        judge = load_classifier(reference).to(settings.device)
        labels = images.labels(rows)
        few = images.images(rows[:2]).to(settings.device)
        check_classifier(judge, few, labels, name=reference, classes=images.class_count)
        judged_by = [reference, digest(judge)]
        common |= {"classifier": reference, "unpurified": _judged(judge, images.images(rows), labels)}
    recipe = _hash(point_recipe(Point(), settings, steps=steps))
    wanted: list[str] = []

    def keep() -> None:
        # What other settings gave stays in the file, after these.
        order = dict.fromkeys([*wanted, *entries])
        write_json(file, {**content, **common, "entries": [entries[key] for key in order]})

    for index, point in enumerate(points):
        key = [point.name, steps, BATCH, limit, settings.seed, source, judged_by, recipe, settings.dtype]
        wanted.append(json.dumps(key))
        if wanted[-1] in entries:
            continue
        if progress:
            progress(index, len(points), point.name)
        weights = trained(point, settings, steps=steps)
        purifier = load_comdefend(str(weights), dtype=settings.dtype).to(settings.device)
        found = reconstruction(purifier, images.subset(rows))
        entry: dict[str, Any] = {"key": key, **asdict(point), "steps": steps, "batch": BATCH, **asdict(found)}
        if classify:
            batches = torch.arange(len(rows)).split(100)
            parts = (images.images([rows[i] for i in b.tolist()]).to(settings.device) for b in batches)
            purified = torch.cat([purifier(part).cpu() for part in parts])
            entry |= _judged(judge, purified, labels)
        entries[wanted[-1]] = entry
        keep()
    keep()
    if progress:
        progress(len(points), len(points), "done")
    return file


def read_content(file: Path) -> dict[str, Any]:
    """A results file of trainings. Raises `RequestError` where it is damaged or something else."""
    try:
        content = json.loads(file.read_text())
        if not isinstance(content["entries"], list):
            raise TypeError
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{str(file)!r} is no file of results; move it away to begin anew") from error
    found: dict[str, Any] = content
    return found


def _of_one_run(file: Path) -> dict[str, Any]:
    """A results file, with the entries that have the settings of the first alone."""
    content = read_content(file)
    settings = content["entries"][0]["key"][1:]
    return {**content, "entries": [e for e in content["entries"] if e["key"][1:] == settings]}


def point_recipe(point: Point, settings: Settings, *, steps: int) -> Recipe:
    """The recipe of a point's training."""
    overrides = [*point.overrides, f"batch={BATCH}", f"steps={steps}", f"seed={settings.seed}"]
    if settings.data:
        overrides.append(f"data={settings.data}")
    return load_recipe(RECIPE, [*overrides, f"interval={min(100, steps)}"])


def _hash(recipe: Recipe) -> str:
    return key_of(recipe.to_dict())[:8]


def trained(point: Point, settings: Settings, *, steps: int) -> Path:
    """Weights of a point: trained now, gone on with, or there already."""
    recipe = point_recipe(point, settings, steps=steps)
    folder = run_folder(recipe, settings.trained / f"{point.name}-{steps}")
    return weights_in(folder, recipe, device=settings.device)


def run_folder(recipe: Recipe, stem: Path) -> Path:
    """Where a recipe is trained: its hash follows the stem, since another recipe's weights are others."""
    return stem.with_name(f"{stem.name}-{_hash(recipe)}")


def weights_in(folder: Path, recipe: Recipe, *, device: str) -> Path:
    """The weights of a run: there already, gone on with, or trained now."""
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        begun = (folder / "last.ckpt").is_file()
        start(recipe, output=folder, resume=begun, device=device)
    return weights


def _length(entry: dict[str, Any]) -> str:
    return f"{entry['steps']} steps of {entry['batch']} crops, a shortened run of the recipe {RECIPE}"


def _judged(classifier: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    device = device_of(classifier)
    with torch.no_grad():
        right = [
            int((classifier(part.to(device)).argmax(1).cpu() == truth).sum())
            for part, truth in zip(images.split(100), labels.split(100), strict=True)
        ]
    correct, n = sum(right), len(labels)
    return {"correct": correct, "n": n, "accuracy_interval": wilson(correct, n)}


def _accuracy(entry: dict[str, Any]) -> str:
    low, high = entry["accuracy_interval"]
    return f"{100 * entry['correct'] / entry['n']:.1f} [{100 * low:.0f}, {100 * high:.0f}]"
