"""Generate the tables of README.md and docs/*.md from docs/results/*.json, and the schemas of such files.

    python docs/tables.py            writes them
    python docs/tables.py --check    exits with 1 where a page is not up to date

A page holds `<!-- tables: NAME NAME ... -->` and `<!-- end -->`; what stands between is replaced.
"""

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from comdefend import zoo
from comdefend.evaluation import Result, read_results
from comdefend.evaluation.adaptive import WORST, worst_of
from comdefend.evaluation.checks import Check, made_at
from comdefend.evaluation.tables import caption, counted, label, percent, rows
from comdefend.evaluation.tables import defences as names_of_defences
from comdefend.paper import EXPERIMENTS
from comdefend.paper.experiments import show

sys.path.insert(0, str(Path(__file__).parent))
import ablations_page
import frontier_page
from pages import decibel, origin

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAPER = RESULTS / "paper"
"""What `comdefend reproduce ... --output docs/results/paper` left."""
ROBUSTNESS = RESULTS / "robustness"
"""What benchmarks/robustness.py left."""
FRONTIER = RESULTS / "frontier"
"""What benchmarks/frontier.py left; its picture is drawn there too."""
ABLATIONS = RESULTS / "ablations"
"""What benchmarks/ablations.py left."""
SCHEMAS: dict[Path, tuple[str, Any]] = {
    ROOT / "docs" / "results.schema.json": ("Results of comdefend", list[Result]),
    ROOT / "docs" / "checks.schema.json": ("Checks of an evaluation of comdefend", list[Check]),
}
PAGES = (
    ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "robustness.md",
    ROOT / "docs" / "frontier.md", ROOT / "docs" / "robust.md",
    *sorted((ROOT / "docs" / "paper").glob("*.md")),
)  # fmt: skip

_PLACE = re.compile(r"(<!-- tables: (?P<names>[\w -]+?) -->\n).*?(<!-- end -->)", re.DOTALL)

PAPER_PSNR = "31.78"
"""The paper's PSNR at 12 bits (Table 3), on lossless CIFAR-10; ../shared has quality-75 JPEGs of it."""


