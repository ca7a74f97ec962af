"""A report folder: results.json, a self-contained report.html, and its pictures as PNG."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comdefend.evaluation.checks import Check, made_at
from comdefend.evaluation.evaluating import Report
from comdefend.evaluation.plots import accuracy_plot, as_data_uri, as_png, curve_plot, example_plot
from comdefend.evaluation.results import Result, read_checks, write_checks, write_results
from comdefend.evaluation.store import CHECKS, RESULTS, Store
from comdefend.evaluation.tables import (
    ADDED,
    HEADINGS,
    added,
    attackers,
    both,
    card,
    defences,
    label,
    rows,
    worst_lines,
)
from comdefend.evaluation.worst_case import WORST

PAGE = "report.html"
GRID = "examples.png"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c1c1c; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
td.n { text-align: right; } td small { color: #666; }
img { max-width: 100%; }
.card { background: #f4f6f8; padding: .8rem 1.2rem; border-radius: .4rem; display: grid;
        grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
.card dd { font-size: inherit; margin: 0; }
tr.skip td:nth-child(3) { color: #666; }
tr.warn td:nth-child(3) { color: #9a6700; } tr.fail td:nth-child(3) { color: #b3261e; font-weight: bold; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; font-size: .85rem; color: #444; overflow-wrap: anywhere; }
footer { color: #666; font-size: .85rem; margin-top: 2rem; }
@media print { body { max-width: none; } h2 { break-after: avoid; } img { break-inside: avoid; } }
"""


def write_report(
    report: Report, folder: Path, *, command: str = "", store: Store | None = None
) -> dict[str, Path]:
    """Write the report; the paths of `results`, `page` and, where there are any, `checks` and the `grid` of
    examples. `command` is the one that made it, for running it again. What `store` kept for going on with it
    goes last, when everything is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"results": folder / RESULTS, "page": folder / PAGE}
    pictures: list[tuple[str, bytes]] = []
    files: dict[str, bytes] = {}
    if any(result.protocol for result in report.results):
        files["accuracy.png"] = as_png(accuracy_plot(report.results))
        pictures.append(("Accuracy against epsilon", files["accuracy.png"]))
    if any(check.curve for check in report.checks):
        files["curves.png"] = as_png(curve_plot(report.checks))
        title = "White-box PGD at every budget, through the best gradient mode"
        pictures.append((title, files["curves.png"]))
    for number, example in enumerate(report.examples):
        # The first is the one people are pointed to.
        name = GRID if number == 0 else f"examples-{number + 1}.png"
        files[name] = as_png(example_plot(example, report.classes))
        paths.setdefault("grid", folder / name)
        pictures.append((example.title, files[name]))
    page = _page(report, pictures, command)
    for stale in folder.glob("*.png"):  # what an earlier evaluation left, and this one may not have
        if stale.name in ("accuracy.png", "curves.png") or stale.name.startswith("examples"):
            stale.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    paths["page"].write_text(page)
    write_results(paths["results"], report.results)
    if report.checks:
        paths["checks"] = folder / CHECKS
        write_checks(paths["checks"], report.checks)
    if store is not None:
        store.clear()
    if not report.checks and (earlier := folder / CHECKS).is_file():
        if store is None or not store.replaces:  # they stay, for whoever goes on
            Store(folder).keep(read_checks(earlier))
        earlier.unlink()
    return paths


def _page(report: Report, pictures: Sequence[tuple[str, bytes]], command: str) -> str:
    results = report.results
    first = results[0]
    sections = "".join(
        f'<h2>{html.escape(title)}</h2><img alt="{html.escape(title)}" src="{as_data_uri(png)}">'
        for title, png in pictures
    )
    notes = "".join(f"<p><strong>{html.escape(note)}</strong></p>" for note in report.notes)
    flags = "".join(f"<li>{html.escape(flag)}</li>" for flag in _flags(results))
    commits = ", ".join(dict.fromkeys(r.commit or "unknown" for r in results))
    # Of an evaluation that was made in parts, each machine and each version that took part.
    origins: list[Mapping[str, Any]] = [*(r.software for r in results), *(r.hardware for r in results)]
    facts = ", ".join(dict.fromkeys(", ".join(f"{k} {v}" for k, v in origin.items()) for origin in origins))
    threat = card(results)
    if not any(r.knowledge == "white-box" for r in results):
        threat["Not tried"] = "an attacker who knows the defence (white-box). Expect far less"
    facts_of_card = "".join(
        f"<dt>{html.escape(heading)}</dt><dd>{html.escape(text)}</dd>" for heading, text in threat.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>comdefend report</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>{html.escape(first.classifier)} on {html.escape(first.data)}</h1>
<dl class="card">{facts_of_card}</dl>
{notes}
{_headlines(results)}
{_checks(report.checks)}
<h2>Every attack</h2>
<p>"broke": of the images that a defence got right without an attack, how many this attack broke, whether or
not others broke them, too.</p>
{_situations(results)}
{f"<ul>{flags}</ul>" if flags else ""}
{sections}
{_again(report, command)}
<footer>seed {first.seed}, commit {html.escape(commits)}; {html.escape(facts)}</footer>
</body></html>
"""


