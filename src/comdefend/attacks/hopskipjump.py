"""HopSkipJump (Chen et al., 2020): walks along the decision boundary, knowing only the predicted class."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from comdefend.attacks.base import Attack, Goal, foolbox_criterion, foolbox_model, keep_what_works

TRIES = 50
"""How many random images are tried as a place to start from."""


@dataclass(frozen=True)
class HopSkipJump(Attack):
    """Foolbox's, under L-infinity, from a random image of another class. Minimal by nature: what needs more
    than epsilon is given back as it was.

    A step asks for up to `asked` answers to estimate the boundary's direction, and some more to walk.
    """

    name = "hopskipjump"
    norm = "linf"
    protocol = "minimal"
    targeted = False
    queries = True
    slow = True

    steps: int = 12
    asked: int = 100

    def run(self, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None) -> Tensor:
        wrapped = foolbox_model(model, images)
        from foolbox.attacks import HopSkipJumpAttack

        starts, found = images.clone(), images.clone()
        reached = goal.reached(model, images)
        done = reached.clone()
        for _ in range(TRIES):
            if bool(reached.all()):
                break
            missing = torch.nonzero(~reached)[:, 0]
            starts[missing] = torch.rand_like(images[missing])
            reached[missing] = goal.rows(missing).reached(model, starts[missing])
        rows = torch.nonzero(reached & ~done)[:, 0]
        if len(rows) == 0:
            return images
        attack = HopSkipJumpAttack(
            steps=self.steps,
            initial_gradient_eval_steps=min(20, self.asked),
            max_gradient_eval_steps=self.asked,
            constraint="linf",
        )
        part = goal.rows(rows)
        found[rows] = attack.run(
            wrapped, images[rows], foolbox_criterion(part), starting_points=starts[rows]
        ).to(images.dtype)
        return keep_what_works(model, images, found, goal, epsilon=epsilon, norm=self.norm)
