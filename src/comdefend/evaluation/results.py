"""Results: one frozen record for each cell of an evaluation, and the JSON files that hold them."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from comdefend.atomic import write_json
from comdefend.attacks import Norm, Protocol
from comdefend.errors import RequestError

Knowledge = Literal["gray-box"]
"""What the attacker knows. Gray-box: the classifier, with its gradients, and not the defence."""

KNOWLEDGE: dict[str, str] = {
    "gray-box": "the attacker knows the classifier and its weights, not the defence (the paper's setting)",
}


@dataclass(frozen=True)
class ThreatModel:
    """Norm, budget (a fraction, not in units of 1/255; None: no limit), goal, and knowledge."""

    norm: Norm
    epsilon: float | None
    knowledge: Knowledge = "gray-box"
    goal: Literal["untargeted"] = "untargeted"

    def budget(self) -> str:
        """The budget for people: L-infinity in units of 1/255."""
        if self.epsilon is None:
            return "unlimited"
        return f"{self.epsilon * 255:g}/255" if self.norm == "linf" else f"{self.epsilon:g}"


@dataclass(frozen=True)
class Result:
    """How many of `n` images one defended classifier got right in one situation.

    Without an attack (`attack` is "none", no threat model, no protocol) this is clean accuracy, and
    `psnr` is the mean over the images of the purified image's PSNR in dB (None without a defence).
    `fooled` counts the images that the attack turned on the bare classifier, which it knew;
    `distance` is the median size of the perturbation over those, in the threat model's norm.
    `settings` are the attack's, `defence_settings` what identifies the defence (for ComDefend the
    weights, their SHA-256, and what it computed in). `interval`: 95 %, Wilson. `fingerprint`: a hash
    of all that the number depends on, where someone keeps results to not run them again.
    """

    data: str
    classifier: str
    defence: str
    attack: str
    n: int
    correct: int
    threat_model: ThreatModel | None = None
    protocol: Protocol | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    defence_settings: dict[str, Any] = field(default_factory=dict)
    psnr: float | None = None
    fooled: int | None = None
    distance: float | None = None
    stochastic: bool = False
    seed: int = 0
    seconds: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    software: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str | int] = field(default_factory=dict)
    commit: str | None = None
    fingerprint: str = ""

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


Z95 = 1.959964
"""Half of the width of a 95 % interval, in standard deviations of a normal distribution."""


def wilson(correct: int, n: int, *, z: float = Z95) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, 1927): sound near 0 and 1 and for few images."""
    if n == 0:
        return (0.0, 1.0)
    share = correct / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At both ends the bound is the end itself; rounding would put it a hair inside.
    low = 0.0 if correct == 0 else (centre - spread) / scale
    high = 1.0 if correct == n else (centre + spread) / scale
    return (low, high)


def write_results(path: Path, results: Sequence[Result]) -> None:
    write_json(path, [asdict(result) for result in results])


def read_results(path: Path) -> list[Result]:
    """Results from a file that `write_results` wrote. Raises `RequestError` for anything else."""
    try:
        content = json.loads(path.read_text())
        return [
            Result(
                **{
                    **entry,
                    "interval": tuple(entry["interval"]),
                    "threat_model": ThreatModel(**entry["threat_model"]) if entry["threat_model"] else None,
                }
            )
            for entry in content
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{str(path)!r} is no file of results: {error}") from error
