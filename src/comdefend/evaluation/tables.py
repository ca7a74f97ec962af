"""Results as tables: rows are situations, columns defences, every row with protocol and attacker."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Literal

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from comdefend.evaluation.checks import Check, made_at
from comdefend.evaluation.judge import REPEATS
from comdefend.evaluation.results import Result, paired_difference
from comdefend.evaluation.worst_case import WORST
from comdefend.threat import KNOWLEDGE, Knowledge


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
        budget = threat.in_words() if threat else "-"
        attack = result.attack if threat else "no attack"
        if result.via:
            attack += f" ({label(result.via)})"
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
            key = (result.threat_model.in_words(), result.defence)
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
    return f"{100 * result.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def change(result: Result, reference: Result) -> str:
    """By how many points a result is above another of the same images, with its interval."""
    difference, (low, high) = paired_difference(result, reference)
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


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
    if any(r.knowledge == "gray-box" and r.source for r in results):
        found["Attacker (gray-box)"] += (
            "; transfers are made through what they name, as by one who suspects such a defence or has "
            "another network"
        )
    found |= {
        f"Protocol ({name})": meaning
        for name, meaning in _PROTOCOLS.items()
        if any(r.protocol == name for r in results)
    }
    if any(r.attack == WORST for r in results):
        found["Worst case"] = (
            "an image counts as right if none of the attacks broke it, of the images that every attack was "
            "given; the white-box attacker may make the gray-box attacker's, too"
        )
    random = list(dict.fromkeys(label(r.defence) for r in results if r.stochastic))
    found["Randomness"] = (
        (
            f"random: {', '.join(random)}"
            + f"; every image is judged in {REPEATS} draws, and its share of right ones counts"
        )
        if random
        else "no defence here is random"
    )
    quality = [(label(r.defence), r.psnr) for r in results if r.psnr is not None]
    if quality:
        found["PSNR on clean images"] = ", ".join(f"{name} {psnr:.2f} dB" for name, psnr in quality)
        if max(psnr for _, psnr in quality) > NEARLY_UNCHANGED:
            found["PSNR on clean images"] += " (an unchanged image counts as 100 dB)"
    return found


NEARLY_UNCHANGED = 60
"""A mean PSNR in dB that is larger has images in it that a purifier left as they were."""

_GOALS = {"untargeted": "untargeted: any wrong class"}

_PROTOCOLS = {
    "fixed": "the attack may spend its whole budget (today's standard)",
    "minimal": "the smallest perturbation, up to the budget, that fools the classifier (what the paper seems "
    "to have used)",
}


def caption(results: Sequence[Result]) -> list[str]:
    """The threat model as lines of text."""
    return [f"{heading}: {text}." for heading, text in card(results).items()]


def shown(
    results: Sequence[Result], checks: Sequence[Check], notes: Sequence[str], *, width: int
) -> list[RenderableType]:
    """All that a terminal of `width` characters shows of an evaluation: the headline first."""
    found: list[RenderableType] = [headline_table(results)] if headlines(results) else []
    if more := added(results):
        found.append(_attackers_table(f"{ADDED} (95 % paired)", results, more))
    found += [check_table(checks)] if checks else []
    found += terminal_tables(results, width=width)
    return [*found, *(Text(line, style="dim") for line in (*caption(results), *notes))]


def as_text(
    results: Sequence[Result], checks: Sequence[Check], notes: Sequence[str], *, width: int = 100
) -> str:
    """The same as text without colours."""
    buffer = StringIO()
    # Plain whatever the surroundings say: notebooks and FORCE_COLOR would divert or colour it.
    console = Console(file=buffer, width=width, force_terminal=False, force_jupyter=False, color_system=None)
    for part in shown(results, checks, notes, width=width):
        console.print(part)
    return buffer.getvalue().rstrip("\n")


def terminal_tables(results: Sequence[Result], *, width: int = 80) -> list[Table]:
    """Tables for each attacker, with all situations but the worst cases, which are the headline's: as many
    defences side by side as `width` characters hold.
    """
    names = defences(results)
    clean = [r for r in results if r.threat_model is None]
    attacked = [r for r in results if r.threat_model and r.attack != WORST]
    attackers = dict.fromkeys(r.knowledge for r in attacked)
    tables = []
    for attacker in attackers or ("no",):
        own = [r for r in attacked if r.knowledge == attacker]
        found = rows([*clean, *own])
        protocols = {row.protocol for row in found} - {"-"}
        named = "" if len(protocols) > 1 else "".join(f", {protocol}" for protocol in protocols)
        words = [row.words()[1 if len(protocols) > 1 else 2 :] for row in found]
        columns = dict(zip(HEADINGS[-len(words[0]) :], zip(*words, strict=True), strict=True))
        widths = {heading: max(map(len, (heading, *column))) for heading, column in columns.items()}
        longest = max(len(word) for text in columns["attack"] for word in text.split())
        needed = {**widths, "attack": min(longest, _ATTACK)}
        room = width - 1 - sum(w + 3 for w in needed.values())
        side_by_side = max(1, room // (_CELL + 3))
        for start in range(0, len(names), side_by_side):
            part = names[start : start + side_by_side]
            left = room - len(part) * (_CELL + 3)
            table = Table(title=f"Accuracy in %, {attacker} attacker{named}")
            for heading, least in needed.items():
                wide = min(widths[heading], least + max(left, 0)) if heading == "attack" else least
                table.add_column(heading, width=wide, overflow="fold")
            for name in part:
                table.add_column(escape(label(name)), justify="right", width=_CELL, overflow="fold")
            for row, first in zip(found, words, strict=True):
                cells = [counted(row.results[name], results) if name in row.results else "" for name in part]
                if any(cells):
                    table.add_row(*map(escape, (*first, *cells)))
            tables.append(table)
    return tables


_ATTACK, _CELL = 20, 17
"""Characters of the column of attacks at least, if it has such long words, and of a column of numbers."""


def headline_table(results: Sequence[Result]) -> Table:
    """The worst case over all attacks, for each attacker."""
    return _attackers_table("Worst case over all attacks, accuracy in %", results, worst_lines(results))


def worst_lines(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Budget, defence, accuracy without an attack, and in the worst case of each attacker; see
    `attackers`.
    """
    return [
        (
            line.budget, label(line.defence), percent(line.clean),
            *(counted(line.worst[k], results) if k in line.worst else "" for k in attackers(results)),
        )
        for line in headlines(results)
    ]  # fmt: skip


