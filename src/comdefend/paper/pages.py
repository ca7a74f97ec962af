"""A reproduced table for people: ours beside the paper's, one grid for each protocol."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comdefend.attacks import Protocol
from comdefend.evaluation import Result, read_results
from comdefend.evaluation.tables import percent
from comdefend.paper.accuracy import Outcome, cells_of
from comdefend.paper.numbers import AccuracyTable, Row
from comdefend.paper.settings import Grid, Settings, Shown
from comdefend.threat import KNOWLEDGE

PROTOCOL_WORDS = {
    "minimal": "the smallest perturbation, up to the budget, that fools the classifier; probably the paper's",
    "fixed": "the attack spends its whole budget; today's standard",
}

NAMES = {"fgsm": "FGSM", "bim": "BIM", "mi-fgsm": "MI-FGSM", "deepfool": "DeepFool", "cw": "C&W"}


def grids(outcome: Outcome) -> list[Grid]:
    """The grids of a table, for the protocols that were run."""
    table = outcome.table
    protocols = list(dict.fromkeys(cell.protocol for cell, _ in outcome.results if cell.protocol))
    made = []
    for protocol in protocols:
        columns = _columns(table, protocol)
        headings = ["when", "defence", "whose", "clean"]
        headings += [NAMES[attack] + (f" {e}" if e is not None else "") for attack, e in columns]
        lines = []
        for row in table.rows:
            if row in outcome.missing:
                continue
            lines.append([row.when, row.defence, "ours", *_ours(outcome, row, protocol, columns)])
            lines.append(["", "", "paper", *_papers(table, row, columns)])
        made.append(Grid(f"{table.title}, {protocol}: {PROTOCOL_WORDS[protocol]}", headings, lines, key=3))
    return made


def differences(outcome: Outcome, *, above: float = 5) -> list[str]:
    """The cells where ours and the paper's are more than `above` points apart, in words: a line for
    each row and protocol.
    """
    found: dict[str, list[str]] = {}
    for cell, result in outcome.results:
        paper = _paper(outcome.table, cell.row, cell.attack, cell.epsilon)
        if paper and min(abs(100 * result.accuracy - number) for number in paper) > above:
            name = NAMES.get(cell.attack, "clean")
            budget = f" {cell.epsilon}" if cell.epsilon is not None else ""
            kind = f", {cell.protocol}" if cell.protocol else ""
            row = cell.row
            who = "undefended" if row.defence == "none" else f"{row.defence} ({row.when})"
            told = f"{name}{budget} {100 * result.accuracy:.0f} for {_listed(paper)}"
            found.setdefault(who + kind, []).append(told)
    return [f"{who}: {', '.join(cells)}" for who, cells in found.items()]


def notes(outcome: Outcome) -> list[str]:
    """What has to be said beside the grids: who attacked, how many images, what is missing."""
    results = [result for _, result in outcome.results]
    first = results[0]
    counts = sorted({result.n for result in results})
    few = [cell for cell, result in outcome.results if result.n < counts[-1]]
    lines = [
        f"Accuracy in % on {counts[-1]} images of {first.data}, with 95 % Wilson intervals; "
        f"classifier {_classifiers(outcome)}; budgets in units of 1/255.",
        f"Attacker: gray-box - {KNOWLEDGE['gray-box']}.",
    ]
    if few:
        what = sorted({NAMES["cw"] if c.attack == "cw" else c.row.defence for c in few})
        lines.append(f"On {counts[0]} images: {', '.join(what)}.")
    lines += [f"Not run: {row.defence} ({row.when}): {reason}" for row, reason in outcome.missing.items()]
    return lines


def shown(outcome: Outcome, files: Sequence[Path] = ()) -> Shown:
    """A table as it is shown on a screen and on a page."""
    return Shown(
        outcome.table.name,
        grids(outcome),
        notes(outcome),
        list(files),
        origin_of([result for _, result in outcome.results]),
        differences(outcome),
    )


def origin_of(results: Sequence[Result]) -> dict[str, Any]:
    """Where results come from, as files of results say it; a table run in parts has several commits."""
    origin = {key: getattr(results[0], key) for key in ("seed", "software", "hardware")}
    commits = dict.fromkeys(result.commit or "unknown" for result in results)
    return {**origin, "commit": ", ".join(commits)}


def from_file(table: AccuracyTable, file: Path) -> list[Outcome]:
    """What a results file holds of a table, without running anything: one outcome for the table's own
    classifiers, and one for each other that was put in their place.
    """
    results = read_results(file)
    names = list(dict.fromkeys(result.classifier for result in results))
    ours = {table.classifier + row.classifier for row in table.rows}
    others = [name for name in names if name not in ours]
    own = [None] if len(others) < len(names) else []
    return [_outcome(table, results, Settings(classifier=name)) for name in [*own, *others]]


def _outcome(table: AccuracyTable, results: Sequence[Result], settings: Settings) -> Outcome:
    pairs = [
        (cell, result)
        for cell in cells_of(table, settings)
        # Of runs of different lengths the longest is shown.
        if (result := max((r for r in results if cell.fits(r)), key=lambda r: r.n, default=None)) is not None
    ]
    there = {cell.row for cell, _ in pairs}
    missing = {row: "no results yet" for row in table.rows if row not in there}
    return Outcome(table, pairs, missing)


def _columns(table: AccuracyTable, protocol: Protocol) -> list[tuple[str, int | None]]:
    cells = cells_of(table, Settings(protocols=(protocol,)))
    return list(dict.fromkeys((c.attack, c.epsilon) for c in cells if c.protocol == protocol))


def _ours(
    outcome: Outcome, row: Row, protocol: Protocol, columns: Sequence[tuple[str, int | None]]
) -> list[str]:
    of_row = [(cell, result) for cell, result in outcome.results if cell.row == row]

    def find(attack: str, epsilon: int | None, under: Protocol | None) -> str:
        wanted = (attack, epsilon, under)
        found = (r for c, r in of_row if (c.attack, c.epsilon, c.protocol) == wanted)
        return _short(next(found, None))

    return [find("none", None, None), *(find(attack, e, protocol) for attack, e in columns)]


def _papers(table: AccuracyTable, row: Row, columns: Sequence[tuple[str, int | None]]) -> list[str]:
    cells = [_paper(table, row, "none", None), *(_paper(table, row, a, e) for a, e in columns)]
    return [_listed(numbers) for numbers in cells]


def _paper(table: AccuracyTable, row: Row, attack: str, epsilon: int | None) -> tuple[int, ...]:
    """The paper's numbers for a cell: one, or none; clean and C&W, which have no budget here, have the
    numbers of all its columns, where these differ.
    """
    numbers = row.paper.get(attack, ())
    if epsilon is None or not numbers:
        return numbers if len(set(numbers)) > 1 else numbers[:1]
    return (numbers[table.epsilons_of(attack).index(epsilon)],)


def _listed(numbers: Sequence[int]) -> str:
    return "/".join(map(str, numbers))


def _short(result: Result | None) -> str:
    return "" if result is None else percent(result)


def _classifiers(outcome: Outcome) -> str:
    return ", ".join(dict.fromkeys(cell.classifier for cell, _ in outcome.results))
