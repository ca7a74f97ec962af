"""The Attack interface, the check of what an attack made, and the search for the smallest budget."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from comdefend.attacks.balls import BALLS, Ball, Budget, distance
from comdefend.errors import MissingExtraError, RequestError, WorkError
from comdefend.purifiers.base import check_images
from comdefend.registry import Registry
from comdefend.threat import Norm, Protocol

LossName = Literal["cross-entropy", "margin", "dlr"]


SATURATED = 50.0
"""A lead of the first logit beyond which the gradient of cross-entropy is nothing: a classifier whose logits
are a thousand times as large would look robust.
"""

SLACK = 1e-5
"""By how much rounding may exceed a budget."""


@dataclass(frozen=True)
class Goal:
    """What an attack is after: any class but the label's, or with `targets` (int64, N) those classes."""

    labels: Tensor
    targets: Tensor | None = None

    def reached(self, model: nn.Module, images: Tensor) -> Tensor:
        """Which images the model takes for what the attack wants, N booleans."""
        with torch.no_grad():
            return self.reached_by(model(images))

    def reached_by(self, logits: Tensor) -> Tensor:
        """Which of the images with these logits are what the attack wants, N booleans."""
        predicted = logits.argmax(1)
        return predicted != self.labels if self.targets is None else predicted == self.targets

    def loss(self, logits: Tensor, kind: LossName = "cross-entropy") -> Tensor:
        """What the attack raises, N.

        "cross-entropy": the label's, or the target's with its sign turned; the margin instead where the
        softmax is saturated. "margin": by how much the
        largest other logit exceeds the label's, or the target's the largest other (Carlini & Wagner,
        2017). "dlr": the margin over the distance of the first logit to the third, so that no scale of
        the logits can hide it (Croce & Hein, 2020, Eq. 6; of two classes, the margin alone).
        """
        aim = self.labels if self.targets is None else self.targets
        towards = 1.0 if self.targets is None else -1.0
        own = functional.one_hot(aim, logits.shape[1]).bool()
        margin = towards * (logits.masked_fill(own, -torch.inf).amax(1) - logits[own])
        if kind == "cross-entropy":
            entropy = towards * functional.cross_entropy(logits, aim, reduction="none")
            return torch.where(towards * margin < -SATURATED, margin, entropy)
        if kind == "margin" or logits.shape[1] < 3:
            return margin
        first, _, third = logits.topk(3).values.unbind(1)
        return margin / (first - third + 1e-12)

    def rows(self, rows: Tensor) -> "Goal":
        """The same goal for some of the images."""
        return Goal(self.labels[rows], None if self.targets is None else self.targets[rows])


OF_THE_EVALUATION = {"of": "the evaluation"}
"""Metadata of settings that the evaluation chooses for the model that is attacked; a reference cannot set
them.
"""

attacks: "Registry[Callable[..., Attack]]" = Registry("comdefend.attacks", group="comdefend.attacks")
"""Attacks by name: classes, or functions of the same settings."""


