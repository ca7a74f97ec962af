"""Generate the tables of README.md and docs/*.md from docs/results/*.json.

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

from comdefend import zoo
from comdefend.evaluation import read_results
from comdefend.evaluation.tables import caption, label, percent, rows
from comdefend.evaluation.tables import defences as names_of_defences
from comdefend.paper import EXPERIMENTS
from comdefend.paper.experiments import show

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAPER = RESULTS / "paper"
"""What `comdefend reproduce ... --output docs/results/paper` left."""
PAGES = (
    ROOT / "README.md", ROOT / "docs" / "results.md", *sorted((ROOT / "docs" / "paper").glob("*.md")),
)  # fmt: skip

_PLACE = re.compile(r"(<!-- tables: (?P<names>[\w -]+?) -->\n).*?(<!-- end -->)", re.DOTALL)

PAPER_PSNR = "31.78"
"""The paper's PSNR at 12 bits (Table 3), on lossless CIFAR-10; ../shared has quality-75 JPEGs of it."""


def reconstruction() -> str:
    content = json.loads((RESULTS / "reconstruction.json").read_text())
    lines = [
        "Clean images through the purifier, hard code, mean PSNR over the whole test split (95 % interval):",
        "",
        "| data | bits a pixel | images | comdefend | the authors' weights | the paper (Table 3) |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in content["entries"]:
        found.setdefault(entry["data"], {})[entry["weights"]] = entry
    for data, by in found.items():
        ours = by["comdefend"]
        cells = [_decibel(ours), _decibel(by["authors"]) if "authors" in by else "-"]
        paper = PAPER_PSNR if data == "cifar10" else "-"
        lines.append(
            f"| {data} | {ours['bits']} | {ours['images']} | **{cells[0]}** | {cells[1]} | {paper} |"
        )
    return "\n".join([*lines, "", _origin(content)])


def gray_box() -> str:
    """The table of the README: the third-party classifier, one budget."""
    return _accuracies("third-party-cifar10", lambda r: r in ("-", "8/255 linf", "unlimited l2"))


def _accuracies(name: str, wanted: Callable[[str], bool] = lambda _: True) -> str:
    results = read_results(RESULTS / f"{name}.json")
    defences = names_of_defences(results)
    heads = " | ".join(label(d) for d in defences)
    lines = [
        *caption(results),
        "",
        f"| attacker | protocol | attack | epsilon | {heads} |",
        "|---|---|---|---|" + "---|" * len(defences),
    ]
    for row in rows(results):
        if not wanted(row.budget):
            continue
        cells = " | ".join((*row.words(), *(percent(row.results[d]) for d in defences)))
        lines.append(f"| {cells} |")
    first = results[0]
    origin = {"seed": first.seed, "hardware": first.hardware, "software": first.software}
    # Caption lines end with two spaces: line breaks in Markdown.
    count = len(caption(results))
    lines[:count] = [f"{line}  " for line in lines[:count]]
    return "\n".join([*lines, "", _origin({**origin, "commit": first.commit})])


def _decibel(entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{entry['psnr']:.2f} [{low:.2f}, {high:.2f}]"


def _origin(content: dict[str, Any]) -> str:
    hardware, software = content["hardware"], content["software"]
    return (
        f"<sub>seed {content['seed']}, commit {content['commit']}, {hardware['cores']} cores "
        f"({hardware['processor']}), torch {software['torch']}</sub>"
    )


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
        lines.append(f"| `{name}` | {facts.data} | {score} | {facts.scores['images']} | {facts.made} |")
    return "\n".join(lines)


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
    for page in PAGES:
        old = page.read_text()
        new = filled(old)
        if new != old:
            stale.append(str(page.relative_to(ROOT)))
            if "--check" not in sys.argv:
                page.write_text(new)
    print("\n".join(stale) or "up to date")
    sys.exit(1 if stale and "--check" in sys.argv else 0)
