"""Who attacks, how far they may go, and how they use that: the words that every robust accuracy is said
with.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Norm = Literal["linf", "l2"]

Protocol = Literal["fixed", "minimal"]

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

Knowledge = Literal["gray-box", "white-box", "black-box"]

KNOWLEDGE: dict[Knowledge, str] = {
    "gray-box": "the attacker knows the classifier and its weights, not the defence (the paper's setting)",
    "white-box": "the attacker knows classifier and defence, with their weights, and differentiates both",
    "black-box": "the attacker knows neither, and asks the defended classifier: Square for its logits, "
    "HopSkipJump for its labels alone",
}
"""What the attacker knows, in words."""


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

    def in_words(self) -> str:
        """Budget and norm, such as "8/255 linf"."""
        return f"{self.budget()} {self.norm}"
