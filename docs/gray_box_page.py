"""The table of docs/robust.md on training against the attacker who does not know the purifier, from what
benchmarks/gray_box.py left.
"""

from collections.abc import Sequence
from pathlib import Path

from pages import attacked, cell, origin, table_of, worst_case

from comdefend.evaluation import Result, read_results

PAIRS = {
    "cifar10-start": ("CIFAR-10, before", 8),
    "cifar10": ("CIFAR-10, trained", 8),
    "cifar10-robust": ("CIFAR-10, robust pair", 8),
    "fashion-mnist-start": ("Fashion-MNIST, before", 25),
    "fashion-mnist": ("Fashion-MNIST, trained", 25),
    "fashion-mnist-robust": ("Fashion-MNIST, robust pair", 25),
}
"""Titles and budgets in 1/255 by the name of their results, in the order of the table."""

UNDER_ATTACK = "-bim"
"""Networks whose name ends so were trained under attack."""

SINGLE = {"fgsm": "FGSM", "bim": "BIM", "mi-fgsm": "MI-FGSM", "pgd": "PGD"}
FIFTY = "bim:"
"""BIM with settings of its own, the number of steps."""

ROWS = (
    "clean",
    *(f"{title} on the classifier" for title in SINGLE.values()),
    "**these four**",
    "PGD on other networks trained on clean images",
    "PGD on a network trained under attack",
    "**all of these**",
    "clean, the hundred alone",
    "BIM with fifty steps on the classifier",
    "PGD through the purifier (white-box)",
)


def table(folder: Path) -> str:
    """A column for each pair that was measured to its end, its title, and one line for each attacker."""
    columns: dict[str, list[str]] = {}
    made: list[Result] = []
    for name, (title, epsilon) in PAIRS.items():
        if (folder / f"{name}.facts.json").is_file():
            results = read_results(folder / f"{name}.json")
            columns[f"{title}, {epsilon}/255"] = column(results, epsilon)
            made += results
    if not made:
        return "Not run yet."
    lines = [(row, *(cells[i] for cells in columns.values())) for i, row in enumerate(ROWS)]
    return "\n".join([*table_of(("attack", *columns), lines), "", origin(*map(vars, made))])


def column(results: Sequence[Result], epsilon: int) -> list[str]:
    """What is left of one pair, by row."""
    own = [r for r in results if r.defence != "none"]
    clean = {r.n: r for r in own if r.threat_model is None}
    most = max(clean)
    unaware = attacked(own, epsilon, "gray-box")
    transfers = [r for r in unaware if r.source]
    four = [r for r in unaware if r.attack in SINGLE and not r.source]
    wary = [r for r in transfers if str(r.source).endswith(UNDER_ATTACK)]
    fifty = [r for r in unaware if r.attack.startswith(FIFTY)]
    found = [
        clean[most],
        *(next((r for r in four if r.attack == attack), None) for attack in SINGLE),
        worst_case(clean, four),
        worst_case(clean, [r for r in transfers if r not in wary]),
        worst_case(clean, wary),
        worst_case(clean, [*four, *transfers]),
        clean[max(r.n for r in fifty)] if fifty else None,
        worst_case(clean, fifty),
        worst_case(clean, attacked(own, epsilon, "white-box")),
    ]
    return [cell(one, most) for one in found]
