"""The main job in under two minutes: sample images, a classifier, two attacks, the purifier, a picture."""

from pathlib import Path

from comdefend.evaluation.evaluate import Progress, Report, evaluate
from comdefend.evaluation.report import make_folder, write_report

CLASSIFIER = "cifar10-resnet9-plain"
"""Half the work of `cifar10-resnet9`, which reads every image and its mirror."""

DATA = "sample:cifar10"

CAPTION = (
    "This shows a gray-box attacker, who knows the classifier but not the purifier: purified images are "
    "classified right where he changed them as little as possible (minimal), far less so where he spends "
    "his whole budget (fixed); it does not show one who knows the purifier, who does better still."
)


def run_demo(
    folder: Path, *, limit: int = 100, progress: Progress | None = None
) -> tuple[Report, dict[str, Path]]:
    """Evaluate the shipped pair on shipped images and write the report into `folder`."""
    make_folder(folder)
    report = evaluate(
        CLASSIFIER,
        "comdefend",
        data=DATA,
        attacks=["fgsm", "bim", "deepfool"],
        epsilons=[8 / 255],
        protocols=["minimal", "fixed"],
        limit=limit,
        progress=progress,
    )
    return report, write_report(report, folder)
