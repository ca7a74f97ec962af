"""Evaluations that several tests look at."""

import pytest
import torch
from torch import Tensor

from comdefend.data import ImageSet
from comdefend.evaluation import Report, evaluate
from comdefend.purifiers import ComDefendPurifier, Purifier
from tests.conftest import TinyClassifier, tiny_model
from tests.evaluation.killer import GradientKiller


class Undo(Purifier):
    """Knows the clean images: a perfect defence, to see that evaluation counts it as one."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = clean

    def purify(self, images: Tensor) -> Tensor:
        return torch.stack([self.clean[(self.clean - i).abs().mean((1, 2, 3)).argmin()] for i in images])


@pytest.fixture(scope="session")
def adaptive_report(sample: ImageSet) -> Report:
    return evaluate(
        TinyClassifier(classes=10).eval(),
        {"tiny": ComDefendPurifier(tiny_model()), "killer": GradientKiller()},
        data=sample, attacks=["fgsm", "pgd", "pgd-l2", "square"], epsilons=[2 / 255, 16 / 255],
        knowledge=["gray-box", "white-box", "black-box"], limit=12, batch=8, checks=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def gray_box_report(sample: ImageSet) -> Report:
    chosen = sample.pick(30, seed=0)
    return evaluate(
        TinyClassifier(classes=10).eval(),
        {"perfect": Undo(sample.images(chosen)), "tiny": ComDefendPurifier(tiny_model())},
        data=sample,
        attacks=["fgsm", "deepfool", "cw"],
        epsilons=[8 / 255, 16 / 255],
        limit=30,
        batch=13,
    )
