"""The command line: `python -m experiments list | run NAME [PART ...] | render [--check] [NAME ...]`."""

import os
from typing import Annotated

import typer

from experiments.experiment import load, names, title
from experiments.pages import generated, stale
from experiments.resources import ROOT

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def _known(name: str) -> str:
    if name not in names():
        raise typer.BadParameter(f"there is no experiment {name!r}, there are: {', '.join(names())}")
    return name


Name = Annotated[str, typer.Argument(callback=_known)]


@app.command("list")
def list_() -> None:
    """Name the experiments: how many of their parts are up to date, and the titles of their pages."""
    for name in names():
        experiment = load(name)
        done = sum(map(experiment.done, experiment.parts))
        print(f"{name:16} {done:2}/{len(experiment.parts):<2}  {title(name)}")


@app.command()
def run(name: Name, parts: Annotated[list[str] | None, typer.Argument(metavar="[PART]...")] = None) -> None:
    """Run parts of an experiment, by default all that are not up to date; interrupted runs continue."""
    experiment = load(name)
    for part in parts or []:
        if part not in experiment.parts:
            raise typer.BadParameter(f"{name} has no part {part!r}, it has: {', '.join(experiment.parts)}")
    experiment.run(parts or [part for part in experiment.parts if not experiment.done(part)])


@app.command()
def render(
    selected: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if a page is stale.")
    ] = False,
) -> None:
    """Write the pages of experiments, by default of all, with the README's tables and the JSON schemas."""
    chosen = [_known(name) for name in selected or names()]
    pages = generated(chosen, others=not selected)
    old = stale(pages)
    if not check:
        for page in old:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(pages[page])
        for name in chosen:
            load(name).draw()
    print("\n".join(str(page.relative_to(ROOT)) for page in old) or "up to date")
    if check and old:
        raise typer.Exit(1)


if __name__ == "__main__":
    os.chdir(ROOT)
    app(prog_name="python -m experiments")
