"""The balls that perturbations are bounded by: where an attack starts, how it steps, where it may go."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from comdefend.threat import Norm

Budget = float | Tensor
"""One radius for all images, or one for each, N x 1 x 1 x 1."""


class Ball(ABC):
    """All images N x C x H x W in [0, 1] that are within a radius of given ones, in one norm."""

    norm: Norm

    @abstractmethod
    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        """How far two batches are apart, N."""

    @abstractmethod
    def largest(self, images: Tensor) -> float:
        """The radius within which every image lies, whatever the centre."""

    @abstractmethod
    def start(self, images: Tensor, epsilon: Budget) -> Tensor:
        """A random point of the ball around each image, from torch's global generator."""

    @abstractmethod
    def step(self, gradient: Tensor, length: Budget) -> Tensor:
        """The step of that length which rises most along the gradient; zero where the gradient is zero."""

    @abstractmethod
    def project(self, at: Tensor, images: Tensor, epsilon: Budget) -> Tensor:
        """The nearest point of the ball around the images, and of that the nearest in [0, 1]."""


class LinfBall(Ball):
    """Every value moves by at most epsilon, a fraction of the range [0, 1]."""

    norm = "linf"

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        return (others - images).flatten(1).abs().amax(1)

    def largest(self, images: Tensor) -> float:  # noqa: ARG002
        return 1.0

    def start(self, images: Tensor, epsilon: Budget) -> Tensor:
        return (images + epsilon * (2 * torch.rand_like(images) - 1)).clamp(0, 1)

    def step(self, gradient: Tensor, length: Budget) -> Tensor:
        return length * gradient.sign()

    def project(self, at: Tensor, images: Tensor, epsilon: Budget) -> Tensor:
        return torch.clamp(at, (images - epsilon).clamp_min(0), (images + epsilon).clamp_max(1))


class L2Ball(Ball):
    """The perturbation as a vector has at most the Euclidean length epsilon."""

    norm = "l2"

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        lengths: Tensor = (others - images).flatten(1).norm(dim=1)
        return lengths

    def largest(self, images: Tensor) -> float:
        return float(images[0].numel() ** 0.5)

    def start(self, images: Tensor, epsilon: Budget) -> Tensor:
        away = torch.randn_like(images)
        radius = epsilon * torch.rand(len(images), 1, 1, 1, device=images.device).to(images.dtype)
        return (images + radius * away / _lengths(away)).clamp(0, 1)

    def step(self, gradient: Tensor, length: Budget) -> Tensor:
        # Scaled first: the square of a very small gradient is zero.
        largest = gradient.flatten(1).abs().amax(1)[:, None, None, None]
        gradient = torch.where(largest > 0, gradient / largest, 0)
        found: Tensor = length * gradient / _lengths(gradient).clamp_min(1e-12)
        return found

    def project(self, at: Tensor, images: Tensor, epsilon: Budget) -> Tensor:
        away = at - images
        share: Tensor = (epsilon / _lengths(away).clamp_min(1e-12)).clamp_max(1)
        return (images + away * share).clamp(0, 1)


BALLS: Mapping[Norm, Ball] = {"linf": LinfBall(), "l2": L2Ball()}


def distance(images: Tensor, others: Tensor, norm: Norm) -> Tensor:
    """How far two batches are apart, N: the largest difference, or the Euclidean length of it."""
    return BALLS[norm].distance(images, others)


def _lengths(images: Tensor) -> Tensor:
    lengths: Tensor = images.flatten(1).norm(dim=1)
    return lengths[:, None, None, None]
