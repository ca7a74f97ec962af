"""The table and the figure of the page, from the results of its points."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comdefend.evaluation import Result
from comdefend.evaluation.plots import draw_line, pyplot
from experiments.attackers import COLUMNS, by_column, cell, complete
from experiments.markdown import NOT_RUN, decibel, origin, table_of

PICTURE = "frontier.svg"

ROLES = {
    "alone": "Test time alone, before a classifier that never met it (the third-party ResNet-20)",
    "together": "Training and test time: a classifier trained on purified images",
}
DRAWN = {"clean": "#8a8a8a", "2/255": "#2e8540", "8/255": "#1769aa", "white-box, 8/255": "#c8501e"}


@dataclass(frozen=True)
class Point:
    """One purifier that was measured: its facts, and by role and column its results (None: not attacked)."""

    name: str
    facts: dict[str, Any]
    results: list[Result]
    columns: dict[str, dict[str, Result | None]]

    @property
    def rate(self) -> float:
        """Bits of code for each pixel."""
        return float(self.facts["architecture"]["bits"] / self.facts["architecture"]["block"] ** 2)

    @property
    def noise(self) -> float:
        return float(self.facts["recipe"]["purifier"]["noise"])

    @property
    def guided(self) -> bool:
        return bool(self.facts["recipe"]["purifier"]["guides"])


def points(folder: Path) -> list[Point]:
    """The points that are complete, from the highest rate down."""
    names = sorted(file.name.removesuffix(".facts.json") for file in folder.glob("*.facts.json"))
    measured = []
    for name, (results, facts) in complete(folder, names).items():
        columns = {
            role: by_column(
                [
                    r for r in results
                    if (".py:" in r.classifier) == (role == "alone")
                    and r.defence in ("none", facts["reference"])
                ]
            )
            for role in ROLES
        }  # fmt: skip
        measured.append(Point(name, facts, results, columns))
    return sorted(measured, key=lambda point: (-point.rate, point.name))


def table(folder: Path) -> str:
    """Every point: the purifier alone, and with a classifier trained for it."""
    measured = points(folder)
    if not measured:
        return NOT_RUN
    heads = ("point", "bits a pixel", "noise", "loss", "PSNR", *COLUMNS)
    parts = [
        f"![Accuracy against the rate, and against the noise](../experiments/frontier/results/{PICTURE})"
    ]
    for role, title in ROLES.items():
        lines = []
        for point in measured:
            loss = "pixels and logits" if point.guided else "pixels"
            dials = (f"{point.rate:g}", f"{point.noise:g}", loss, decibel(point.facts))
            columns = point.columns[role]
            clean = columns["clean"]
            assert clean is not None
            lines.append((point.name, *dials, *(cell(columns[column], clean.n) for column in COLUMNS)))
        parts.append("\n".join([f"**{title}**", "", *table_of(heads, lines)]))
    return "\n\n".join([*parts, origin(*(vars(r) for point in measured for r in point.results))])


def draw(folder: Path) -> None:
    """The picture: accuracy against either dial, for the purifier alone and for both together."""
    measured = points(folder)
    if not measured:
        return
    plt = pyplot()
    plt.rcParams["svg.hashsalt"] = "frontier"  # the same picture, the same file
    figure, axes = plt.subplots(
        len(ROLES), 2, figsize=(8.4, 6.0), sharey=True, sharex="col", squeeze=False, layout="constrained"
    )
    dials: dict[str, Callable[[Point], float]] = {"rate": lambda p: p.rate, "noise": lambda p: p.noise}
    usual = next((p for p in measured if p.facts["dial"] == "rate" and p.rate == 3), None)
    for row, (role, title) in zip(axes, ROLES.items(), strict=True):
        for axis, (dial, value) in zip(row, dials.items(), strict=True):
            chosen = [p for p in measured if p.facts["dial"] == dial]
            if dial == "noise" and usual:  # the one point that both dials share
                chosen.append(usual)
            chosen.sort(key=value)
            for column, colour in DRAWN.items():
                _line(axis, [(value(p), p.columns[role][column]) for p in chosen], colour, column)
                for point in measured if dial == "noise" else ():
                    result = point.columns[role][column]
                    if point.guided and result:
                        axis.plot([value(point)], [100 * result.accuracy], "*", color=colour, markersize=9)
            axis.set_ylim(-3, 103)
            axis.grid(alpha=0.25)
            axis.set_title(title.split(",")[0].split(":")[0], fontsize=9)
        row[0].set_xscale("log", base=2)
        rates = sorted({p.rate for p in measured if p.facts["dial"] == "rate"})
        row[0].set_xticks(rates, [f"{rate:g}" for rate in rates])
        row[0].minorticks_off()
        row[0].set_ylabel("accuracy in %", fontsize=9)
    axes[-1][0].set_xlabel("bits a pixel (noise 8)", fontsize=9)
    axes[-1][1].set_xlabel("noise in training, in 1/255 (3 bits a pixel; star: guided)", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(DRAWN), fontsize=9, frameon=False)
    figure.savefig(folder / PICTURE, metadata={"Date": None})
    plt.close(figure)


def _line(axis: Any, values: Sequence[tuple[float, Result | None]], colour: str, name: str) -> None:
    there = [(x, result) for x, result in values if result is not None]
    label = name if name == "clean" or "white" in name else f"gray-box, {name}"
    accuracies = [(result.accuracy, result.interval) for _, result in there]
    draw_line(axis, [x for x, _ in there], accuracies, colour=colour, name=label)
