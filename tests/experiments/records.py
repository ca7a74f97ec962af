"""Results made up for tests of tables: the only place here that builds records."""

from itertools import product
from pathlib import Path
from typing import Any

import torch

from comdefend.atomic import write_json
from comdefend.evaluation import Result, wilson, write_results
from comdefend.evaluation.results import pack
from comdefend.threat import ThreatModel

PROVENANCE = {
    "seed": 0, "commit": "abc", "software": {"torch": "2"}, "hardware": {"processor": "p", "cores": 2},
}  # fmt: skip
N = 8
"""Images of a result."""


def result(classifier: str, defence: str, right: int, attack: str = "none", **more: object) -> Result:
    """A result of `N` images, the first `right` of which are right."""
    mask = torch.arange(N) < right
    return Result(
        "cifar10", classifier, defence, attack, N, right, right=pack(mask), interval=wilson(right, N),
        **{**PROVENANCE, **more},  # type: ignore[arg-type]
    )  # fmt: skip


def everything(classifier: str, defence: str) -> list[Result]:
    """What `attack_with_all` returns of one classifier: fewer are right the larger the budget."""
    results = [result(classifier, defence, 7)]
    for epsilon, attack in product((2, 4, 8, 16), ("fgsm", "bim:steps=50,step=0.04")):
        threat = ThreatModel("linf", epsilon / 255, "gray-box", "untargeted")
        right = 6 - epsilon // 4
        results.append(result(classifier, defence, right, attack, threat_model=threat, protocol="fixed"))
    for knowledge, way, right in (
        ("gray-box", {"source": "another"}, 5), ("white-box", {"mode": "identity"}, 1),
    ):  # fmt: skip
        threat = ThreatModel("linf", 8 / 255, knowledge, "untargeted")  # type: ignore[arg-type]
        results.append(
            result(classifier, defence, right, "pgd", threat_model=threat, protocol="fixed", **way)
        )
    return results


def keep(file: Path, results: list[Result], facts: dict[str, Any]) -> None:
    """Results that are complete, though they have no fingerprints."""
    write_results(file, results)
    write_json(file.with_suffix(".facts.json"), facts)
