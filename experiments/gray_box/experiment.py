"""Gray-box attacks of the paper, on classifiers behind the shipped purifiers and behind the authors' weights.

Needs the shared data (COMDEFEND_SHARED). Less than half an hour on two cores.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from comdefend import zoo
from comdefend.cli import main as comdefend
from comdefend.data import load_data
from comdefend.evaluation import evaluate, read_results, write_results
from comdefend.evaluation.tables import caption, defences, label, percent, rows
from experiments.experiment import Experiment, in_turn
from experiments.markdown import origin, table_of
from experiments.resources import BUILD, ROOT, THIRD_PARTY, official

RESULTS = Path(__file__).parent / "results"
PICTURE = ROOT / "docs" / "images" / "demo.png"

TITLE = "the ResNet-20 of akamaster/pytorch_resnet_cifar10, not ours and not retrained"
"""Of the third-party classifier."""


def command(part: str, *arguments: str) -> None:
    """Run `comdefend evaluate`, and keep its results."""
    folder = BUILD / part
    assert comdefend(["evaluate", *arguments, "--resume", "--output", str(folder)]) == 0
    (RESULTS / f"{part}.json").write_bytes((folder / "results.json").read_bytes())


def measure_third_party() -> None:
    """A classifier that is not ours, behind our weights and the authors'."""
    command(
        "third-party-cifar10",
        "--classifier", THIRD_PARTY, "--data", "cifar10", "--limit", "300",
        "--defences", "comdefend", "--defences", f"comdefend:weights={official('cifar10')}",
        "--attacks", "fgsm,bim,deepfool,cw", "--epsilons", "2,8,16",
    )  # fmt: skip


def measure_first() -> None:
    """The same on the first 300 test images, of which numbers of the authors' weights are on record.

    The classifier finds them easier than most (84 % of them, 81 % of all): compare within the table.
    """
    report = evaluate(
        THIRD_PARTY,
        ["comdefend", f"comdefend:weights={official('cifar10')}"],
        data=load_data("cifar10").subset(range(300)),
        attacks=["fgsm", "bim", "deepfool", "cw"],
        epsilons=[2 / 255, 8 / 255, 16 / 255],
        examples=0,
    )
    write_results(RESULTS / "first-cifar10.json", report.results)


def measure_shipped(data: str, epsilons: str) -> None:
    """The shipped classifier and purifier of a data set, with the demo's attacks and more budgets."""
    command(
        f"shipped-{data}",
        "--classifier", f"{data}-resnet9", "--data", data, "--limit", "100",
        "--attacks", "fgsm,bim,deepfool", "--epsilons", epsilons, "--dtype", "bfloat16",
    )  # fmt: skip


def measure_picture() -> None:
    """The README's picture: what the demo draws."""
    assert comdefend(["demo", "--output", str(BUILD / "demo")]) == 0
    PICTURE.write_bytes((BUILD / "demo" / "paper" / "examples.png").read_bytes())


PARTS: dict[str, Callable[[], None]] = {
    "picture": measure_picture,
    "third-party-cifar10": measure_third_party,
    "first-cifar10": measure_first,
    "shipped-cifar10": partial(measure_shipped, "cifar10", "2,8,16"),
    "shipped-fashion-mnist": partial(measure_shipped, "fashion-mnist", "8,25"),
}


def done(part: str) -> bool:
    """Whether the file of a part is there."""
    return (PICTURE if part == "picture" else RESULTS / f"{part}.json").is_file()


def table(part: str, budgets: tuple[str, ...] = ()) -> str:
    """Accuracy under every attack of a part, or under those of some budgets alone."""
    results = [
        r for r in read_results(RESULTS / f"{part}.json")
        if not budgets or not r.threat_model or r.threat_model.in_words() in budgets
    ]  # fmt: skip
    columns = defences(results)
    lines = [
        *(f"{line}  " for line in caption(results)),  # two spaces: line breaks in Markdown
        "",
        *table_of(
            ("attacker", "protocol", "attack", "epsilon", *map(label, columns)),
            [(*row.words(), *(percent(row.results[d]) for d in columns)) for row in rows(results)],
        ),
        "",
        origin(vars(results[0])),
    ]
    text = re.sub(r"comdefend:weights=authors-[\w-]+\.safetensors", "the authors' weights", "\n".join(lines))
    return text.replace("../shared/classifiers/classifiers.py:resnet20", TITLE)


def classifiers() -> str:
    """Clean accuracy of the shipped classifiers, as the zoo's facts record it."""
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


EXPERIMENT = Experiment(
    parts=list(PARTS),
    run=in_turn(lambda part: PARTS[part]()),
    done=done,
    tables={
        "summary": lambda: table("third-party-cifar10", ("8/255 linf", "unlimited l2")),
        "classifiers": classifiers,
        **{part: partial(table, part) for part in PARTS if part != "picture"},
    },
)
