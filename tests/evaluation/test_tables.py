"""Tables of results in the terminal: nothing is cut off, whatever the width."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from comdefend.evaluation import Report
from comdefend.evaluation.results import Result, wilson
from comdefend.evaluation.tables import caption, card, label, terminal_tables
from comdefend.threat import ThreatModel


def results(defences: list[str]) -> list[Result]:
    found = []
    for defence in defences:
        found.append(Result("d", "c", defence, "none", 50, 50, interval=wilson(50, 50)))
        threat = ThreatModel("linf", 8 / 255, "white-box")
        made = Result("d", "c", defence, "autoattack", 40, 7, threat, "fixed")
        found += [replace(made, mode=mode) for mode in ("tempered-1000", "straight-through")]
        found.append(replace(made, source="comdefend:weights=a/b/other.safetensors"))
        for protocol in ("fixed", "minimal"):
            threat = ThreatModel("l2", 0.5)
            found.append(Result("d", "c", defence, "pgd-l2", 50, 7, threat, protocol))
    return found


@pytest.mark.parametrize("width", [70, 80, 130, 300])
def test_no_column_is_cut_off(width: int) -> None:
    names = ["none", "comdefend", "feature-squeezing:bits=5", "jpeg", "path/to/mine.py:make"]
    page = StringIO()
    console = Console(file=page, width=width)
    for table in terminal_tables(results(names), width=width):
        console.print(table)
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    assert all(line[-1] in "┓┃┩│┘" for line in lines if line and line.lstrip()[0] in "┏┃┡│└")
    flat = page.getvalue().replace("\n", "")
    assert "…" not in flat
    for word in ("gray-box", "white-box", "undefended", "comdefend", "jpeg", "minimal", "n=40", "100.0"):
        assert word in flat


def test_the_card_tells_the_whole_threat_model() -> None:
    told = card(results(["none", "jpeg"]))
    assert told["Norm and epsilon"] == "linf 8/255, l2 0.5"
    assert "untargeted" in told["Goal"]
    assert {"Attacker (gray-box)", "Attacker (white-box)", "Protocol (fixed)", "Randomness"} <= set(told)
    assert "Attacker (black-box)" not in told
    assert "transfers" not in told["Attacker (gray-box)"]
    transferred = [replace(r, source="elsewhere") for r in results(["none", "jpeg"])]
    assert "transfers" in card(transferred)["Attacker (gray-box)"]


def test_the_caption_names_protocols_and_attacker(gray_box_report: Report) -> None:
    text = " ".join(caption(gray_box_report.results))
    for needed in ("gray-box", "(fixed)", "(minimal)", "Wilson", "30 images", " dB"):
        assert needed in text


def test_the_card_says_what_an_unchanged_image_counts_where_there_are_some(gray_box_report: Report) -> None:
    some = [r for r in gray_box_report.results if r.defence != "perfect"]
    assert "unchanged" in card(gray_box_report.results)["PSNR on clean images"]
    assert "unchanged" not in card(some)["PSNR on clean images"]


def test_labels_of_defences_lose_folders_only() -> None:
    assert label("none") == "undefended"
    assert label("comdefend:weights=/a/b/c.safetensors,tile=3") == "comdefend:weights=c.safetensors,tile=3"
    assert label("../x/mine.py:make+comdefend") == "mine.py:make+comdefend"
