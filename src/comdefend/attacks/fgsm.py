"""FGSM: one step along the sign of the gradient (Goodfellow et al., 2015)."""

from dataclasses import dataclass

from torch import Tensor, nn

from comdefend.attacks.base import Attack, foolbox_model, search_smallest


@dataclass(frozen=True)
class FGSM(Attack):
    """The whole budget in one step: `x + epsilon * sign(grad)`, clipped to [0, 1]."""

    name = "fgsm"
    norm = "linf"
    protocol = "fixed"

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
        return one_step(model, images, labels, 1.0 if epsilon is None else epsilon)


@dataclass(frozen=True)
class MinimalFGSM(Attack):
    """The shortest step along the sign of the gradient that fools the model, up to epsilon.

    A line search over `steps` equal parts of epsilon, as Foolbox 1.x did.
    """

    name = "fgsm"
    norm = "linf"
    protocol = "minimal"

    steps: int = 60

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
        most = 1.0 if epsilon is None else epsilon
        # The gradient is that of the clean image at every length, so one step tells all of them.
        # An image at a bound loses its sign there, where clipping would have undone the step anyway.
        direction = (one_step(model, images, labels, most) - images).sign()
        budgets = [most * k / self.steps for k in range(1, self.steps + 1)]
        return search_smallest(
            lambda rows, budget: (images[rows] + budget * direction[rows]).clamp(0, 1),
            model, images, labels, budgets,
        )  # fmt: skip


def one_step(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    wrapped = foolbox_model(model, images)
    from foolbox.attacks import LinfFastGradientAttack
    from foolbox.criteria import Misclassification

    attacked: Tensor = LinfFastGradientAttack(random_start=False).run(
        wrapped, images, Misclassification(labels), epsilon=epsilon
    )
    return attacked
