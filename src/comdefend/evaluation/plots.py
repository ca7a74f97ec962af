"""Results to look at: accuracy against epsilon, and grids of what attack and defence did to images."""

import base64
from collections.abc import Sequence
from io import BytesIO
from itertools import cycle
from textwrap import fill
from typing import Any

import torch
from torch import Tensor

from comdefend.errors import MissingExtraError
from comdefend.evaluation.checks import Check
from comdefend.evaluation.judge import Example
from comdefend.evaluation.results import Result, wilson
from comdefend.evaluation.tables import defences, label
from comdefend.evaluation.worst_case import WORST
from comdefend.image import code_picture, to_bytes

_COLOURS = ("#8a8a8a", "#1769aa", "#c8501e", "#2e8540", "#7b3fa0", "#b0892b")


def accuracy_plot(results: Sequence[Result]) -> Any:
    """One panel for each protocol and attack: accuracy of each defence against epsilon, with intervals."""
    plt = pyplot()
    panels: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        threat = result.threat_model
        # Of the many attacks that know the defence, the worst case is drawn.
        if threat is not None and (
            (threat.knowledge == "gray-box" and not result.source) or result.attack == WORST
        ):
            panels.setdefault((_kind(result), result.attack), []).append(result)
    clean = {r.defence: r for r in results if r.protocol is None}
    columns = max(1, min(4, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.2 * columns, 2.9 * lines), squeeze=False, sharey=True, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    names = defences(results)
    for axis, ((kind, attack), cells) in zip(axes.flat, panels.items(), strict=False):
        for colour, name in zip(cycle(_COLOURS), names, strict=False):
            points = [r for r in cells if r.defence == name]
            if name in clean:
                points = [clean[name], *points]
            xs = [_position(r, k) for k, r in enumerate(points)]
            draw_line(axis, xs, [(r.accuracy, r.interval) for r in points], colour=colour, name=label(name))
        unlimited = any(r.threat_model and r.threat_model.epsilon is None for r in cells)
        axis.set_title(f"{attack}, {kind}", fontsize=10)
        length = any(r.threat_model and r.threat_model.norm == "l2" for r in cells)
        budget = "epsilon (length)" if length else "epsilon x 255"
        axis.set_xlabel("clean, attacked (no budget)" if unlimited else budget, fontsize=9)
        if unlimited:
            axis.set_xticks([0, 1], ["clean", "attacked"])
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("accuracy in %", fontsize=9)
    if panels:
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def draw_line(
    axis: Any,
    xs: Sequence[float],
    found: Sequence[tuple[float, tuple[float, float]]],
    *,
    colour: str,
    name: str,
) -> None:
    """Accuracies with their intervals (shares) as a line in %, on an axis of Matplotlib."""
    axis.errorbar(
        xs,
        [100 * share for share, _ in found],
        yerr=[
            [100 * (share - low) for share, (low, _) in found],
            [100 * (high - share) for share, (_, high) in found],
        ],
        color=colour, marker="o", markersize=4, capsize=2, linewidth=1.4, label=name,
    )  # fmt: skip


def curve_plot(checks: Sequence[Check]) -> Any:
    """What an attacker who knows the defence leaves at budgets from tiny to absurd, as the checks found: a
    panel for each norm.
    """
    plt = pyplot()
    curves = [check for check in checks if check.curve]
    panels = [
        (title, unit, own)
        for title, unit, own in (
            ("epsilon x 255 (L-infinity)", 255, [c for c in curves if c.norm == "linf"]),
            ("epsilon (L2, length)", 1, [c for c in curves if c.norm == "l2"]),
        )
        if own
    ]
    figure, axes = plt.subplots(
        1, max(1, len(panels)), figsize=(1.4 + 5 * max(1, len(panels)), 3.6), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, (title, unit, own) in zip(axes[0], panels, strict=False):
        for colour, check in zip(cycle(_COLOURS[1:]), own, strict=False):
            budgets, left = zip(*check.curve, strict=True)
            found = [(share, wilson(round(share * check.images), check.images)) for share in left]
            xs = [unit * budget for budget in budgets]
            draw_line(axis, xs, found, colour=colour, name=label(check.defence))
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(title, fontsize=9)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("accuracy in %", fontsize=9)
    axes[0][0].set_ylim(-3, 103)
    axes[0][0].legend(fontsize=9, frameon=False)
    return figure


def example_plot(example: Example, classes: Sequence[str]) -> Any:
    """Clean image, attacked image, magnified difference, code, and purified image, with predictions.

    A name in green is right, in red wrong.
    """
    plt = pyplot()
    magnified, factor = _magnify(example.adversarial - example.clean)
    rows: list[tuple[str, Tensor, Tensor | None]] = [
        ("clean", example.clean, example.clean_predictions),
        ("attacked", example.adversarial, example.predictions["none"]),
        (f"difference x {factor}", magnified, None),
    ]
    for name, purified in example.purified.items():
        if name == "none":
            continue
        if name in example.codes:
            rows.append((f"code of {label(name)}", code_picture(example.codes[name]), None))
        rows.append((f"purified by {label(name)}", purified, example.predictions[name]))
    count = len(example.clean)
    figure, axes = plt.subplots(
        len(rows),
        count,
        figsize=(1.1 * count + 1.5, 1.28 * len(rows) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for line, (title, images, predictions) in zip(axes, rows, strict=True):
        line[0].set_ylabel(fill(title, 18), rotation=0, ha="right", va="center", fontsize=9)
        for column, axis in enumerate(line):
            pixels = to_bytes(images[column]).permute(1, 2, 0).numpy()
            axis.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
            if predictions is not None:
                predicted = int(predictions[column])
                right = predicted == int(example.labels[column])
                axis.set_title(
                    classes[predicted] if predicted < len(classes) else str(predicted),
                    fontsize=8, pad=2, color="#2e8540" if right else "#b3261e",
                )  # fmt: skip
    figure.suptitle(example.title, fontsize=10)
    return figure


def as_png(figure: Any, *, dots: int = 110) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dots)
    pyplot().close(figure)
    return buffer.getvalue()


def as_data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _kind(result: Result) -> str:
    """The attacker, and the protocol where there is a choice."""
    assert result.threat_model is not None
    known = result.threat_model.knowledge
    norm = "" if result.threat_model.norm == "linf" or result.threat_model.epsilon is None else ", L2"
    return f"{known}{norm}" if result.protocol == "any" else f"{result.protocol}, {known}"


def _position(result: Result, index: int) -> float:
    if result.threat_model is None:
        return 0.0
    if result.threat_model.epsilon is None:
        return float(index)
    return result.threat_model.epsilon * (255 if result.threat_model.norm == "linf" else 1)


def _magnify(difference: Tensor) -> tuple[Tensor, int]:
    """The difference around grey, times the largest whole number that keeps most of it in range."""
    largest = float(torch.quantile(difference.abs().flatten()[:1_000_000], 0.99).clamp_min(1e-4))
    factor = max(1, int(0.5 / largest))
    return (0.5 + factor * difference).clamp(0, 1), factor


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files only."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("plots", extra="evaluate", package="matplotlib") from error
    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a class may be called "$x^$"
    import matplotlib.pyplot

    return matplotlib.pyplot
