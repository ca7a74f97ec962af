"""The paper by command: each table and figure run again, ours beside the paper's numbers."""

from difflib import get_close_matches

from comdefend.errors import RequestError

__all__ = ["EXPERIMENTS", "check_experiment"]

EXPERIMENTS: dict[str, str] = {
    "table3": "PSNR against the bits of a pixel",
    "table4": "accuracy against lambda and phi",
    "table5": "CIFAR-10: every defence under every attack",
    "table6": "Fashion-MNIST: the same",
    "table7": "ImageNet, ResNet-101, against HGD",
    "table8": "ImageNet, three Inceptions, against HGD",
    "table9": "ImageNet, against random resizing and padding",
    "figure3": "reconstructions along training, soft and hard code, with and without noise",
    "figure4": "table 5's ComDefend rows as bars",
    "speed": "milliseconds an image: ComDefend, HGD, PixelDefend",
}
"""What `comdefend reproduce` can run, and what each is."""


def check_experiment(name: str) -> str:
    """The name itself. Raises `RequestError` for an unknown one, with the nearest."""
    if name not in EXPERIMENTS:
        near = get_close_matches(name, EXPERIMENTS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RequestError(f"there is no experiment {name!r}{hint} (known: {', '.join(EXPERIMENTS)})")
    return name
