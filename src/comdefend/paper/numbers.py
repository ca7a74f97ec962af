"""Every number of the paper's tables of accuracy, as data.

Percent of 1000 or more images, ResNet-50 for CIFAR-10 and Fashion-MNIST; the columns of one attack are
the budgets of its table. A row knows which classifier and purifier reproduce it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

ATTACKS = ("fgsm", "bim", "deepfool", "cw")


@dataclass(frozen=True)
class Row:
    """One defence of a table: when it acts, the paper's name for it, and what stands for it here.

    `classifier` completes the reference of the table's classifier: "-plain" is the recipe of that end,
    on clean images. `paper` holds the accuracies by attack ("none":
    clean), one for each budget.
    """

    when: str
    defence: str
    classifier: str
    purifier: str
    paper: Mapping[str, tuple[int, ...]] = field(compare=False)

    @property
    def trains(self) -> bool:
        """Whether the classifier is trained for this defence: then no other can stand for it."""
        return self.when.startswith("training")


@dataclass(frozen=True)
class AccuracyTable:
    """A table of accuracies: rows of defences, columns of attacks and budgets (in units of 1/255).

    `classifier` begins the reference of the classifier; `attacks` as this package names them, with
    the budgets of each where they are not the table's. `side`: what images of differing sizes
    are brought to.
    """

    name: str
    title: str
    data: str
    classifier: str
    epsilons: tuple[int, ...]
    rows: tuple[Row, ...]
    attacks: tuple[str, ...] = ATTACKS
    budgets: Mapping[str, tuple[int, ...]] | None = None
    side: int = 224

    def epsilons_of(self, attack: str) -> tuple[int, ...]:
        return (self.budgets or {}).get(attack, self.epsilons)


def _row(when: str, defence: str, classifier: str, purifier: str, *columns: tuple[int, ...]) -> Row:
    return Row(when, defence, classifier, purifier, dict(zip(("none", *ATTACKS), columns, strict=True)))


TABLE5 = AccuracyTable(
    name="table5",
    title="Table 5: CIFAR-10, ResNet-50",
    data="cifar10",
    classifier="cifar10-resnet9",
    epsilons=(2, 8, 16),
    rows=(
        _row("-", "none", "-plain", "none", (92, 92, 92), (39, 20, 18), (8, 0, 0), (21, 1, 1), (17, 0, 0)),
        _row(
            "training", "adversarial FGSM", "-fgsm", "none",
            (91, 91, 91), (88, 91, 91), (24, 7, 0), (45, 0, 0), (20, 0, 7),
        ),
        _row(
            "training", "adversarial BIM", "-bim", "none",
            (87, 87, 87), (80, 52, 34), (74, 32, 6), (79, 48, 25), (76, 42, 8),
        ),
        _row(
            "training", "label smoothing", "-smooth", "none",
            (92, 92, 92), (73, 54, 28), (59, 8, 1), (56, 20, 10), (30, 2, 2),
        ),
        _row(
            "training and test", "ComDefend", "-purified", "comdefend",
            (92, 92, 92), (89, 89, 87), (84, 47, 40), (90, 90, 90), (91, 90, 90),
        ),
        _row(
            "test", "feature squeezing", "-plain", "feature-squeezing",
            (84, 84, 84), (31, 20, 18), (13, 0, 0), (75, 75, 75), (78, 78, 78),
        ),
        _row(
            "test", "PixelDefend", "-plain", "pixeldefend",
            (85, 85, 88), (73, 46, 24), (71, 46, 25), (80, 80, 80), (78, 78, 78),
        ),
        _row(
            "test", "ComDefend", "-plain", "comdefend",
            (91, 91, 91), (86, 84, 83), (78, 41, 34), (88, 88, 88), (89, 87, 87),
        ),
    ),
)  # fmt: skip

TABLE6 = AccuracyTable(
    name="table6",
    title="Table 6: Fashion-MNIST, ResNet-50",
    data="fashion-mnist",
    classifier="fashion-mnist-resnet9",
    epsilons=(8, 25),
    rows=(
        _row("-", "none", "-plain", "none", (93, 93), (38, 24), (0, 0), (6, 6), (0, 0)),
        _row("training", "adversarial FGSM", "-fgsm", "none", (93, 93), (85, 85), (51, 0), (63, 7), (67, 21)),
        _row("training", "adversarial BIM", "-bim", "none", (92, 91), (84, 79), (76, 63), (82, 72), (81, 70)),
        _row(
            "training", "label smoothing", "-smooth", "none",
            (93, 83), (73, 45), (16, 0), (29, 6), (33, 14),
        ),
        _row(
            "test", "feature squeezing", "-plain", "feature-squeezing",
            (84, 84), (70, 28), (56, 25), (83, 83), (83, 83),
        ),
        _row(
            "test", "PixelDefend", "-plain", "pixeldefend",
            (89, 89), (87, 82), (85, 83), (88, 88), (88, 88),
        ),
        _row("test", "ComDefend", "-plain", "comdefend", (93, 93), (89, 89), (70, 60), (90, 89), (88, 89)),
    ),
)  # fmt: skip

TABLE7 = AccuracyTable(
    name="table7",
    title="Table 7: ImageNet, ResNet-101",
    data="imagenet",
    classifier="torchvision:resnet101",
    epsilons=(8, 13, 20),
    rows=(
        _row("-", "none", "", "none", (76, 76, 76), (3, 3, 3), (0, 0, 0), (1, 1, 1), (0, 0, 0)),
        _row(
            "test", "HGD", "", "hgd:weights=imagenet-hgd",
            (54, 54, 54), (51, 50, 50), (36, 36, 36), (52, 52, 52), (51, 51, 51),
        ),
        _row(
            "test", "ComDefend", "", "comdefend:weights=cifar10",
            (67, 67, 67), (56, 56, 56), (12, 12, 10), (53, 53, 52), (54, 54, 53),
        ),
    ),
)  # fmt: skip


def _table8(network: str, classifier: str, *rows: tuple[int, tuple[tuple[int, int], ...]]) -> AccuracyTable:
    attacks = ("fgsm", "bim", "mi-fgsm", "deepfool", "cw")
    defences = (
        ("-", "none", "none"),
        ("test", "HGD", "hgd:weights=imagenet-hgd"),
        ("test", "ComDefend", "comdefend:weights=cifar10"),
    )
    return AccuracyTable(
        name=f"table8-{network}",
        title=f"Table 8: ImageNet, {network}",
        data="imagenet",
        classifier=classifier,
        epsilons=(8, 16),
        attacks=attacks,
        budgets={"bim": (3, 5)},
        side=299,
        rows=tuple(
            Row(
                when, defence, "", purifier,
                {"none": (clean, clean), **dict(zip(attacks, columns, strict=True))},
            )
            for (when, defence, purifier), (clean, columns) in zip(defences, rows, strict=True)
        ),
    )  # fmt: skip


TABLE8 = (
    _table8(
        "inception-resnet-v2", "timm:inception_resnet_v2",
        (86, ((34, 30), (10, 5), (17, 15), (13, 11), (0, 0))),
        (54, ((47, 48), (42, 42), (46, 44), (48, 48), (48, 48))),
        (77, ((62, 61), (51, 42), (50, 40), (60, 60), (61, 60))),
    ),
    _table8(
        "inception-v3", "timm:inception_v3",
        (83, ((20, 18), (57, 49), (4, 1), (13, 7), (0, 0))),
        (70, ((60, 60), (62, 61), (62, 62), (60, 60), (59, 59))),
        (74, ((62, 61), (64, 60), (50, 40), (60, 60), (61, 63))),
    ),
    _table8(
        "inception-v4", "timm:inception_v4",
        (88, ((28, 26), (6, 1), (57, 50), (12, 11), (0, 0))),
        (64, ((56, 56), (51, 50), (57, 52), (59, 59), (59, 59))),
        (74, ((58, 56), (50, 46), (69, 64), (60, 60), (60, 60))),
    ),
)  # fmt: skip

TABLE9 = AccuracyTable(
    name="table9",
    title="Table 9: ImageNet, Inception-ResNet-v2, against random resizing and padding",
    data="imagenet",
    classifier="timm:inception_resnet_v2",
    epsilons=(8,),
    attacks=("fgsm", "deepfool", "cw"),
    budgets={"fgsm": (8, 12)},
    side=299,
    rows=(
        Row("-", "none", "", "none", {"fgsm": (34, 32), "deepfool": (13,), "cw": (0,)}),
        Row("test", "Xie et al.", "", "resize-pad", {"fgsm": (62, 50), "deepfool": (55,), "cw": (59,)}),
        Row(
            "test", "ComDefend", "", "comdefend:weights=cifar10",
            {"fgsm": (62, 61), "deepfool": (60,), "cw": (61,)},
        ),
    ),
)  # fmt: skip

ACCURACY_TABLES: dict[str, tuple[AccuracyTable, ...]] = {
    "table5": (TABLE5,),
    "table6": (TABLE6,),
    "table7": (TABLE7,),
    "table8": TABLE8,
    "table9": (TABLE9,),
}
"""The tables by the names that `comdefend reproduce` takes; the eighth is three, one for each network."""

BITS: dict[int, float] = {8: 31.01, 10: 31.01, 12: 31.78, 14: 28.77, 16: 30.95}
"""Table 3: PSNR in dB at so many bits a pixel."""

GRID: dict[float, tuple[float, ...]] = {
    0.01: (68.39, 86.69, 90.22, 87.52, 86.12, 85.42, 86.22, 86.71),
    0.001: (88.99, 72.23, 89.64, 90.23, 91.09, 90.41, 90.55, 90.56),
    0.0001: (89.61, 91.82, 90.77, 90.98, 89.45, 91.24, 90.61, 90.33),
    0.00001: (89.06, 90.99, 91.65, 91.37, 90.74, 91.05, 90.25, 90.65),
    0.0: (90.00, 91.45, 90.39, 91.27, 91.01, 90.88, 88.18, 90.10),
}
"""Table 4: accuracy in % by lambda, for eight phi. Which column is which phi is not known; the second
holds the best value, which the paper places at phi 20.
"""

PAPER_SECONDS = {"comdefend": 1.2, "hgd": 2.7}
"""Seconds for one ImageNet image (section 4.4)."""
