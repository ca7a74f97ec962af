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
from comdefend.evaluation.checks import Check
from comdefend.evaluation.tables import caption, label, percent, rows
from comdefend.evaluation.tables import defences as names_of_defences
from comdefend.paper import EXPERIMENTS
from comdefend.paper.experiments import show

sys.path.insert(0, str(Path(__file__).parent))
import frontier_page
import robustness_page
import untouched_page
from pages import decibel, origin, table_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAPER = RESULTS / "paper"
"""What `comdefend reproduce ... --output docs/results/paper` left."""
THIRD_PARTY = "the ResNet-20 of akamaster/pytorch_resnet_cifar10, not ours and not retrained"

ROBUSTNESS = RESULTS / "robustness"
"""What benchmarks/robustness.py left."""
FRONTIER = RESULTS / "frontier"
"""What benchmarks/frontier.py left; its picture is drawn there too."""
UNTOUCHED = RESULTS / "untouched"
"""What benchmarks/untouched.py left."""
SCHEMAS: dict[Path, tuple[str, Any]] = {
    ROOT / "docs" / "results.schema.json": ("Results of comdefend", list[Result]),
    ROOT / "docs" / "checks.schema.json": ("Checks of an evaluation of comdefend", list[Check]),
}
PAGES = (
    ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "robustness.md",
    ROOT / "docs" / "frontier.md",
    ROOT / "docs" / "untouched.md",
    *sorted((ROOT / "docs" / "paper").glob("*.md")),
)  # fmt: skip

_PLACE = re.compile(r"(<!-- tables: (?P<names>[\w -]+?) -->\n).*?(<!-- end -->)", re.DOTALL)

PAPER_PSNR = "31.78"
"""The paper's PSNR at 12 bits (Table 3), on lossless CIFAR-10; ../shared has quality-75 JPEGs of it."""


def reconstruction() -> str:
    content = json.loads((RESULTS / "reconstruction.json").read_text())
    heads = ("data", "bits a pixel", "images", "comdefend", "the authors' weights", "the paper (Table 3)")
    lines = []
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
            bits, images = f"{ours['bits']:g}", str(ours["images"])
            lines.append((title, bits, images, f"**{cells[0]}**", cells[1], paper))
    title = (
        "Clean images through the purifier, hard code, mean PSNR over the test images that were available "
        "(95 % interval):"
    )
    return "\n".join([title, "", *table_of(heads, lines), "", origin(content)])


def gray_box() -> str:
    """The table of the README: the third-party classifier, one budget."""
    return _accuracies("third-party-cifar10", lambda r: r in ("-", "8/255 linf", "unlimited l2"))


def _accuracies(name: str, wanted: Callable[[str], bool] = lambda _: True) -> str:
    results = [
        r for r in read_results(RESULTS / f"{name}.json")
        if wanted(r.threat_model.in_words() if r.threat_model else "-")
    ]  # fmt: skip
    defences = names_of_defences(results)
    lines = [
        *(f"{line}  " for line in caption(results)),  # two spaces: line breaks in Markdown
        "",
        *table_of(
            ("attacker", "protocol", "attack", "epsilon", *map(label, defences)),
            [(*row.words(), *(percent(row.results[d]) for d in defences)) for row in rows(results)],
        ),
    ]
    text = "\n".join([*lines, "", origin(vars(results[0]))])
    text = re.sub(r"comdefend:weights=authors-[\w-]+\.safetensors", "the authors' weights", text)
    return text.replace("../shared/classifiers/classifiers.py:resnet20", THIRD_PARTY)


def zoo_table() -> str:
    """The classifiers' accuracy, as the zoo's facts record it."""
    heads = ("classifier", "data", "accuracy in % (95 % interval)", "images", "made by")
    lines = []
    for name in zoo.names("classifier"):
        facts = zoo.facts(name)
        low, high = facts.scores["interval"]
        score = f"{100 * facts.scores['test_accuracy']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        if facts.purifier != "none":
            score += ", behind its purifier"
        lines.append((f"`{name}`", facts.data, score, str(facts.scores["images"]), facts.made))
    return "\n".join(table_of(heads, lines))


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
    "robustness-summary": lambda: robustness_page.summary(ROBUSTNESS),
    "robustness-gains": lambda: robustness_page.gains(ROBUSTNESS),
    "robustness-rounding": lambda: robustness_page.rounding(ROBUSTNESS),
    "frontier": lambda: frontier_page.table(FRONTIER),
    "untouched": lambda: untouched_page.table(UNTOUCHED),
    "untouched-parts": lambda: untouched_page.parts(UNTOUCHED),
    **{
        f"robustness-{name}": partial(robustness_page.evaluation, ROBUSTNESS, name)
        for name in robustness_page.EVALUATIONS
    },
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
