"""What commands put on the terminal: progress, tables, and why something failed.

Standard output has what was asked for, standard error everything else.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # what is not shown is not imported
    from comdefend.evaluation.evaluating import Plan, Report
    from comdefend.paper.settings import Shown
    from comdefend.zoo import Facts

screen = Console(stderr=True, emoji=False)

SILENCE = 20.0
"""Seconds after which work without a terminal says where it is."""


@contextmanager
def bar(what: str, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar with rate and estimate on standard error; a function (done, total, text) moves it."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=quiet,
    ) as progress:
        task = progress.add_task(what, total=None)

        told = started = time.monotonic()

        def move(done: int, total: int, text: str) -> None:
            nonlocal told
            progress.update(task, completed=done, total=total, description=f"{what} {text}".strip())
            now = time.monotonic()
            if not (quiet or screen.is_terminal) and now - told > SILENCE:  # a bar needs a terminal
                told = now
                passed = now - started
                left = f", about {passed * (total - done) / done:.0f} s left" if done else ""
                screen.print(
                    f"{what} {text}: {done}/{total}, {passed:.0f} s{left}", highlight=False, markup=False
                )

        yield move


def emit(document: object) -> None:
    """The JSON document of a command that was asked for one: the only thing on standard output."""
    print(json.dumps(document), file=_OUT.get() or sys.stdout)


@contextmanager
def only_the_document() -> Iterator[None]:
    """Whatever is printed inside, by somebody's code, too, goes to standard error; `emit` to standard
    output.
    """
    token = _OUT.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _OUT.reset(token)


_OUT: ContextVar[TextIO | None] = ContextVar("standard output", default=None)


def failed(message: object, code: int) -> int:
    """Say what stopped a command; `code` again, its exit code."""
    screen.print(f"comdefend: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    return code


def show_models(known: Sequence["Facts"]) -> None:
    """The zoo's facts about weights, in a table."""
    table = Table()
    for heading in ("name", "kind", "on the test images"):  # the data set is in every name
        table.add_column(heading, no_wrap=heading == "name")
    for facts in known:
        table.add_row(facts.name, facts.kind, facts.in_words())
    Console(emoji=False).print(table)


def show_grids(part: "Shown") -> None:
    """A part of the paper's experiments, in tables that fit."""
    console = Console(emoji=False)
    for grid in part.grids:
        console.print(grid.title, style="italic", highlight=False, markup=False)
        for piece in grid.pieces(console.width):
            table = Table()
            for heading in piece.headings:
                table.add_column(heading)
            for cells in piece.lines:
                table.add_row(*cells)
            console.print(table)
    for line in part.notes:
        console.print(line, style="dim", highlight=False, markup=False)


def show_report(report: "Report", paths: dict[str, Path], as_json: bool) -> None:
    """An evaluation's tables and where its page is, or all of it as one JSON document."""
    from comdefend.evaluation.tables import shown

    if as_json:
        results, checks = map(asdict, report.results), map(asdict, report.checks)
        document = {"results": list(results), "checks": list(checks), "notes": report.notes}
        emit({"request": asdict(report.spec) if report.spec else None, **document})
        return
    console = Console(emoji=False)
    for part in shown(report.results, report.checks, report.notes, width=console.width):
        console.print(part)
    print(f"Report: {paths['page']}")


def show_plan(plan: "Plan", as_json: bool) -> None:
    """What an evaluation would run, and about how long it takes."""
    if as_json:
        listed = [
            {"scenario": s.title, "images": s.limit, "seconds": seconds} for s, seconds in plan.scenarios
        ]
        emit({"scenarios": listed, "checks": plan.checks, "seconds": plan.seconds})
        return
    table = Table()
    for heading in ("scenario", "judged", "images", "about"):
        table.add_column(heading, justify="left" if heading in ("scenario", "judged") else "right")
    for scenario, seconds in plan.scenarios:
        images = "all" if scenario.limit is None else str(scenario.limit)
        title = f"trial of a mode, {scenario.title}" if scenario.trial else scenario.title
        table.add_row(title, ", ".join(scenario.defences), images, f"{seconds:.0f} s")
    table.add_row("checks of the evaluation", "", "", f"{plan.checks:.0f} s")
    Console().print(table)
    print(f"About {plan.seconds / 60:.0f} minutes on this machine as busy as it is now.")


class _Rate(ProgressColumn):
    """How many are done in a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")
