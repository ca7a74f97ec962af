"""The demo, with the shipped weights on the shipped sample."""

from pathlib import Path

import pytest

from comdefend.cli import main
from comdefend.evaluation import read_results


@pytest.mark.slow
def test_the_demo_shows_the_papers_effect_and_its_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0  # with as many images as users see
    out = capsys.readouterr().out
    assert "gray-box" in out
    assert str(tmp_path / "demo" / "paper" / "examples.png") in out.replace("\n", "")
    assert "undone by whoever knows it" in out.replace("\n", " ")
    results = read_results(tmp_path / "demo" / "paper" / "results.json")
    by = {(r.attack, r.protocol, r.defence): r.accuracy for r in results}
    clean = by["none", None, "none"]
    assert clean > 0.8
    assert by["none", None, "comdefend"] > clean - 0.1
    for attack in ("fgsm", "bim", "deepfool"):
        assert by[attack, "minimal", "none"] < 0.35
        assert by[attack, "minimal", "comdefend"] > by[attack, "minimal", "none"] + 0.3
    # The same defence against the whole budget: worth knowing that it does not hold.
    assert by["bim", "fixed", "comdefend"] < by["bim", "minimal", "comdefend"]
    # Beside it the one that does, in part, before a classifier that took no part in its training.
    results = read_results(tmp_path / "demo" / "guided" / "results.json")
    guided = {(r.attack, r.defence != "none"): r.accuracy for r in results}
    assert guided["bim", True] > max(guided["bim", False], by["bim", "fixed", "comdefend"]) + 0.2
    assert guided["none", True] > guided["none", False] - 0.15
    # And what keeps more than any of them: training under attack, at a price on clean images.
    results = read_results(tmp_path / "demo" / "adversarial" / "results.json")
    trained = {r.attack: r.accuracy for r in results}
    assert 0.3 < trained["bim"] < trained["none"] < clean
