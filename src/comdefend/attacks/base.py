"""The Attack interface, the check of what an attack made, and the search for the smallest budget."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from comdefend.errors import MissingExtraError, WorkError

Norm = Literal["linf", "l2"]
Protocol = Literal["fixed", "minimal"]

PROTOCOLS: tuple[Protocol, ...] = ("fixed", "minimal")

SLACK = 1e-5
"""By how much rounding may exceed a budget."""


@dataclass(frozen=True)
class Attack(ABC):
    """Makes adversarial images for a model whose gradients it may use (untargeted).

    `attack(model, images, labels, epsilon=8/255)` returns images in [0, 1], within `epsilon` (a
    fraction, not in units of 1/255) of the originals in `norm`. `epsilon=None` sets no budget.

    `protocol` says what it does with its budget: an attack of the protocol "fixed" spends all of
    it; one of the protocol "minimal" looks for the smallest perturbation, up to epsilon, that
    fools the model, and gives the original back where it finds none.
    """

    name: ClassVar[str]
    norm: ClassVar[Norm]
    protocol: ClassVar[Protocol]

    @abstractmethod
    def run(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
        """The attack itself; `__call__` checks what it returns."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float | None) -> Tensor:
        """Adversarial images. Raises `WorkError` where the attack breaks its own promise."""
        adversarial = self.run(model, images, labels, epsilon).detach()
        check_budget(images, adversarial, epsilon=epsilon, norm=self.norm, attack=self.name)
        return adversarial.clamp(0, 1)


def distance(images: Tensor, others: Tensor, norm: Norm) -> Tensor:
    """How far two batches are apart, N: the largest difference, or the Euclidean length of it."""
    difference = (others - images).flatten(1)
    return difference.abs().amax(1) if norm == "linf" else difference.norm(dim=1)


def check_budget(
    images: Tensor, adversarial: Tensor, *, epsilon: float | None, norm: Norm, attack: str
) -> None:
    """Raise `WorkError` for adversarial images that are malformed, out of [0, 1] or over budget."""
    if adversarial.shape != images.shape or not torch.isfinite(adversarial).all():
        raise WorkError(f"attack {attack} returned images of another shape, or NaN")
    if float(adversarial.min()) < -SLACK or float(adversarial.max()) > 1 + SLACK:
        raise WorkError(f"attack {attack} left the range [0, 1]")
    if epsilon is not None:
        worst = float(distance(images, adversarial, norm).max())
        if worst > epsilon + SLACK:
            raise WorkError(f"attack {attack} moved {worst:.5f} ({norm}) on a budget of {epsilon:.5f}")


def fooled(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images the model gets wrong, N booleans."""
    with torch.no_grad():
        wrong: Tensor = model(images).argmax(1) != labels
    return wrong


def search_smallest(
    attempt: Callable[[Tensor, float], Tensor],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    budgets: Sequence[float],
) -> Tensor:
    """The result of the first of `budgets`, in rising order, at which each image fools the model.

    `attempt(indices, budget)` makes adversarial images for some of `images`. An image that is wrong
    to begin with stays as it is, and so does one that no budget breaks: this is how the attacks of
    Foolbox 1.x ended, whose interface the paper's released scripts use.
    """
    result = images.clone()
    open_ = torch.nonzero(~fooled(model, images, labels))[:, 0]
    for budget in budgets:
        if len(open_) == 0:
            break
        candidates = attempt(open_, budget)
        solved = fooled(model, candidates, labels[open_])
        result[open_[solved]] = candidates[solved]
        open_ = open_[~solved]
    return result


def foolbox_model(model: nn.Module, images: Tensor) -> Any:
    """A model as Foolbox sees it."""
    try:
        import foolbox
    except ImportError as error:
        raise MissingExtraError("attacks", extra="evaluate", package="foolbox") from error
    return foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device=images.device)
