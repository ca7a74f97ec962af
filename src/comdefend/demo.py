"""The main job in minutes: sample images, classifiers, attacks, purifiers, tables and pictures."""

from dataclasses import dataclass
from pathlib import Path

from comdefend.atomic import output_folder
from comdefend.attacks import Protocol
from comdefend.evaluation.evaluating import Report, evaluate
from comdefend.evaluation.report import write_report
from comdefend.evaluation.run import Progress

DATA = "sample:cifar10"


@dataclass(frozen=True)
class Part:
    """One classifier with one purifier, attacked; its report goes to `folder` below the demo's."""

    classifier: str
    purifier: str
    attacks: tuple[str, ...]
    protocols: tuple[Protocol, ...]
    folder: str
    caption: str


PARTS = (
    Part(
        # Half the work of `cifar10-resnet9`, which reads every image and its mirror.
        "cifar10-resnet9-plain", "comdefend", ("fgsm", "bim", "deepfool"), ("minimal", "fixed"), "paper",
        "The paper's purifier, before a classifier that nobody changed, and a gray-box attacker, who knows "
        "the classifier but not the purifier: purified images are classified right where they were changed "
        "as little as possible (minimal), far less so where a whole budget was spent (fixed).",
    ),
    Part(
        "cifar10-resnet9", "comdefend:weights=cifar10-guided", ("fgsm", "bim"), ("fixed",), "guided",
        "For the attacker who spends a whole budget: a purifier of fewer bits, trained with the help of "
        "other classifiers. The one here took no part in it and was not changed; before some it does less "
        "(docs/guided.md). Each purifier is undone by whoever knows it: docs/robustness.md.",
    ),
    Part(
        "cifar10-resnet9-adversarial", "none", ("fgsm", "bim"), ("fixed",), "adversarial",
        "For the attacker who knows everything: no purifier, but a classifier that was trained under attack. "
        "It gets fewer clean images right, and keeps a part of them.",
    ),
)  # fmt: skip


def run_demo(
    folder: Path, *, limit: int = 100, progress: Progress | None = None
) -> list[tuple[Part, Report, dict[str, Path]]]:
    """Evaluate what ships on shipped images, part by part; each has a folder for its report in `folder`."""
    with output_folder(folder):
        return [(part, *_run(part, folder, limit, progress)) for part in PARTS]


def _run(part: Part, folder: Path, limit: int, progress: Progress | None) -> tuple[Report, dict[str, Path]]:
    def told(done: int, total: int, text: str) -> None:
        if progress:
            progress(done, total, f"{part.folder}: {text}")

    report = evaluate(
        part.classifier,
        part.purifier,
        data=DATA,
        attacks=part.attacks,
        epsilons=[8 / 255],
        protocol=part.protocols,
        limit=limit,
        progress=told,
    )
    return report, write_report(report, folder / part.folder)