ADDED = "What the defence adds to the undefended classifier, in points"
"""The title of `added`."""


def gains(results: Sequence[Result]) -> list[tuple[Headline, tuple[str, ...]]]:
    """Each headline of a defence, with by how many points its accuracy is above that of the classifier with
    nothing in front of it: clean, and in the worst case of each attacker, image by image. Empty where one of
    the two was not attacked, or not on as many images.
    """
    lines = headlines(results)
    bare = {line.budget: line for line in lines if line.defence == "none"}
    found: list[tuple[Headline, tuple[str, ...]]] = []
    for line in lines:
        if line.defence == "none" or line.budget not in bare:
            continue
        without = bare[line.budget]
        cells = [change(line.clean, without.clean)]
        for knowledge in attackers(results):
            its, other = line.worst.get(knowledge), without.worst.get(knowledge)
            cells.append(change(its, other) if its and other and its.n == other.n else "")
        found.append((line, tuple(cells)))
    return found


def added(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The same as lines of a table: budget, defence, and the gains."""
    return [(line.budget, label(line.defence), *cells) for line, cells in gains(results)]


def _attackers_table(title: str, results: Sequence[Result], lines: Sequence[Sequence[str]]) -> Table:
    """Numbers of each attacker beside those without an attack."""
    table = Table(title=title)
    for heading in ("epsilon", "defence", "clean", *attackers(results)):
        justify: Literal["left", "right"] = "left" if heading in ("epsilon", "defence") else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    return table


def attackers(results: Sequence[Result]) -> tuple[Knowledge, ...]:
    """The attackers whose worst cases are among results."""
    found = {r.knowledge for r in results if r.attack == WORST}
    return tuple(level for level in KNOWLEDGE if level in found)


def counted(result: Result, results: Sequence[Result]) -> str:
    """Accuracy with its interval, and the number of images where it is fewer than of the others."""
    fewer = f" n={result.n}" if result.n < max(r.n for r in results) else ""
    return percent(result) + fewer


def both(result: Result, results: Sequence[Result]) -> str:
    """What is right of the adversarial images, and of the same stored in 8 bits where that differs."""
    after = "" if result.rounded is None else f"{100 * result.rounded / result.n:.1f}"
    before = f"{100 * result.accuracy:.1f}"
    return counted(result, results) + (f" ({after} in 8 bits)" if after not in ("", before) else "")


def check_table(checks: Sequence[Check]) -> Table:
    """What an evaluation says of itself; what a line means is said where it is not "pass"."""
    table = Table(title=f"Checks of the evaluation {made_at(checks)}".strip())
    for heading in ("defence", "check", "", "found"):
        table.add_column(heading)
    colours = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
    for check in checks:
        found = check.figure if check.status in ("pass", "skip") else f"{check.figure}: {check.meaning}"
        table.add_row(
            escape(label(check.defence)), check.title, f"[{colours[check.status]}]{check.status}[/]",
            escape(found),
        )  # fmt: skip
    return table
