"""Results as tables: rows are situations, columns defences, every row with protocol and attacker."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from comdefend.evaluation.adaptive import WORST
from comdefend.evaluation.checks import Check
from comdefend.evaluation.results import KNOWLEDGE, Result


@dataclass(frozen=True)
class Row:
    """One situation: its protocol, attack, budget and attacker as words, and the result of each defence."""

    protocol: str
    attack: str
    budget: str
    results: dict[str, Result]
    attacker: str = "-"

    def words(self) -> tuple[str, str, str, str]:
        """Attacker, protocol, attack and budget, for the first columns of a table."""
        return self.attacker, self.protocol, self.attack, self.budget


HEADINGS = ("attacker", "protocol", "attack", "epsilon")
"""Of `Row.words`."""


def rows(results: Sequence[Result]) -> list[Row]:
    """Results grouped by situation, in their order."""
    found: dict[tuple[str, str, str, str], dict[str, Result]] = {}
    for result in results:
        threat = result.threat_model
        budget = f"{threat.budget()} {threat.norm}" if threat else "-"
        attack = result.attack if threat else "no attack"
        if result.via:
            attack += f" ({result.via})"
        key = (result.protocol or "-", attack, budget, threat.knowledge if threat else "-")
        found.setdefault(key, {})[result.defence] = result
    return [Row(p, a, b, cells, attacker) for (p, a, b, attacker), cells in found.items()]


@dataclass(frozen=True)
class Headline:
    """One defence at one budget: without an attack, and the worst case for each attacker."""

    defence: str
    clean: Result
    budget: str
    worst: dict[str, Result]


def headlines(results: Sequence[Result]) -> list[Headline]:
    """What to read first of an evaluation that knows attackers beside the gray-box one."""
    clean = {r.defence: r for r in results if r.threat_model is None}
    found: dict[tuple[str, str], dict[str, Result]] = {}
    for result in results:
        if result.attack == WORST and result.threat_model:
            key = (f"{result.threat_model.budget()} {result.threat_model.norm}", result.defence)
            found.setdefault(key, {})[result.threat_model.knowledge] = result
    return [Headline(name, clean[name], budget, worst) for (budget, name), worst in found.items()]


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


def card(results: Sequence[Result]) -> dict[str, str]:
    """The threat model of results in words, by heading: no table of them is to be shown without it."""
    first = results[0]
    threats = [r.threat_model for r in results if r.threat_model]
    budgets = dict.fromkeys(f"{t.norm} {t.budget()}" for t in threats)
    found = {
        "Accuracy": f"in % on {max(r.n for r in results)} images of {first.data}, with 95 % Wilson intervals",
        "Classifier": first.classifier,
    }
    if threats:
        found["Norm and epsilon"] = ", ".join(budgets)
        found["Goal"] = " and ".join(dict.fromkeys(_GOALS[t.goal] for t in threats))
    for knowledge, meaning in KNOWLEDGE.items():
        if any(t.knowledge == knowledge for t in threats):
            found[f"Attacker ({knowledge})"] = meaning
    found |= {
        f"Protocol ({name})": meaning
        for name, meaning in _PROTOCOLS.items()
        if any(r.protocol == name for r in results)
    }
    if any(r.attack == WORST for r in results):
        found["Worst case"] = (
            "an image counts as right if none of the attacks broke it; "
            "the white-box attacker may make those of the others too"
        )
    random = list(dict.fromkeys(label(r.defence) for r in results if r.stochastic))
    adaptive = any(r.repeats for r in results)
    found["Randomness"] = (
        (
            f"random: {', '.join(random)}"
            + ("; under adaptive attacks the majority of 20 draws counts" if adaptive else "")
        )
        if random
        else "no defence here is random"
    )
    quality = [f"{label(r.defence)} {r.psnr:.2f} dB" for r in results if r.psnr is not None]
    if quality:
        found["PSNR on clean images"] = ", ".join(quality)
    return found


_GOALS = {"untargeted": "untargeted: any wrong class"}

_PROTOCOLS = {
    "fixed": "the attack spends its whole budget (today's standard)",
    "minimal": "the smallest perturbation, up to the budget, that fools the classifier (what the paper seems "
    "to have used)",
}


def caption(results: Sequence[Result]) -> list[str]:
    """The threat model as lines of text."""
    return [f"{heading}: {text}." for heading, text in card(results).items()]


def terminal_table(results: Sequence[Result]) -> Table:
    """All situations but the worst cases, which are the headline's."""
    attackers = {r.threat_model.knowledge for r in results if r.threat_model}
    several = len(attackers) > 1
    table = Table(
        title=f"Accuracy in %{'' if several else f', {next(iter(attackers))} attacker' if attackers else ''}"
    )
    for heading in HEADINGS[0 if several else 1 :]:
        table.add_column(heading, overflow="fold")  # an attack's name tells it by its end
    names = defences(results)
    for name in names:
        table.add_column(label(name), justify="right", min_width=13, overflow="fold")
    for row in rows([r for r in results if r.attack != WORST]):
        table.add_row(
            *row.words()[0 if several else 1 :],
            *(counted(row.results[name], results) if name in row.results else "" for name in names),
        )  # fmt: skip
    return table


def headline_table(results: Sequence[Result]) -> Table:
    """The worst case over all attacks, for each attacker."""
    table = Table(title="Worst case over all attacks, accuracy in %")
    for heading in ("epsilon", "defence", "clean", *KNOWN):
        table.add_column(heading, justify="left" if heading in ("epsilon", "defence") else "right")
    for line in headlines(results):
        table.add_row(
            line.budget, label(line.defence), percent(line.clean),
            *(counted(line.worst[k], results) if k in line.worst else "" for k in KNOWN),
        )  # fmt: skip
    return table


KNOWN = ("gray-box", "white-box")
"""The attackers whose worst cases are shown."""


def counted(result: Result, results: Sequence[Result]) -> str:
    """Accuracy with its interval, and the number of images where it is fewer than of the others."""
    fewer = f" n={result.n}" if result.n < max(r.n for r in results) else ""
    return percent(result) + fewer


def check_table(checks: Sequence[Check]) -> Table:
    """What an evaluation says of itself; what a line means is said where it is not "pass"."""
    table = Table(title="Checks of the evaluation")
    for heading in ("defence", "check", "", "found"):
        table.add_column(heading)
    colours = {"pass": "green", "warn": "yellow", "fail": "bold red"}
    for check in checks:
        found = check.figure if check.status == "pass" else f"{check.figure}: {check.meaning}"
        table.add_row(
            escape(label(check.defence)), check.name, f"[{colours[check.status]}]{check.status}[/]",
            escape(found),
        )  # fmt: skip
    return table