def reconstruction() -> str:
    content = json.loads((RESULTS / "reconstruction.json").read_text())
    lines = [
        "Clean images through the purifier, hard code, mean PSNR over all test images here (95 % interval):",
        "",
        "| data | bits a pixel | images | comdefend | the authors' weights | the paper (Table 3) |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in content["entries"]:
        found.setdefault(entry["data"], {})[entry["weights"]] = entry
    for data, by in found.items():
        for name, ours in by.items():
            if name == "authors":
                continue
            usual = name == "comdefend"  # the paper's network; the others have names of their own
            cells = [decibel(ours), decibel(by["authors"]) if usual and "authors" in by else "-"]
            paper = PAPER_PSNR if usual and data == "cifar10" else "-"
            title = data if usual else f"{data} (`{name}`)"
            lines.append(
                f"| {title} | {ours['bits']:g} | {ours['images']} | **{cells[0]}** | {cells[1]} | {paper} |"
            )
    return "\n".join([*lines, "", origin(content)])


def gray_box() -> str:
    """The table of the README: the third-party classifier, one budget."""
    return _accuracies("third-party-cifar10", lambda r: r in ("-", "8/255 linf", "unlimited l2"))


def _accuracies(name: str, wanted: Callable[[str], bool] = lambda _: True) -> str:
    results = [
        r for r in read_results(RESULTS / f"{name}.json")
        if wanted(f"{r.threat_model.budget()} {r.threat_model.norm}" if r.threat_model else "-")
    ]  # fmt: skip
    defences = names_of_defences(results)
    heads = " | ".join(label(d) for d in defences)
    lines = [
        *caption(results),
        "",
        f"| attacker | protocol | attack | epsilon | {heads} |",
        "|---|---|---|---|" + "---|" * len(defences),
    ]
    for row in rows(results):
        cells = " | ".join((*row.words(), *(percent(row.results[d]) for d in defences)))
        lines.append(f"| {cells} |")
    # Caption lines end with two spaces: line breaks in Markdown.
    count = len(caption(results))
    lines[:count] = [f"{line}  " for line in lines[:count]]
    text = "\n".join([*lines, "", origin(vars(results[0]))])
    return re.sub(r"comdefend:weights=authors-[\w-]+\.safetensors", "the authors' weights", text)


def zoo_table() -> str:
    """The classifiers' accuracy, as the zoo's facts record it."""
    lines = [
        "| classifier | data | accuracy in % (95 % interval) | images | made by |",
        "|---|---|---|---|---|",
    ]
    for name in zoo.names("classifier"):
        facts = zoo.facts(name)
        low, high = facts.scores["interval"]
        score = f"{100 * facts.scores['test_accuracy']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        if facts.purifier != "none":
            score += ", behind its purifier"
        lines.append(f"| `{name}` | {facts.data} | {score} | {facts.scores['images']} | {facts.made} |")
    return "\n".join(lines)


def pairs() -> str:
    """What shipped pairs reach, as the zoo's facts record it."""
    lines = [
        "| pair | clean | gray-box | white-box, PGD in one mode | images attacked | purifier's PSNR |",
        "|---|---|---|---|---|---|",
    ]
    measured: list[dict[str, Any]] = []
    for name in zoo.names("classifier"):
        scores = zoo.facts(name).scores
        if "white_box_accuracy" not in scores:
            continue
        cells = [
            f"{100 * scores[f'{key}accuracy']:.1f} [{100 * low:.0f}, {100 * high:.0f}]"
            for key, (low, high) in (
                ("test_", scores["interval"]),
                *((f"{k}_box_", scores[f"{k}_box_interval"]) for k in ("gray", "white")),
            )
        ]
        quality = zoo.facts(name.rsplit("-", 1)[0]).scores["test_psnr"]
        lines.append(
            f"| `{name}` | {' | '.join(cells)} | {scores['attacked_images']}, {scores['epsilon']} "
            f"| {quality:.2f} dB |"
        )
        measured.append(scores["measured"])
    if not measured:
        return "None yet."
    return "\n".join([*lines, "", origin(*measured)])


EVALUATIONS = {
    "cifar10": "CIFAR-10, classifier trained on clean images",
    "cifar10-rivals": "CIFAR-10, classifier trained on clean images",
    "cifar10-random": "CIFAR-10, classifier trained on clean images",
    "cifar10-purified": "CIFAR-10, classifier trained on purified images",
    "cifar10-adversarial": "CIFAR-10, adversarial training",
    "cifar10-robust": "CIFAR-10, classifier and purifier trained together under attack",
    "fashion-mnist": "Fashion-MNIST, classifier trained on clean images",
    "fashion-mnist-rivals": "Fashion-MNIST, classifier trained on clean images",
    "fashion-mnist-random": "Fashion-MNIST, classifier trained on clean images",
    "fashion-mnist-purified": "Fashion-MNIST, classifier trained on purified images",
    "fashion-mnist-adversarial": "Fashion-MNIST, adversarial training",
    "fashion-mnist-robust": "Fashion-MNIST, classifier and purifier trained together under attack",
}
"""Of benchmarks/robustness.py, with headings."""


def robustness_summary() -> str:
    """Every defence in one line: the worst case over the attacks of each attacker."""
    heads = (
        "data and classifier", "defence", "epsilon", "clean", "gray-box, minimal", "gray-box, fixed",
        "gray-box, L2 0.5", "black-box (Square)", "**white-box**", "white-box, L2 0.5",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, title in EVALUATIONS.items():
        results = _evaluation(name)
        clean = {r.defence: r for r in results if r.threat_model is None}
        if name.endswith(("-rivals", "-random")):  # the undefended classifier is in the table above
            clean.pop("none", None)
        for defence, before in clean.items():
            own = [r for r in results if r.defence == defence and r.threat_model and r.attack != WORST]
            cells = [
                _worst(before, own, knowledge, protocol, norm)
                for knowledge, protocol, norm in (
                    ("gray-box", "minimal", "linf"), ("gray-box", "fixed", "linf"),
                    ("gray-box", "fixed", "l2"), ("black-box", "fixed", "linf"), ("white-box", None, "linf"),
                    ("white-box", None, "l2"),
                )
            ]  # fmt: skip
            shown = "no purifier" if defence == "none" else label(defence)
            budget = next((r.threat_model.budget() for r in own if r.threat_model.norm == "linf"), "-")  # type: ignore[union-attr]
            lines.append(f"| {title} | {shown} | {budget} | {percent(before)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _worst(clean: Result, results: list[Result], knowledge: str, protocol: str | None, norm: str) -> str:
    """The worst case over the results of one attacker; the white-box one may make those of all. Where slow
    attacks saw fewer images, that of these follows.
    """
    made = [
        r for r in results
        if r.threat_model and r.threat_model.norm == norm and r.threat_model.epsilon is not None
        and (knowledge == "white-box" or r.threat_model.knowledge == knowledge)
        and (protocol is None or r.protocol == protocol)
    ]  # fmt: skip
    threats = [r.threat_model for r in made if r.threat_model and r.threat_model.knowledge == knowledge]
    if not threats:
        return ""
    worst = worst_of(clean, made, threats[0])
    cell = counted(worst, [clean])
    return f"**{cell}**" if knowledge == "white-box" and norm == "linf" else cell


def _evaluation(name: str) -> list[Result]:
    """The results of an evaluation, or none where it was not run yet."""
    path = ROBUSTNESS / name / "results.json"
    return read_results(path) if path.is_file() else []


def robustness(name: str) -> str:
    """One evaluation in full: every attack, and what its checks say."""
    results = _evaluation(name)
    if not results:
        return "Not run yet."
    shown = [r for r in results if r.attack != WORST]
    defences = names_of_defences(shown)
    lines = [f"{line}  " for line in caption(results)]
    lines += [
        f"[The whole report](results/robustness/{name}/report.html), to be downloaded and looked at.", "",
        f"![Accuracy against epsilon, white-box PGD](results/robustness/{name}/curves.png)", "",
        f"| attacker | protocol | attack | epsilon | {' | '.join(label(d) for d in defences)} |",
        "|---|---|---|---|" + "---|" * len(defences),
    ]  # fmt: skip
    for row in rows(shown):
        cells = (counted(row.results[d], shown) if d in row.results else "" for d in defences)
        lines.append(f"| {' | '.join((*row.words(), *cells))} |")
    checks = [Check(**check) for check in json.loads((ROBUSTNESS / name / "checks.json").read_text())]
    lines += ["", f"| defence | {f'check {made_at(checks)}'.strip()} | | found |", "|---|---|---|---|"]
    for check in checks:
        status = check.status if check.status in ("pass", "skip") else f"**{check.status}**"
        lines.append(f"| {label(check.defence)} | {check.name} | {status} | {check.figure} |")
    failed = [f"{label(check.defence)}: {check.name}" for check in checks if check.status == "fail"]
    strict = f"exits with 1 ({'; '.join(failed)})" if failed else "exits with 0: no check fails"
    lines += ["", f"With `--strict` this evaluation {strict}."]
    return "\n".join([*lines, "", origin(*map(vars, results))])


def schema(title: str, kind: Any) -> str:
    """The JSON Schema of files that hold one kind of record."""
    made = TypeAdapter(kind).json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return json.dumps({**head, **made}, indent=1) + "\n"


def experiment(name: str) -> str:
    """An experiment of the paper: ours beside its numbers."""
    return "\n\n".join(part.markdown() for part in show(name, PAPER))


TABLES: dict[str, Callable[[], str]] = {
    "reconstruction": reconstruction,
    "gray-box": gray_box,
    "third-party-cifar10": lambda: _accuracies("third-party-cifar10"),
    "first-cifar10": lambda: _accuracies("first-cifar10"),
    "shipped-cifar10": lambda: _accuracies("shipped-cifar10"),
    "shipped-fashion-mnist": lambda: _accuracies("shipped-fashion-mnist"),
    "zoo": zoo_table,
    "pairs": pairs,
    "robustness-summary": robustness_summary,
    "frontier": lambda: frontier_page.table(FRONTIER),
    "ablations": lambda: ablations_page.table(ABLATIONS),
    **{f"robustness-{name}": partial(robustness, name) for name in EVALUATIONS},
    **{name: partial(experiment, name) for name in EXPERIMENTS},
}


def filled(text: str) -> str:
    """A page with its tables generated anew."""

    def fill(place: re.Match[str]) -> str:
        made = "\n\n".join(TABLES[name]() for name in place["names"].split())
        return f"{place[1]}\n{made}\n\n{place[3]}"

    return _PLACE.sub(fill, text)


if __name__ == "__main__":
    stale = []
    for page in (*PAGES, *SCHEMAS):
        old = page.read_text() if page.is_file() else ""
        new = schema(*SCHEMAS[page]) if page in SCHEMAS else filled(old)
        if new != old:
            stale.append(str(page.relative_to(ROOT)))
            if "--check" not in sys.argv:
                page.write_text(new)
    if "--check" not in sys.argv:
        frontier_page.draw(FRONTIER)
    print("\n".join(stale) or "up to date")
    sys.exit(1 if stale and "--check" in sys.argv else 0)
