"""HopSkipJump (Chen et al., 2020): walks along the decision boundary, knowing only the predicted class."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from comdefend.attacks.balls import Budget
from comdefend.attacks.base import (
    Attack,
    Goal,
    attacks,
    foolbox_criterion,
    foolbox_model,
    keep_what_works,
)
from comdefend.seeding import drawn_from

TRIES = 50
"""How many random images are tried as a place to start from."""

CONFIRMED = 5
"""How many answers must agree that a place is of another class: those of a random defence may differ."""


@attacks.register("hopskipjump")
@dataclass(frozen=True)
class HopSkipJump(Attack):
    """Foolbox's, under L-infinity, from a random image of another class. Minimal by nature: what needs more
    than epsilon is given back as it was.

    A step asks for up to `gradient_queries` answers to estimate the direction of the boundary, and some more
    to walk.
    """

    name = "hopskipjump"
    protocol = "minimal"
    targeted = False
    query_based = True
    slow = True
    moves_all = False
    max_images = 40

    steps: int = 12
    gradient_queries: int = 100

    @property
    def gradients(self) -> float:
        return self.steps * (self.gradient_queries + 25) / 3

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: Budget | None) -> Tensor:
        assert not isinstance(epsilon, Tensor)
        still = _Still(model)
        wrapped = foolbox_model(still, images)
        from foolbox.attacks import HopSkipJumpAttack

        starts, found = images.clone(), images.clone()
        reached = goal.reached(model, images)
        done = reached.clone()
        for _ in range(TRIES):
            if bool(reached.all()):
                break
            missing = torch.nonzero(~reached)[:, 0]
            starts[missing] = torch.rand_like(images[missing])
            reached[missing] = _always(goal.rows(missing), model, starts[missing])
        rows = torch.nonzero(reached & ~done)[:, 0]
        # What an image draws depends on its place in the batch, so they are asked once more in theirs.
        while len(rows) and not bool((agreed := goal.rows(rows).reached(still, starts[rows])).all()):
            rows = rows[agreed]
        if len(rows) == 0:
            return images
        attack = HopSkipJumpAttack(
            steps=self.steps,
            initial_gradient_eval_steps=min(20, self.gradient_queries),
            max_gradient_eval_steps=self.gradient_queries,
            constraint="linf",
        )
        criterion = foolbox_criterion(goal.rows(rows))
        walked = attack.run(wrapped, images[rows], criterion, starting_points=starts[rows])
        found[rows] = walked.to(images.dtype)
        return keep_what_works(model, images, found, goal, epsilon=epsilon, norm=self.norm)


class _Still(nn.Module):
    """A model whose randomness is the same in every call: Foolbox takes a random one's second thoughts for an
    error. What comes of it is judged by the model itself.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seed = model, torch.initial_seed()
        self.training = model.training  # Foolbox warns of one in training

    def forward(self, images: Tensor) -> Tensor:
        with drawn_from(self.seed):
            logits: Tensor = self.model(images)
        return logits


def _always(goal: Goal, model: nn.Module, images: Tensor) -> Tensor:
    """Which images reach the goal in each of several answers, N booleans."""
    return torch.stack([goal.reached(model, images) for _ in range(CONFIRMED)]).all(0)
