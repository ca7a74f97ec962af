"""What `comdefend reproduce` runs, by name."""

from collections.abc import Callable
from pathlib import Path

from comdefend.errors import RequestError
from comdefend.paper.accuracy import run_table
from comdefend.paper.figures import figure3, figure4
from comdefend.paper.numbers import ACCURACY_TABLES
from comdefend.paper.pages import shown
from comdefend.paper.settings import Progress, Settings, Shown
from comdefend.paper.speed import speed
from comdefend.paper.trainings import table3, table4

OTHERS: dict[str, Callable[..., Shown]] = {
    "table3": table3, "table4": table4, "figure3": figure3, "figure4": figure4, "speed": speed,
}  # fmt: skip


def run(
    name: str, settings: Settings, *, output: Path, bar: Callable[[str], Progress] | None = None
) -> list[Shown]:
    """Run an experiment and write what it shows beside its results, as `output/NAME.md`.

    `bar` makes the progress of one part by its name. A name may stand for several tables.
    """
    parts = []
    for table in ACCURACY_TABLES.get(name, ()):
        file = output / f"{table.name}.json"
        outcome = run_table(table, settings, output=output, progress=bar(table.name) if bar else None)
        parts.append(shown(outcome, [file]))
    if name in OTHERS:
        parts.append(OTHERS[name](settings, output=output, progress=bar(name) if bar else None))
    if not parts:
        raise RequestError(f"there is no experiment {name!r}")
    for part in parts:
        (output / f"{part.name}.md").write_text(part.markdown() + "\n")
    return parts