@dataclass(frozen=True)
class Attack(ABC):
    """Makes adversarial images for a model whose gradients it may use.

    `attack(model, images, labels, epsilon=8/255)` takes a model from images to logits N x K, images
    N x C x H x W in [0, 1] and labels, int64 N, and returns images like these, within `epsilon` (a
    fraction, not in units of 1/255) of the originals in `norm`. `epsilon=None` sets no budget.
    With `targets`, int64 N, it aims at these classes, where it can (`targeted`).

    `protocol` says what it does with its budget: an attack of the protocol "fixed" spends all of
    it; one of the protocol "minimal" looks for the smallest perturbation, up to epsilon, that
    fools the model, and gives the original back where it finds none.

    A new attack derives from this class in a file of its own and is decorated with
    `@attacks.register(NAME)`; another package names it under the entry points `comdefend.attacks`.
    """

    name: ClassVar[str]
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    """The norms that it can be bounded in."""
    protocol: ClassVar[Protocol] = "fixed"
    targeted: ClassVar[bool] = True
    moves_all: ClassVar[bool] = True
    """Whether it moves every image, and does not give one back where it finds nothing."""
    query_based: ClassVar[bool] = False
    """Whether it asks the model for answers only, and never for gradients."""
    slow: ClassVar[bool] = False
    """Whether it takes so long for an image that an evaluation gives it fewer of them."""
    max_images: ClassVar[int | None] = None
    """Images that an evaluation gives it at most, where it takes longer still."""
    follows_estimates: ClassVar[bool] = False
    """Whether an evaluation runs it along estimated gradients, too."""
    per_image_budgets: ClassVar[bool] = False
    """Whether `run` takes a budget for each image (N x 1 x 1 x 1): then it has a minimal form, `Smallest`."""

    reference: str = field(default="", repr=False, kw_only=True)
    """What it was asked for by, where it has other settings than usual: "bim:steps=50"."""
    norm: Norm = field(default="linf", kw_only=True)

    def __post_init__(self) -> None:
        if self.norm not in self.norms:
            raise RequestError(f"attack {self.name} is bounded in {' or '.join(self.norms)}, not {self.norm}")

    @abstractmethod
    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        """The attack itself; `__call__` checks what it returns."""

    def settings(self) -> dict[str, Any]:
        """Its settings by name, for files of results."""
        return {key: value for key, value in asdict(self).items() if key not in ("reference", "norm")}

    def informed(self, *, random: bool) -> "Attack":  # noqa: ARG002
        """The form for an attacker who judges what they attack, whose model answers at random or not.

        Here the attack itself.
        """
        return self

    @property
    def gradients(self) -> float:
        """About how many gradients it takes for an image, for estimates of time; three answers count as
        one.
        """
        return 1.0

    @property
    def ball(self) -> Ball:
        return BALLS[self.norm]

    @property
    def title(self) -> str:
        """Its name in results and tables: the reference where there is one."""
        return self.reference or self.name

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        epsilon: float | None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Adversarial images. The model is attacked in evaluation mode, and left as it was.

        Raises `RequestError` for what are no images in [0, 1] or no labels, for a budget that is none, for
        targets that the attack cannot aim at or that are the labels themselves, and `WorkError` where the
        attack breaks its own promise.
        """
        images = check_images(images)
        self._check_budget(epsilon)
        goal = self.goal(labels, targets)
        if len(images) == 0:
            return images.clone()
        for which in (goal.labels, goal.targets):
            if which is not None and (which.shape != images.shape[:1] or int(which.min()) < 0):
                raise RequestError(f"{len(images)} images need as many labels, whole numbers from 0 up")
        with evaluation_mode(model):
            return self._checked(images, self.run(model, images, goal, epsilon), epsilon)

    def _check_budget(self, epsilon: float | None) -> None:
        most = 1.0 if self.norm == "linf" else inf
        if epsilon is not None and not 0 < epsilon <= most:
            accepted = "a fraction above 0 and at most 1 (8/255, not 8)" if most == 1 else "above 0"
            raise RequestError(f"epsilon is {epsilon!r} for attack {self.name}; it must be {accepted}")

    def goal(self, labels: Tensor, targets: Tensor | None = None) -> Goal:
        """What the attack is after, refused where it cannot aim at it."""
        if targets is not None:
            if not self.targeted:
                raise RequestError(f"attack {self.name} has no targeted form")
            if targets.shape != labels.shape or bool((targets == labels).any()):
                raise RequestError("targets must be one class for each image, none of them its label")
        return Goal(labels, targets)

    def _checked(self, images: Tensor, adversarial: Tensor, epsilon: float | None) -> Tensor:
        adversarial = adversarial.detach()
        check_adversarial(images, adversarial, epsilon=epsilon, norm=self.norm, attack=self.name)
        return adversarial.clamp(0, 1)


class BudgetFree(Attack):
    """An attack whose search knows no budget: what it found is cut to any afterwards, so that one search
    serves several budgets, and no larger budget ever breaks fewer images.
    """

    moves_all = False

    @abstractmethod
    def search(self, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
        """Images that reach the goal, however far they are from the originals."""

    def cut(self, images: Tensor, found: Tensor, epsilon: float) -> Tensor:  # noqa: ARG002
        """What was found, moved towards the images until it is within epsilon, where that may do. Here as it
        was found.
        """
        return found

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        assert not isinstance(epsilon, Tensor)
        return self.within(model, images, self.search(model, images, goal), goal, epsilon)

    def within(
        self, model: nn.Module, images: Tensor, found: Tensor, goal: Goal, epsilon: float | None
    ) -> Tensor:
        """What `search` found, cut to epsilon where it reaches the goal even so; elsewhere the image."""
        if epsilon is not None:
            found = self.cut(images, found, epsilon)
        kept = keep_what_works(model, images, found, goal, epsilon=epsilon, norm=self.norm)
        return self._checked(images, kept, epsilon)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode inside, and every module of it in its own again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_adversarial(
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
    return Goal(labels).reached(model, images)


def keep_what_works(
    model: nn.Module,
    images: Tensor,
    found: Tensor,
    goal: Goal,
    *,
    epsilon: float | None,
    norm: Norm,
) -> Tensor:
    """`found` where it reaches the goal within epsilon and the image did not already; else the image."""
    works = goal.reached(model, found) & ~goal.reached(model, images)
    if epsilon is not None:
        works &= distance(images, found, norm) <= epsilon + SLACK
    return torch.where(works[:, None, None, None], found, images)


def foolbox_model(model: nn.Module, images: Tensor) -> Any:
    """A model as Foolbox sees it."""
    try:
        import foolbox
    except ImportError as error:
        raise MissingExtraError("attacks", extra="evaluate", package="foolbox") from error
    return foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)


def foolbox_criterion(goal: Goal) -> Any:
    """A goal as Foolbox sees it."""
    from foolbox.criteria import Misclassification, TargetedMisclassification

    return Misclassification(goal.labels) if goal.targets is None else TargetedMisclassification(goal.targets)
