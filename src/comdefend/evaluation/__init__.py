"""Evaluation: what a purifier does for a classifier under attack, said with its protocol and attacker.

Everything is imported when it is first used: the command line reads the spec alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comdefend.evaluation.evaluating import Report, evaluate, plan
    from comdefend.evaluation.results import (
        Result,
        kept_results,
        paired_difference,
        read_results,
        wilson,
        write_results,
    )
    from comdefend.evaluation.spec import EvaluationSpec
    from comdefend.evaluation.store import Store
    from comdefend.threat import ThreatModel

__all__ = [
    "EvaluationSpec",
    "Report",
    "Result",
    "Store",
    "ThreatModel",
    "evaluate",
    "kept_results",
    "paired_difference",
    "plan",
    "read_results",
    "wilson",
    "write_results",
]

_HOMES = {
    "EvaluationSpec": "spec",
    "Report": "evaluating",
    "Store": "store",
    "ThreatModel": "results",
    "evaluate": "evaluating",
    "plan": "evaluating",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'comdefend.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"comdefend.evaluation.{_HOMES.get(name, 'results')}"), name)
