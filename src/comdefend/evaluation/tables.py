"""Results as tables: rows are situations, columns defences, every row with protocol and attacker."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from comdefend.evaluation.results import KNOWLEDGE, Result


@dataclass(frozen=True)
class Row:
    """One situation: its protocol, attack and budget as words, and the result of each defence."""

    protocol: str
    attack: str
    budget: str
    results: dict[str, Result]


def rows(results: Sequence[Result]) -> list[Row]:
    """Results grouped by situation, in their order."""
    found: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in results:
        threat = result.threat_model
        budget = f"{threat.budget()} {threat.norm}" if threat else "-"
        key = (result.protocol or "-", result.attack if threat else "no attack", budget)
        found.setdefault(key, {})[result.defence] = result
    return [Row(*key, results=cells) for key, cells in found.items()]


def defences(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.defence for result in results))


def label(defence: str) -> str:
    """A defence's name for headings: "undefended" for none, and paths without their folders."""
    if defence == "none":
        return "undefended"
    return re.sub(r"[^=,:+]*/", "", defence)


def percent(result: Result) -> str:
    low, high = result.interval
    return f"{100 * result.accuracy:.1f} [{100 * low:.0f}, {100 * high:.0f}]"


def caption(results: Sequence[Result]) -> list[str]:
    """What has to be said beside any table of these results."""
    knowledge = sorted({r.threat_model.knowledge for r in results if r.threat_model})
    first = results[0]
    lines = [
        f"Accuracy in % on {first.n} images of {first.data}, classifier {first.classifier}, "
        "with 95 % Wilson intervals."
    ]
    lines += [f"Attacker: {k} - {KNOWLEDGE[k]}." for k in knowledge]
    if any(r.protocol == "fixed" for r in results):
        lines.append("fixed: the attack spends its whole budget (today's standard).")
    if any(r.protocol == "minimal" for r in results):
        lines.append(
            "minimal: the smallest perturbation, up to the budget, that fools the classifier "
            "(what the paper seems to have used)."
        )
    for result in results:
        if result.psnr is not None:
            lines.append(f"{label(result.defence)}: {result.psnr:.2f} dB PSNR on the clean images.")
    return lines


def terminal_table(results: Sequence[Result]) -> Table:
    table = Table(title="Accuracy in %, gray-box attacker")
    for heading in ("protocol", "attack", "epsilon"):
        table.add_column(heading)
    names = defences(results)
    for name in names:
        table.add_column(label(name), justify="right", min_width=13)
    for row in rows(results):
        table.add_row(
            row.protocol, row.attack, row.budget,
            *(percent(row.results[name]) if name in row.results else "" for name in names),
        )  # fmt: skip
    return table
