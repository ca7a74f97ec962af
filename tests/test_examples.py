"""The examples work, and show what they say."""

from pathlib import Path

import pytest

from comdefend.cli import main
from comdefend.evaluation import read_results
from tests.conftest import ROOT


@pytest.mark.slow
def test_someone_elses_purifier_is_evaluated_adaptively(tmp_path: Path) -> None:
    reference = f"{ROOT / 'examples' / 'art_defence.py'}:squeezing"
    words = [
        "evaluate", "--classifier", "cifar10-resnet9-plain", "--data", "sample:cifar10", "--limit", "10",
        "--attacks", "pgd", "--epsilons", "8", "--knowledge", "white-box", "--defences", reference,
        "--output", str(tmp_path),
    ]  # fmt: skip
    assert main(words) == 0
    results = [r for r in read_results(tmp_path / "results.json") if r.defence == reference]
    left = {r.via: r.correct for r in results if r.attack == "pgd"}
    clean = next(r.correct for r in results if not r.threat_model)
    assert left["autograd"] > clean - 3, "it passes no gradient back"
    assert left["identity"] <= 1
