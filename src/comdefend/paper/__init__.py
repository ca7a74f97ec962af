"""The paper by command: each table and figure run again, ours beside the paper's numbers."""

from difflib import get_close_matches

from comdefend.errors import RequestError
from comdefend.paper.numbers import ACCURACY_TABLES

__all__ = ["ACCURACY_TABLES", "EXPERIMENTS", "check_experiment"]

EXPERIMENTS: dict[str, str] = {
    "table5": "CIFAR-10: every defence under every attack",
    "table6": "Fashion-MNIST: the same",
    "table7": "ImageNet, ResNet-101, against HGD",
    "table8": "ImageNet, three Inceptions, against HGD",
    "table9": "ImageNet, against random resizing and padding",
}
"""What `comdefend reproduce` can run, and what each is."""


def check_experiment(name: str) -> str:
    """The name itself. Raises `RequestError` for an unknown one, with the nearest."""
    if name not in EXPERIMENTS:
        near = get_close_matches(name, EXPERIMENTS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RequestError(f"there is no experiment {name!r}{hint} (known: {', '.join(EXPERIMENTS)})")
    return name


assert set(ACCURACY_TABLES) <= set(EXPERIMENTS)
