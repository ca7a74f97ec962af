"""Optimisers and learning-rate schedules by the names that recipes use."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from comdefend.training.recipe import Recipe


class Muon(torch.optim.Optimizer):
    """Muon: momentum whose every update is replaced by the nearest orthogonal matrix.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. A convolution's
    kernel counts as a matrix of its outputs by everything else. The step is scaled by
    `sqrt(max(1, rows / columns))`, as published. Weight decay is decoupled: it bounds a kernel's
    spectral norm by about `1 / weight_decay`. torch.optim.Muon takes matrices only.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(gradient)
        nesterov = gradient.add(state["momentum"], alpha=group["momentum"])
        matrix = nesterov.reshape(len(nesterov), -1)
        scale = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
        update = orthogonalise(matrix).reshape(parameter.shape)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, *, iterations: int = 5) -> Tensor:
    """U V^T of the singular value decomposition, roughly: five Newton-Schulz steps.

    The quintic's coefficients are the published ones; singular values end between 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide is matrix else x.T
    return result


class Together(torch.optim.Optimizer):
    """Two optimisers that act as one, each on its own parameters."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.parts = (first, second)
        super().__init__([*first.param_groups, *second.param_groups], {})
        # Schedulers write the learning rates of these groups, so they must be the parts' own.
        self.param_groups = [*first.param_groups, *second.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [*self.parts[0].param_groups, *self.parts[1].param_groups]


def make_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    kernels = [p for p in network.parameters() if p.ndim == 4]
    others = [p for p in network.parameters() if p.ndim != 4]
    if recipe.optimiser == "muon":
        muon = Muon(kernels, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        return Together(muon, torch.optim.Adam(others, lr=recipe.side_learning_rate))
    # Only kernels are decayed: not biases, scales of normalisation layers, or the last layer.
    decayed = {"params": kernels, "weight_decay": recipe.weight_decay}
    groups: list[dict[str, Any]] = [decayed, {"params": others}]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.Adam(groups, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-8)


def schedule_factor(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """The learning rate at each step, as a factor of the recipe's."""
    if recipe.schedule == "exponential":
        assert recipe.final_learning_rate is not None
        ratio = recipe.final_learning_rate / recipe.learning_rate
        return lambda step: ratio ** (step / total_steps)
    warmup = recipe.warmup * total_steps

    def one_cycle(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1.0, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return one_cycle
