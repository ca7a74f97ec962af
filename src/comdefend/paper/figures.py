"""Figures 3 and 4, as SVG and PNG in the paper's arrangement."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comdefend import provenance
from comdefend.atomic import write_json
from comdefend.data import load_data
from comdefend.evaluation import Result
from comdefend.evaluation.plots import pyplot
from comdefend.image import code_picture, psnr, to_bytes
from comdefend.model import ComDefend
from comdefend.paper.accuracy import Outcome, run_table
from comdefend.paper.numbers import TABLE5
from comdefend.paper.pages import NAMES, origin_of
from comdefend.paper.settings import Grid, Progress, Settings, Shown
from comdefend.paper.trainings import STEPS, Point, read_content, trained
from comdefend.purifiers import load_comdefend

STAGES = (1, 3, 5)
"""Fifths of the training at which figure 3 looks: the paper's 10,000, 30,000 and 50,000 steps."""

PICTURES = 5

KINDS = {
    "a": ("soft code, trained without noise", Point(phi=0.0, gain=1.0)),
    "b": ("hard code, trained without noise", Point(phi=0.0, gain=1.0)),
    "c": ("hard code, trained with noise", Point()),
    "d": ("hard code, trained without noise, gain 20", Point(phi=0.0)),
}
"""The three parts of figure 3, with what is trained for them, and a fourth that is not the paper's: with the
gain that lets (c) be trained in few steps, a code is nearly binary without any noise.
"""


