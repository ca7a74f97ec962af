"""AutoAttack and parts of it (Croce & Hein, 2020): the authors' code, as packaged in pyautoattack.

What it warns of (random outputs, zero gradients, a query attack that beats those with gradients) goes to
the logger "auto-attack", where an evaluation collects it.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from comdefend.attacks.balls import Budget
from comdefend.attacks.base import OF_THE_EVALUATION, Attack, Goal, attacks
from comdefend.errors import MissingExtraError, RequestError
from comdefend.seeding import random_state_kept

LOGGER = "auto-attack"


@attacks.register("autoattack")
@dataclass(frozen=True)
class AutoAttack(Attack):
    """Four attacks, each on what the ones before it left: APGD with cross-entropy, APGD and FAB on every
    class, Square. `kind` "rand" is for random defences: APGD with two losses, `draws` draws a step, of which
    the image of the largest loss counts. The authors' own run takes an image back that the model gets right
    in one more draw, and so leaves unattacked what is wrong in most of them.
    """

    name = "autoattack"
    norms = ("linf", "l2")
    targeted = False
    moves_all = False
    slow = True

    kind: Literal["standard", "rand"] = "standard"
    draws: int = field(default=20, metadata=OF_THE_EVALUATION)

    @property
    def gradients(self) -> float:
        return 200 if self.kind == "rand" else 1000

    def informed(self, *, random: bool) -> "AutoAttack":
        return replace(self, kind="rand", draws=1) if random else self  # what it attacks draws by itself

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        made = _auto_attack(model, images, self, epsilon, version=self.kind)
        if self.kind == "rand":
            made.apgd.eot_iter = self.draws
            return _largest_loss(made, model, images, goal)
        with torch.no_grad():
            others = model(images[:1]).shape[1] - 1
        # Of fewer than ten classes there are fewer to aim at; their loss needs four.
        made.apgd_targeted.n_target_classes = min(others, made.apgd_targeted.n_target_classes)
        made.fab.n_target_classes = min(others, made.fab.n_target_classes)
        if others < 3:
            made.attacks_to_run = [part for part in made.attacks_to_run if part not in ("apgd-t", "apgd-dlr")]
        return _run(made, images, goal)


attacks.register("autoattack-l2")(partial(AutoAttack, norm="l2"))


@attacks.register("apgd")
@dataclass(frozen=True)
class APGD(Attack):
    """PGD without a step size to choose: the two parts of AutoAttack that follow the gradient of one loss,
    cross-entropy and the difference of logits ratio.
    """

    name = "apgd"
    targeted = False
    moves_all = False
    slow = True

    steps: int = 100

    @property
    def gradients(self) -> float:
        return 2 * self.steps

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        made = _auto_attack(model, images, self, epsilon, version="custom", attacks=["apgd-ce", "apgd-dlr"])
        made.apgd.n_restarts, made.apgd.n_iter = 1, self.steps
        made.apgd.n_iter_orig = self.steps
        with torch.no_grad():
            if model(images[:1]).shape[1] < 3:  # the ratio is that of three logits
                made.attacks_to_run = ["apgd-ce"]
        return _run(made, images, goal)


@attacks.register("square")
@dataclass(frozen=True)
class Square(Attack):
    """Square Attack (Andriushchenko et al., 2020): squares at random places, kept where they raise
    the margin. It asks for logits, `queries` times an image.
    """

    name = "square"
    targeted = False
    moves_all = False
    query_based = True
    slow = True

    queries: int = 5000

    @property
    def gradients(self) -> float:
        return self.queries / 3

    def informed(self, *, random: bool) -> "Square":
        return SquareOfMeans(queries=self.queries, reference=self.reference) if random else self

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        return _run(self._made(model, images, epsilon), images, goal)

    def _made(self, model: nn.Module, images: Tensor, epsilon: Budget | None) -> Any:
        made = _auto_attack(model, images, self, epsilon, version="custom", attacks=["square"])
        made.square.n_queries = self.queries
        return made


@dataclass(frozen=True)
class SquareOfMeans(Square):
    """Square against a model whose answers are means of a few draws: it searches for all images, with all
    queries. The authors' own run takes what is wrong in one answer for fooled: such an image is not
    attacked, its search ends, and what was found is taken back if the next answer is right.
    """

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        square = self._made(model, images, epsilon).square
        measure = square.margin_and_loss

        def never_there(at: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            loss: Tensor = measure(at, labels)[1]
            return torch.ones_like(loss), loss  # it stops at an image whose margin is none

        square.margin_and_loss = never_there
        square.init_hyperparam(images)
        with random_state_kept():
            torch.manual_seed(square.seed)
            found: Tensor = square.attack_single_run(images.float(), goal.labels)[1]
        return found.to(images.dtype)


def _auto_attack(
    model: nn.Module, images: Tensor, attack: Attack, epsilon: Budget | None, **options: Any
) -> Any:
    try:
        import pyautoattack
    except ImportError as error:
        raise MissingExtraError(f"attack {attack.name}", extra="evaluate", package="pyautoattack") from error
    if epsilon is None:
        raise RequestError(f"attack {attack.name} needs a budget (epsilon)")
    # It seeds torch itself at every step; where it starts depends on the generator, as all here does.
    seed = int(torch.randint(2**31, (1,)))
    norm = "Linf" if attack.norm == "linf" else "L2"
    return pyautoattack.AutoAttack(model, norm=norm, eps=epsilon, seed=seed, device=images.device, **options)


def _largest_loss(made: Any, model: nn.Module, images: Tensor, goal: Goal) -> Tensor:
    """APGD with both of its losses on all images, and of the two results the one beyond the other."""
    with torch.no_grad():
        losses = ("ce", "dlr") if model(images[:1]).shape[1] > 3 else ("ce",)
    best, farthest = images, torch.full((len(images),), -torch.inf, device=images.device)
    with random_state_kept():
        for loss in losses:
            made.apgd.loss, made.apgd.seed = loss, made.seed
            found = made.apgd.perturb(images.float(), goal.labels, best_loss=True).to(images.dtype)
            with torch.no_grad():
                margin = goal.loss(model(found), "margin")
            best = torch.where((margin > farthest)[:, None, None, None], found, best)
            farthest = torch.maximum(margin, farthest)
    return best


def _run(made: Any, images: Tensor, goal: Goal) -> Tensor:
    """What was found; AutoAttack gives the image back where it found nothing."""
    with random_state_kept():
        found: Tensor = made.run_standard_evaluation(images.float(), goal.labels, batch_size=len(images))[0]
    return found.to(images.dtype)
