"""The report folder: one page that holds all, and files beside it."""

import base64
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from comdefend.attacks import AutoAttack
from comdefend.attacks.autoattack import LOGGER
from comdefend.data import ImageSet
from comdefend.errors import RequestError
from comdefend.evaluation import Report, Result, evaluate, read_results, write_results
from comdefend.evaluation.checks import Check, read_checks, write_checks
from comdefend.evaluation.report import CHECK_PARTS, CHECKS, PARTS, RESULTS, earlier, write_report
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


def test_what_a_folder_holds_to_go_on_with(tmp_path: Path) -> None:
    """Of several that are alike the newest last; checks where they are wanted; none of what is replaced."""
    old, new = (Check("it", "one", "pass", figure, "", fingerprint="1") for figure in ("old", "new"))
    write_checks(tmp_path / CHECKS, [old])
    write_checks(tmp_path / CHECK_PARTS, [new])
    before, after = (
        Result("d", "c", "none", "none", n, n, fingerprint="2", software={"torch": "2"}) for n in (1, 2)
    )
    write_results(tmp_path / RESULTS, [before])
    write_results(tmp_path / PARTS, [after])
    assert earlier(tmp_path, resume=True, overwrite=False) == ([before, after], [old, new])
    (tmp_path / CHECK_PARTS).write_text("damaged")
    with pytest.raises(RequestError, match="holds no checks"):
        earlier(tmp_path, resume=True, overwrite=False)
    assert earlier(tmp_path, resume=True, overwrite=False, checks=False) == ([before, after], [])
    with pytest.raises(RequestError, match="--resume goes on"):
        earlier(tmp_path, resume=False, overwrite=False)
    assert (tmp_path / CHECK_PARTS).exists()
    assert earlier(tmp_path, resume=False, overwrite=True) == ([], [])
    assert not (tmp_path / CHECK_PARTS).exists()
    assert (tmp_path / CHECKS).exists()  # of the evaluation that is there until it is replaced


def test_checks_that_were_left_out_are_not_lost(tmp_path: Path) -> None:
    """A look at the report before the checks are made; with them none are left to go on with."""
    line = Check("it", "one", "pass", "fine", "", fingerprint="1")
    result = Result("d", "c", "none", "none", 1, 1, software={"torch": "2"}, hardware={"cores": 1})
    other = replace(line, name="another", fingerprint="2")
    write_checks(tmp_path / CHECKS, [line])
    write_checks(tmp_path / CHECK_PARTS, [other])
    write_report(Report([result]), tmp_path)
    assert read_checks(tmp_path / CHECK_PARTS) == [other, line]
    assert not (tmp_path / CHECKS).exists()
    write_report(Report([result], [line]), tmp_path)
    assert not (tmp_path / CHECK_PARTS).exists()
    assert (tmp_path / CHECKS).exists()
