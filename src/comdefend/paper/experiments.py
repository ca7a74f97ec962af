"""What `comdefend reproduce` runs, by name."""

from collections.abc import Callable
from pathlib import Path

from comdefend.device import find_device, find_dtype
from comdefend.errors import RequestError
from comdefend.paper.accuracy import run_table
from comdefend.paper.figures import figure3, figure4, show_figure3, show_figure4
from comdefend.paper.numbers import ACCURACY_TABLES, TABLE5
from comdefend.paper.pages import from_file, shown
from comdefend.paper.settings import Progress, Settings, Shown
from comdefend.paper.speed import show_speed, speed
from comdefend.paper.trainings import show_table3, show_table4, table3, table4

OTHERS: dict[str, Callable[..., Shown]] = {
    "table3": table3, "table4": table4, "figure3": figure3, "figure4": figure4, "speed": speed,
}  # fmt: skip


def run(
    name: str, settings: Settings, *, output: Path, bar: Callable[[str], Progress] | None = None
) -> list[Shown]:
    """Run an experiment and write what it shows beside its results, as `output/NAME.md`.

    `bar` makes the progress of one part by its name. A name may stand for several tables.
    """
    find_device(settings.device)
    find_dtype(settings.dtype)
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


def show(name: str, folder: Path) -> list[Shown]:
    """An experiment that was run before, from its results in `folder`; nothing is run."""
    readers: dict[str, Callable[[Path], Shown]] = {
        "table3": show_table3, "table4": show_table4, "figure3": show_figure3, "speed": show_speed,
    }  # fmt: skip
    if name in readers:
        return [readers[name](folder / f"{name}.json")]
    if name == "figure4":
        return [show_figure4(from_file(TABLE5, folder / "table5.json")[0], folder)]
    files = [(table, folder / f"{table.name}.json") for table in ACCURACY_TABLES[name]]
    return [shown(part, [file]) for table, file in files if file.is_file() for part in from_file(table, file)]
