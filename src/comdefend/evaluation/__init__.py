"""Evaluation: what a purifier does for a classifier under attack, said with its protocol and attacker."""

from comdefend.evaluation.evaluate import Report, evaluate
from comdefend.evaluation.results import (
    Result,
    ThreatModel,
    keep_results,
    kept_results,
    paired_difference,
    read_results,
    wilson,
    write_results,
)

__all__ = [
    "Report",
    "Result",
    "ThreatModel",
    "evaluate",
    "keep_results",
    "kept_results",
    "paired_difference",
    "read_results",
    "wilson",
    "write_results",
]
