"""A report folder: results.json, a self-contained report.html, and its pictures as PNG."""

import html
from collections.abc import Sequence
from pathlib import Path

from comdefend.errors import RequestError
from comdefend.evaluation.evaluate import Report
from comdefend.evaluation.plots import accuracy_plot, as_data_uri, as_png, example_plot
from comdefend.evaluation.results import Result, write_results
from comdefend.evaluation.tables import caption, defences, label, percent, rows

RESULTS = "results.json"
PAGE = "report.html"
GRID = "examples.png"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c1c1c; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
td.n { text-align: right; } td small { color: #666; }
img { max-width: 100%; } .card { background: #f4f6f8; padding: .8rem 1.2rem; border-radius: .4rem; }
footer { color: #666; font-size: .85rem; margin-top: 2rem; }
@media print { body { max-width: none; } h2 { break-after: avoid; } img { break-inside: avoid; } }
"""


def make_folder(folder: Path) -> None:
    """The folder for a report, made before the work that fills it; `RequestError` where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"output {str(folder)!r} cannot be a folder: {error.strerror}") from error


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write the report; the paths of `results`, `page` and, where there are examples, `grid`."""
    make_folder(folder)
    paths = {"results": folder / RESULTS, "page": folder / PAGE}
    write_results(paths["results"], report.results)
    for stale in folder.glob("examples*.png"):
        stale.unlink()
    pictures = []
    if any(result.protocol for result in report.results):
        plot = as_png(accuracy_plot(report.results))
        (folder / "accuracy.png").write_bytes(plot)
        pictures.append(("Accuracy against epsilon", plot))
    for number, example in enumerate(report.examples):
        drawn = as_png(example_plot(example, report.classes))
        # The first is the one people are pointed to.
        target = folder / (GRID if number == 0 else f"examples-{number + 1}.png")
        target.write_bytes(drawn)
        paths.setdefault("grid", target)
        pictures.append((example.title, drawn))
    paths["page"].write_text(_page(report, pictures))
    return paths


def _page(report: Report, pictures: Sequence[tuple[str, bytes]]) -> str:
    results = report.results
    first = results[0]
    sections = "".join(
        f'<h2>{html.escape(title)}</h2><img alt="{html.escape(title)}" src="{as_data_uri(png)}">'
        for title, png in pictures
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
    facts = ", ".join(f"{k} {v}" for k, v in [*first.software.items(), *first.hardware.items()])
    card = "<br>".join(html.escape(line) for line in caption(results))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>comdefend report</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>{html.escape(first.classifier)} on {html.escape(first.data)}</h1>
<p class="card">{card}<br>Not tried: an attacker who knows the defence (white-box). Expect far less.</p>
{_table(results)}
{f"<ul>{notes}</ul>" if notes else ""}
{sections}
<footer>seed {first.seed}, commit {html.escape(first.commit or "unknown")}; {html.escape(facts)}</footer>
</body></html>
"""


def _table(results: Sequence[Result]) -> str:
    names = defences(results)
    head = "".join(
        f"<th>{html.escape(text)}</th>"
        for text in (
            "attacker",
            "protocol",
            "attack",
            "epsilon",
            *(label(n) for n in names),
        )
    )
    body = ""
    for row in rows(results):
        attacker = next((r.threat_model.knowledge for r in row.results.values() if r.threat_model), "-")
        cells = "".join(
            f"<td>{html.escape(t)}</td>" for t in (attacker, row.protocol, row.attack, row.budget)
        )
        for name in names:
            text = percent(row.results[name]) if name in row.results else ""
            value, _, interval = text.partition(" ")
            cells += f'<td class="n">{value} <small>{interval}</small></td>'
        body += f"<tr>{cells}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
