"""Checks in JSON files: those of a finished evaluation, and those made so far of one that goes on later."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from comdefend.atomic import write_json
from comdefend.errors import RequestError
from comdefend.evaluation.checks.probe import Check
from comdefend.evaluation.fingerprint import not_replaced


def write_checks(path: Path, checks: Sequence[Check]) -> None:
    """All of them, for `read_checks`."""
    write_json(path, [asdict(check) for check in checks])


def keep_checks(path: Path, checks: Sequence[Check]) -> None:
    """Into the file, beside what it holds of other checks."""
    write_checks(path, [*not_replaced(read_checks(path), checks), *checks])


def read_checks(path: Path) -> list[Check]:
    """Those of a file, none where there is no file. Raises `RequestError` for anything else."""
    if not path.is_file():
        return []
    try:
        return [
            Check(**{**entry, "curve": tuple((epsilon, left) for epsilon, left in entry["curve"])})
            for entry in json.loads(path.read_text())
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{str(path)!r} holds no checks of an evaluation: {error}") from error
