"""What the generated parts of several pages share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from comdefend.evaluation import Result
from comdefend.evaluation.tables import change, percent
from comdefend.evaluation.worst_case import WORST, worst_of

BUDGETS = (2, 4, 8, 16)
"""In units of 1/255."""

COLUMNS = (
    "clean", *(f"{e}/255" for e in BUDGETS), "BIM-50, 8/255", "other networks', 8/255", "white-box, 8/255",
)  # fmt: skip
"""Of what benchmarks/withstood.py measures."""


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return [head, "|---" * len(heads) + "|", *body]


def decibel(entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{entry['psnr']:.2f} [{low:.2f}, {high:.2f}]"


def origin(*made: Mapping[str, Any]) -> str:
    """Where the numbers of a table come from: of several measurements all that differs is named."""
    seeds, commits = _each(m["seed"] for m in made), _each(m["commit"] for m in made)
    machines = _each(_machine(m["hardware"]) for m in made)
    torch = _each(m["software"]["torch"] for m in made)
    return f"<sub>seed {seeds}, commit {commits}, {machines}, torch {torch}</sub>"


def _machine(hardware: Mapping[str, Any]) -> str:
    """The GPU where there is one, and the processor."""
    cores = f"{hardware['cores']} cores ({hardware['processor']})"
    return f"{hardware['gpu']}, {cores}" if "gpu" in hardware else cores


def _each(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def attacked(results: Iterable[Result], epsilon: int, knowledge: str) -> list[Result]:
    """Those of an attacker of that knowledge at a budget in units of 1/255, without worst cases."""
    return [
        r for r in results
        if r.threat_model and r.attack != WORST and r.knowledge == knowledge
        and abs((r.threat_model.epsilon or 0) - epsilon / 255) < 1e-9
    ]  # fmt: skip


def worst_case(clean: Mapping[int, Result], made: Sequence[Result]) -> Result | None:
    """The worst, image by image, of attacks of one attacker, if any; `clean` are the results without an
    attack, by their number of images.
    """
    if not made or made[0].threat_model is None:
        return None
    return worst_of(clean[max(r.n for r in made)], made, made[0].threat_model)


def by_column(results: list[Result]) -> dict[str, Result | None]:
    """By column, of the last defence among results (undefended: of none): clean, the worst of the gray-box
    attacks at each budget, and the others.
    """
    own = [r for r in results if r.defence != "none"] or results
    # Of each number of images one: 100 images are not the first 100 of 300.
    clean = {r.n: r for r in own if r.threat_model is None}

    def worst(wanted: Callable[[Result], bool], epsilon: int, knowledge: str = "gray-box") -> Result | None:
        return worst_case(clean, [r for r in attacked(own, epsilon, knowledge) if wanted(r)])

    found = [
        clean[max(clean)],
        *(worst(lambda r: not r.source and ":" not in r.attack, epsilon) for epsilon in BUDGETS),
        worst(lambda r: r.attack.startswith("bim:"), 8),
        worst(lambda r: bool(r.source), 8),
        worst(lambda _: True, 8, "white-box"),
    ]
    return dict(zip(COLUMNS, found, strict=True))


def cell(result: Result | None, most: int, whole: Result | None = None) -> str:
    """Accuracy with its interval, or with the paired difference from `whole`, where there is one of as many
    images; how many images, where others had more (`most`).
    """
    if result is None:
        return ""
    few = f" n={result.n}" if result.n < most else ""
    if whole is None or whole.n != result.n:
        return percent(result) + few
    return f"{100 * result.accuracy:.1f}, {change(result, whole)}{few}"
