"""Tables 5 to 9: every defence of a table under every attack, cell by cell, resumable.

A cell is one classifier behind one purifier under one attack, protocol and budget. It is written to the
results file as soon as it is done, with a key made of all that it depends on, and is not run again
while that stays the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from torch import nn

from comdefend import purifiers, zoo
from comdefend.attacks import Protocol, check_protocol, find_attack
from comdefend.classifiers import check_classifier, load_classifier
from comdefend.data import ImageSet, load_data
from comdefend.errors import RequestError
from comdefend.evaluation import Result, evaluate, kept_results, read_results, write_results
from comdefend.evaluation.store import Store
from comdefend.factory import is_factory
from comdefend.paper.numbers import ACCURACY_TABLES, AccuracyTable, Row
from comdefend.paper.settings import Progress, Settings
from comdefend.purifiers import Purifier
from comdefend.training import recipe_names

IMAGES, FEW_IMAGES = 1000, 200
"""Images for a cell, and for one with an attack or a purifier that takes its time."""

SLOW = ("cw", "pixeldefend")


@dataclass(frozen=True)
class Cell:
    """One number of the table: `epsilon` in units of 1/255, None where the attack has no budget."""

    row: Row
    classifier: str
    attack: str
    protocol: Protocol | None
    epsilon: int | None
    limit: int

    def fits(self, result: Result) -> bool:
        threat = result.threat_model
        epsilon = threat.epsilon if threat else None
        budget = None if self.epsilon is None else self.epsilon / 255
        same = epsilon == budget or (
            epsilon is not None and budget is not None and abs(epsilon - budget) < 1e-9
        )
        names = (result.classifier, result.defence, result.attack, result.protocol)
        return same and names == (self.classifier, self.row.purifier, self.attack, self.protocol)


@dataclass(frozen=True)
class Outcome:
    """The cells of a table with the result of each that could be run, and what could not and why."""

    table: AccuracyTable
    results: list[tuple[Cell, Result]]
    missing: dict[Row, str]


def run_table(
    table: AccuracyTable, settings: Settings, *, output: Path, progress: Progress | None = None
) -> Outcome:
    """Run what is missing of a table; its results are in `output/NAME.json` afterwards.

    A number that another table in `output` has already (the three of table 8 and table 9 share
    attacks, where one classifier stands for the paper's) is taken from there.

    Rows whose weights are nowhere are left out and named in the outcome, with the command that makes
    them. Raises `RequestError`, before any attack, where data and a classifier do not fit.
    """
    for protocol in settings.protocols:
        check_protocol(protocol)
    data = load_data(settings.data or table.data)
    limits = {cell.limit for cell in cells_of(table, settings)}
    rows = sorted({row for limit in limits for row in data.pick(limit, seed=settings.seed)})
    if len(data.sizes(rows)) > 1:
        data = data.sized(table.side)
    lab = _Laboratory(data, settings)
    missing = lab.prepare(table, rows[:2])
    cells = [cell for cell in cells_of(table, settings) if cell.row not in missing]
    file = output / f"{table.name}.json"
    known = kept_results(file)
    store = Store(output / f"{table.name}.part")
    store.know([*known, *_of_other_tables(table, output)])
    done: dict[Cell, Result] = {}
    for group in _groups(cells):
        first = group[0]
        if progress:
            progress(len(done), len(cells), f"{first.classifier} {first.attack} {first.protocol or ''}")
        results = lab.run(group, store)
        done |= {cell: r for cell in group for r in results if cell.fits(r)}
        # Numbers of other runs of this table (another classifier, seed, data, or more images) stay there.
        others = [r for r in known if not any(_same_run(cell, r, result) for cell, result in done.items())]
        write_results(file, [*others, *(done[cell] for cell in cells if cell in done)])
    store.clear()
    if progress:
        progress(len(cells), len(cells), "done")
    return Outcome(table, [(cell, done[cell]) for cell in cells], missing)


def _same_run(cell: Cell, old: Result, new: Result) -> bool:
    """Whether an old number is that of the same cell under the same settings, and so is replaced."""
    settings = ((r.n, r.seed, r.data) for r in (old, new))
    return cell.fits(old) and len(set(settings)) == 1


def _of_other_tables(table: AccuracyTable, output: Path) -> Iterator[Result]:
    for other in chain.from_iterable(ACCURACY_TABLES.values()):
        file = output / f"{other.name}.json"
        if other.name != table.name and file.is_file():
            yield from read_results(file)


def cells_of(table: AccuracyTable, settings: Settings) -> Iterator[Cell]:
    """All cells of a table in its order: clean first, then each attack under each protocol."""
    for row in table.rows:
        if settings.classifier and row.trains:
            continue  # a classifier of one's own was not trained by the row's recipe
        cell = partial(_cell, row, settings.classifier or table.classifier + row.classifier, settings.limit)
        yield cell("none", None, None)
        for attack in table.attacks:
            for protocol in settings.protocols:
                found = find_attack(attack, protocol)
                if found is not None:
                    budgets = table.epsilons_of(attack) if found.norm == "linf" else (None,)
                    for epsilon in budgets:
                        yield cell(attack, protocol, epsilon)


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that are run together: all purifiers of one classifier are tried on the same adversarial
    images, at one budget after the other.
    """
    groups: dict[tuple[str, str, Protocol | None, int], list[Cell]] = {}
    for cell in cells:
        key = (cell.classifier, cell.attack, cell.protocol, cell.limit)
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def _cell(
    row: Row, classifier: str, limit: int | None, attack: str, protocol: Protocol | None, epsilon: int | None
) -> Cell:
    slow = attack in SLOW or row.purifier.split(":")[0] in SLOW
    most = FEW_IMAGES if slow else IMAGES
    return Cell(row, classifier, attack, protocol, epsilon, min(most, limit or most))


class _Laboratory:
    """The data, classifiers and purifiers of one run, each loaded once."""

    def __init__(self, data: ImageSet, settings: Settings) -> None:
        self.data, self.settings = data, settings
        self.classifiers: dict[str, nn.Module] = {}
        self.purifiers: dict[str, Purifier] = {}

    def prepare(self, table: AccuracyTable, few: Sequence[int]) -> dict[Row, str]:
        """Load all that a table needs, tried on a few of the images; the rows that cannot be run, with
        the reason.
        """
        missing: dict[Row, str] = {}
        images, labels = self.data.images(few), self.data.labels()
        for row in table.rows:
            name = self.settings.classifier or table.classifier + row.classifier
            if self.settings.classifier and row.trains:
                missing[row] = "it needs a classifier trained for it"
                continue
            try:
                if name not in self.classifiers:
                    self.classifiers[name] = self._classifier(name)
                if row.purifier not in self.purifiers:
                    self.purifiers[row.purifier] = purifiers.load(
                        self._trained(row.purifier),
                        channels=self.data.channels,
                        data=table.data,
                        dtype=self.settings.dtype,
                    )
            except RequestError as error:
                if row.defence == "none":
                    raise
                missing[row] = str(error)
        for name, classifier in self.classifiers.items():
            check_classifier(classifier, images, labels, name=name, classes=self.data.class_count)
        return missing

    def run(self, group: Sequence[Cell], store: Store) -> list[Result]:
        """The results of a group's cells, those that are not finished yet run now."""
        first = group[0]
        return evaluate(
            {first.classifier: self.classifiers[first.classifier]},
            {cell.row.purifier: self.purifiers[cell.row.purifier] for cell in group},
            self.data,
            attacks=[first.attack],
            epsilons=sorted({(cell.epsilon or 8) / 255 for cell in group}),
            protocol=[first.protocol or "minimal"],
            limit=first.limit,
            seed=self.settings.seed,
            device=self.settings.device,
            examples=0,
            store=store,
        ).results

    def _trained(self, purifier: str) -> str:
        """A purifier's reference, its `weights=NAME` looked for in `trained` where they do not ship."""
        start, found, name = purifier.partition("weights=")
        file = self.settings.trained / name / "weights.safetensors"
        if not found or name in zoo.names():
            return purifier
        if not file.is_file() and name in recipe_names():
            raise RequestError(f"its weights are not trained here:  comdefend train {name}")
        return f"{start}{found}{file}" if file.is_file() else purifier

    def _classifier(self, name: str) -> nn.Module:
        """A classifier by reference, or by the name of a recipe that was run into `trained`."""
        weights = self.settings.trained / name / "weights.safetensors"
        if not is_factory(name) and ":" not in name and name not in zoo.names("classifier"):
            if weights.is_file():
                return load_classifier(str(weights))
            if not name.endswith(".safetensors"):
                raise RequestError(f"its classifier is not trained here:  comdefend train {name}")
        return load_classifier(name)