def _headlines(results: Sequence[Result]) -> str:
    """The worst case over all attacks, side by side for each attacker, and what defences add there."""
    worst, more = worst_lines(results), added(results)
    headings = ["epsilon", "defence", "clean", *attackers(results)]
    found = f"<h2>Worst case over all attacks</h2>{_table(headings, worst, 2)}" if worst else ""
    if more:
        found += f"""<h2>{ADDED}</h2>
<p>On the same images, with 95 % intervals of the paired difference: where that holds 0, these images do not
tell whether the defence helps.</p>
{_table(headings, more, 2)}"""
    return found


def _checks(checks: Sequence[Check]) -> str:
    if not checks:
        return ""
    body = "".join(
        f'<tr class="{check.status}"><td>{html.escape(label(check.defence))}</td>'
        f"<td>{html.escape(check.title)}</td><td>{check.status}</td>"
        f"<td>{html.escape(check.figure)}<br><small>{html.escape(check.meaning)}</small></td></tr>"
        for check in checks
    )
    head = "".join(f"<th>{text}</th>" for text in ("defence", "check", "", "found, and what it means"))
    title = f"<h2>{f'Checks of the evaluation {made_at(checks)}'.strip()}</h2>"
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _situations(results: Sequence[Result]) -> str:
    """Every attack on its own, with how many images it broke of each defence."""
    names = defences(results)
    clean = {r.defence: r.shares for r in results if r.threat_model is None}
    lines = []
    for row in rows([r for r in results if r.attack != WORST]):
        turned = {
            label(name): float((clean[name][: r.n] - r.shares).clamp_min(0).sum())
            for name, r in row.results.items() if r.threat_model and name in clean
        }  # fmt: skip
        broke = ", ".join(f"{name} {count:.4g}" for name, count in turned.items())
        cells = [both(row.results[name], results) if name in row.results else "" for name in names]
        lines.append([*row.words(), broke, *cells])
    return _table([*HEADINGS, "broke", *(label(n) for n in names)], lines, len(HEADINGS) + 1)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], words: int) -> str:
    """A table whose first `words` columns are words, the others numbers with their intervals."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in headings)
    body = ""
    for line in lines:
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in line[:words])
        for text in line[words:]:
            value, _, interval = html.escape(text).partition(" ")
            cells += f'<td class="n">{value} <small>{interval}</small></td>'
        body += f"<tr>{cells}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _flags(results: Sequence[Result]) -> list[str]:
    """What attacks warned of themselves."""
    return list(
        dict.fromkeys(f"{r.attack} on {label(r.defence)}: {flag}" for r in results for flag in r.flags)
    )


def _again(report: Report, command: str) -> str:
    """Every setting that is needed to run it again."""
    results = report.results
    attacks: dict[str, dict[str, Any]] = {}
    for r in results:
        if r.threat_model and r.attack != WORST:
            name = f"{r.attack}, {r.protocol}"
            if (
                attacks.get(name, r.settings) != r.settings
            ):  # an attack has other settings by attacker and mode
                name += f", {r.knowledge} {r.via}"
            attacks.setdefault(name, r.settings)
    made = {
        label(r.defence): {**r.defence_settings, "digest": r.digests.get("defence", "not known")}
        for r in results
    }
    first = results[0]
    asked = asdict(report.spec) if report.spec else {"seed": first.seed, "device": first.device or "cpu"}
    whole = {
        "evaluation": {**asked, "batch": first.batch or "not known"},
        "classifier": {"digest": first.digests.get("classifier", "not known")},
    }
    lines = [
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(json.dumps(settings))}</dd>"
        for name, settings in {**whole, **attacks, **made}.items()
    ]
    again = f"<p><code>{html.escape(command)}</code></p>" if command else ""
    return f"<h2>Settings</h2>{again}<dl>{''.join(lines)}</dl>"