def figure3(settings: Settings, *, output: Path, progress: Progress | None = None) -> Shown:
    """Reconstructions along training: what noise before the sigmoid does for a hard code."""
    steps = STEPS if settings.steps is None else settings.steps
    data = load_data(settings.data or "cifar10", split="test")
    images = data.images(data.pick(PICTURES, seed=settings.seed))
    stages = sorted({max(1, steps * fifth // STAGES[-1]) for fifth in STAGES})  # fewer, of very short ones
    parts: dict[str, tuple[Tensor, list[Tensor]]] = {}
    entries: list[dict[str, Any]] = []
    for kind, (words, point) in KINDS.items():
        made = []
        for done, stage in enumerate(stages):
            if progress:
                progress(len(entries), len(KINDS) * len(stages), f"{words}, {stage} steps")
            # A run of its own for each stage: each ends with its learning rate at zero, as a run does.
            weights = trained(point, settings, steps=stage)
            model = load_comdefend(str(weights)).model
            code, purified = _through(model, images, soft=kind == "a")
            made.append(purified)
            entries.append({"part": kind, "steps": stage, "psnr": float(psnr(purified, images).mean())})
            if done == len(stages) - 1:
                parts[kind] = (code_picture(code), made)
    _save(_draw_figure3(images, parts, stages), output, "figure3")
    content = {
        "entries": entries, "images": PICTURES, "data": data.name, "seed": settings.seed, **provenance.made(),
    }  # fmt: skip
    write_json(output / "figure3.json", content)
    return show_figure3(output / "figure3.json")


def show_figure3(file: Path) -> Shown:
    """Figure 3 in numbers, from its results file; the pictures lie beside it."""
    content = read_content(file)
    entries = content["entries"]
    lines = [
        [f"({kind}) {words}", *(f"{e['psnr']:.2f}" for e in entries if e["part"] == kind)]
        for kind, (words, _) in KINDS.items()
    ]
    stages = sorted({entry["steps"] for entry in entries})
    grid = Grid("Figure 3 in numbers: PSNR in dB", ["", *(f"{stage} steps" for stage in stages)], lines)
    notes = [
        f"{content['images']} test images of {content['data']}; shortened trainings of the recipe cifar10. "
        "The paper: (c) looks like (a), and (b) loses the image; it has no (d).",
    ]
    return Shown("figure3", [grid], notes, [*_files(file.parent, "figure3"), file], content)


def figure4(settings: Settings, *, output: Path, progress: Progress | None = None) -> Shown:
    """Bars of table 5's ComDefend rows under the four attacks, the undefended classifier dotted."""
    outcome = run_table(TABLE5, settings, output=output, progress=progress)
    _save(draw_figure4(outcome), output, "figure4")
    return show_figure4(outcome, output)


def show_figure4(outcome: Outcome, folder: Path) -> Shown:
    """What is said beside figure 4, which lies in `folder`."""
    first = outcome.results[0][1]
    notes = [
        f"Drawn from table5.json: {outcome.table.title} there, {first.classifier} here; gray-box; "
        "one panel for each protocol and use.",
    ]
    return Shown("figure4", [], notes, _files(folder, "figure4"), origin_of([r for _, r in outcome.results]))


def draw_figure4(outcome: Outcome) -> Any:
    """The figure from table 5's cells."""
    plt = pyplot()
    uses = [row for row in outcome.table.rows if row.defence == "ComDefend" and row not in outcome.missing]
    bare = next(row for row in outcome.table.rows if row.defence == "none")
    protocols = list(dict.fromkeys(c.protocol for c, _ in outcome.results if c.protocol))
    figure, axes = plt.subplots(
        len(protocols), max(1, len(uses)), figsize=(4.6 * max(1, len(uses)), 3.1 * len(protocols)),
        squeeze=False, sharey=True, layout="constrained",
    )  # fmt: skip
    shades = ("#9ec3e0", "#4a90c2", "#17507d")
    for line, protocol in zip(axes, protocols, strict=True):
        for axis, use in zip(line, uses, strict=False):
            ticks = []
            for place, attack in enumerate(outcome.table.attacks):
                cells = [
                    (c.epsilon, r)
                    for c, r in outcome.results
                    if (c.row, c.attack, c.protocol) == (use, attack, protocol)
                ]
                for index, (epsilon, result) in enumerate(cells):
                    width = 0.8 / len(cells)
                    x = place - 0.4 + (index + 0.5) * width
                    errors = _errors(result)
                    axis.bar(
                        x, 100 * result.accuracy, 0.92 * width, color=shades[index % 3],
                        yerr=errors, capsize=2, label=f"epsilon {epsilon}" if epsilon else None,
                    )  # fmt: skip
                    undefended = next(
                        r for c, r in outcome.results
                        if (c.row, c.attack, c.protocol, c.epsilon) == (bare, attack, protocol, epsilon)
                    )  # fmt: skip
                    level = 100 * undefended.accuracy
                    axis.hlines(level, x - width / 2, x + width / 2, color="#b3261e", linestyle=":")
                if cells:
                    ticks.append((place, NAMES[attack]))
            axis.set_xticks([t for t, _ in ticks], [n for _, n in ticks])
            axis.set_title(f"ComDefend at {use.when} time, {protocol}", fontsize=10)
            axis.set_ylim(0, 100)
            axis.grid(axis="y", alpha=0.25)
        line[0].set_ylabel("accuracy in %, gray-box")
    handles, labels = axes[0][0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        [*unique.values(), plt.Line2D([], [], color="#b3261e", linestyle=":")], [*unique, "undefended"],
        loc="outside lower center", ncols=4, fontsize=9, frameon=False,
    )  # fmt: skip
    return figure


def _errors(result: Result) -> list[list[float]]:
    low, high = result.interval
    return [[100 * (result.accuracy - low)], [100 * (high - result.accuracy)]]


def _through(model: ComDefend, images: Tensor, *, soft: bool) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        if soft:
            code = torch.sigmoid(model.com(images))
            return code, model.decompress(code)
        code = model.compress(images)
        return code, model.decompress(code)


def _draw_figure3(images: Tensor, parts: dict[str, tuple[Tensor, list[Tensor]]], stages: list[int]) -> Any:
    plt = pyplot()
    rows: list[tuple[str, Tensor]] = [("original", images)]
    for kind, (code, made) in parts.items():
        rows.append((f"({kind}) 12-bit map", code))
        rows += [(f"({kind}) {stage} steps", purified) for stage, purified in zip(stages, made, strict=True)]
    figure, axes = plt.subplots(
        len(rows), len(images), figsize=(1.1 * len(images) + 1.4, 1.1 * len(rows)),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for line, (title, row) in zip(axes, rows, strict=True):
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
        for axis, pixels in zip(line, to_bytes(row).permute(0, 2, 3, 1).numpy(), strict=True):
            axis.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
    return figure


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.svg", folder / f"{name}.png"]


def _save(figure: Any, output: Path, name: str) -> None:
    for file in _files(output, name):
        # Without a date and with fixed names inside, a figure drawn twice is the same file.
        with pyplot().rc_context({"svg.hashsalt": name}):
            dated = {"Date": None} if file.suffix == ".svg" else None
            figure.savefig(file, dpi=130, metadata=dated)
    pyplot().close(figure)
