"""The tables of the pages, from results in a folder; `titles` are those of their rows, by evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from comdefend.evaluation import Result, kept_results, tables, wilson
from comdefend.evaluation.checks import Check, made_at
from comdefend.evaluation.results import read_checks
from comdefend.evaluation.tables import both, caption, counted, label, percent, rows
from comdefend.evaluation.tables import defences as names_of_defences
from comdefend.evaluation.worst_case import POWERS, WORST, worst_of
from experiments.markdown import NOT_RUN, origin, table_of

QUIET = ("pass", "skip")

MARKS = {
    "†": "A check of this evaluation failed, one under this norm or one that is made once for both: the "
    "attack is known to be too weak, and the number too high. The classifier with nothing in front of it is "
    "not checked beside purifiers.",
    "‡": "AutoAttack did not try it under this norm.",
}
"""What the marks beside a white-box number say."""


def summary(folder: Path, titles: Mapping[str, str]) -> str:
    """Every defence in one line: the worst case over the attacks of each attacker, and marks where a
    white-box number is not to be trusted, with what they say.
    """
    heads = (
        "data and classifier", "defence", "epsilon", "clean", "gray-box, minimal", "gray-box, fixed",
        "gray-box, L2 0.5", "black-box (Square)", "**white-box**", "white-box, L2 0.5",
    )  # fmt: skip
    lines = []
    found = {name: _results(folder, name) for name in titles}
    checked = _checks(folder, titles)
    twice = _made_twice(checked)
    for name, title in titles.items():
        results = found[name]
        clean = {r.defence: r for r in results if r.threat_model is None}
        alike = [n for n, t in titles.items() if t == title]
        if name != alike[0]:  # the undefended classifier is in a line above
            clean.pop("none", None)
        for defence, before in clean.items():
            # What was tried on the bare classifier for the sake of other defences counts as well.
            own = [r for n in (alike if defence == "none" else [name]) for r in _tried(found[n], defence)]
            its = [c for c in checked[name] if c.defence == defence]
            cells = [
                _worst(before, own, knowledge, protocol, norm)
                + (_marks(own, its, norm, twice) if knowledge == "white-box" else "")
                for knowledge, protocol, norm in (
                    ("gray-box", "minimal", "linf"), ("gray-box", "fixed", "linf"),
                    ("gray-box", "fixed", "l2"), ("black-box", "fixed", "linf"), ("white-box", None, "linf"),
                    ("white-box", None, "l2"),
                )
            ]  # fmt: skip
            shown = "no purifier" if defence == "none" else label(defence)
            budget = next((r.threat_model.budget() for r in own if r.threat_model.norm == "linf"), "-")  # type: ignore[union-attr]
            lines.append((title, shown, budget, percent(before), *cells))
    table = table_of(heads, lines)
    meant = [f"**{mark}** {said}  " for mark, said in MARKS.items() if any(mark in line for line in table)]
    return "\n".join([*table, *([""] if meant else []), *meant])


def gains(folder: Path, titles: Mapping[str, str]) -> str:
    """What each purifier adds to the classifier behind it, of the same evaluation and image by image."""
    lines = []
    checked = _checks(folder, titles)
    twice = _made_twice(checked)
    for name, title in titles.items():
        results = _results(folder, name)
        for line, cells in tables.gains(results):
            its = [c for c in checked[name] if c.defence == line.defence]
            of = dict(zip(("clean", *tables.attackers(results)), cells, strict=True))
            if of.get("white-box"):
                norm = line.worst["white-box"].norm
                assert norm is not None
                of["white-box"] += _marks(_tried(results, line.defence), its, norm, twice)
            shown = (of.get(key, "") for key in ("clean", "gray-box", "white-box", "black-box"))
            lines.append((title, label(line.defence), line.budget, *shown))
    return "\n".join(
        table_of(
            ("data and classifier", "defence", "epsilon", "clean", "gray-box", "white-box", "black-box"),
            lines,
        )
    )


def rounding(folder: Path) -> str:
    """The smallest perturbations for the bare classifier, and what storing them in 8 bits undoes alone."""
    lines = []
    for name in ("cifar10", "fashion-mnist"):
        results = _results(folder, name)
        own = {
            (r.defence, r.attack): r for r in results
            if r.protocol == "minimal" and r.knowledge == "gray-box"
        }  # fmt: skip
        for (defence, attack), bare in own.items():
            if defence == "none" and bare.rounded is not None:
                stored = replace(bare, correct=bare.rounded, interval=wilson(bare.rounded, bare.n))
                code = own["comdefend", attack]
                budget = bare.threat_model.budget() if bare.threat_model else "-"
                lines.append((bare.data, attack, f"{budget}, {bare.n}", *map(percent, (bare, stored, code))))
    heads = ("data", "attack", "up to, images", "no purifier", "no purifier, stored in 8 bits", "comdefend")
    return "\n".join(table_of(heads, lines))


def _worst(clean: Result, results: list[Result], knowledge: str, protocol: str | None, norm: str) -> str:
    """The worst case over the results of one attacker, of the images that each of their attacks was given;
    the white-box one may make the gray-box one's.
    """
    made = [
        r for r in results
        if r.threat_model and r.threat_model.norm == norm and r.threat_model.epsilon is not None
        and r.knowledge in POWERS[knowledge]  # type: ignore[index]
        and (protocol is None or r.protocol == protocol)
    ]  # fmt: skip
    threats = [r.threat_model for r in made if r.threat_model and r.knowledge == knowledge]
    if not threats:
        return ""
    worst = worst_of(clean, made, threats[0])
    cell = counted(worst, [clean])
    return f"**{cell}**" if knowledge == "white-box" and norm == "linf" else cell


def _marks(results: list[Result], checks: list[Check], norm: str, twice: set[str]) -> str:
    """What speaks against a white-box number of one defence: a check that failed, no AutoAttack. Checks that
    are not among those made `twice`, under both norms, speak against both numbers.
    """
    made = [r for r in results if r.knowledge == "white-box" and r.threat_model and r.norm == norm]
    if not made:
        return ""
    failed = [c for c in checks if c.status == "fail"]
    doubted = any(c.norm == norm or c.name not in twice for c in failed)
    unseen = not any(r.attack.startswith("autoattack") for r in made)
    return "".join(f" {mark}" for mark, shown in zip(MARKS, (doubted, unseen), strict=True) if shown)


def _tried(results: Sequence[Result], defence: str) -> list[Result]:
    """The attacks on one defence, without the worst cases."""
    return [r for r in results if r.defence == defence and r.threat_model and r.attack != WORST]


def _checks(folder: Path, names: Iterable[str]) -> dict[str, list[Check]]:
    """Of each evaluation, by its name."""
    return {name: read_checks(folder / name / "checks.json") for name in names}


def _made_twice(checked: Mapping[str, Sequence[Check]]) -> set[str]:
    """The names of checks that are made for each norm by itself."""
    return {c.name for checks in checked.values() for c in checks if c.norm == "l2"}


def _results(folder: Path, name: str) -> list[Result]:
    """The results of an evaluation, or none where it was not run yet."""
    return kept_results(folder / name / "results.json")


def evaluation(folder: Path, name: str) -> str:
    """One evaluation in full: every attack, and what its checks say."""
    results = _results(folder, name)
    if not results:
        return NOT_RUN
    shown = [r for r in results if r.attack != WORST]
    defences = names_of_defences(shown)
    checks = read_checks(folder / name / "checks.json")
    lines = [
        *(f"{line}  " for line in caption(results)),
        "",
        f"![Accuracy against epsilon, white-box PGD](../../experiments/robustness/results/{name}/curves.png)",
        "",
        *table_of(
            ("attacker", "protocol", "attack", "epsilon", *map(label, defences)),
            [
                (
                    *row.words(),
                    *(both(row.results[d], shown) if d in row.results else "" for d in defences),
                )
                for row in rows(shown)
            ],
        ),
        "",
        *table_of(
            ("defence", f"check {made_at(checks)}".strip(), "", "found"),
            [
                (label(c.defence), c.title, c.status if c.status in QUIET else f"**{c.status}**", c.figure)
                for c in checks
            ],
        ),
    ]
    failed = [f"{label(check.defence)}: {check.title}" for check in checks if check.status == "fail"]
    strict = f"exits with 1 ({'; '.join(failed)})" if failed else "exits with 0: no check fails"
    lines += ["", f"With `--strict` this evaluation {strict}."]
    return "\n".join([*lines, "", origin(*map(vars, results))])
