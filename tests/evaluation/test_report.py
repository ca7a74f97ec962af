"""The report folder: one page that holds all, and files beside it."""

import base64
import logging
import re
from pathlib import Path

import pytest
from torch import Tensor, nn

from comdefend.attacks import AutoAttack
from comdefend.attacks.autoattack import LOGGER
from comdefend.data import ImageSet
from comdefend.evaluation import Report, evaluate, read_results
from comdefend.evaluation.report import write_report
from comdefend.evaluation.tables import percent
from tests.conftest import TinyClassifier
from tests.evaluation.killer import GradientKiller


def test_the_report_is_one_self_contained_page(gray_box_report: Report, tmp_path: Path) -> None:
    paths = write_report(gray_box_report, tmp_path / "report")
    assert read_results(paths["results"]) == gray_box_report.results
    page = paths["page"].read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    for text in (
        "gray-box",
        "minimal",
        "fixed",
        "8/255 linf",
        percent(gray_box_report.results[0]).split()[0],
    ):
        assert text in page
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) == 1 + len(gray_box_report.examples)
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert paths["grid"].is_file()


def test_what_autoattack_warns_of_is_in_the_report(
    sample: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(_: AutoAttack, __: nn.Module, images: Tensor, *___: object) -> Tensor:
        logging.getLogger(LOGGER).warning("the gradients are zero")
        return images

    monkeypatch.setattr(AutoAttack, "run", warn)
    made = evaluate(
        TinyClassifier(classes=10).eval(), {"it": GradientKiller()}, data=sample, attacks=["autoattack"],
        limit=4, knowledge=["white-box"], checks=False, examples=0,
    )  # fmt: skip
    flags = {r.flags for r in made.results if r.attack == "autoattack"}
    assert flags == {("the gradients are zero",)}
    page = write_report(made, tmp_path)["page"].read_text()
    assert "autoattack on it: the gradients are zero" in page
