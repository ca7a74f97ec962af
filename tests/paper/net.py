"""Factories of tiny classifiers, for tests that refer to one by its file."""

import os

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        scale = float(os.environ.get("TEST_NET_SCALE", "1"))
        self.weights = nn.Parameter(scale * torch.randn(10, 48, generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(images - 0.5, 4).flatten(1)
        return torch.tanh(pooled) @ self.weights.T


def make() -> nn.Module:
    return Net(1)


def make_more() -> nn.Module:
    return Net(2)


def other() -> nn.Module:
    return Net(3)
