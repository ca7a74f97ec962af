"""An adversarial example that is known to be there: whether an attack finds it says whether it works.

After Zimmermann et al., "Increasing confidence in adversarial robustness evaluations", 2022: the classifier's
last layer is replaced by one that calls a single corner of the budget adversarial.
"""

import torch
from torch import Tensor, nn

from comdefend.attacks import BALLS
from comdefend.attacks.adaptive import AdaptiveView

PLANTED_AMONG = 48
"""Harmless neighbours that a planted adversarial example is hidden among."""

PLANTED_SHARE, CORNERS = 0.9, 64
"""Where the planted one's threshold lies, as a share of its score; random corners that must not reach it."""


class Head(nn.Module):
    """Two logits from what goes into the last layer of the classifier behind a view, where that is linear,
    and else from the logits.
    """

    def __init__(self, view: AdaptiveView, layer: nn.Module | None) -> None:
        super().__init__()
        self.view, self.layer = view, layer
        self.weights = torch.zeros(())

    def features(self, images: Tensor) -> Tensor:
        """N x D, with a column of ones; without such a layer the logits are the features."""
        caught: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, x: caught.append(x[0])) if self.layer else None
        try:
            logits = self.view(images)
        finally:
            if hook:
                hook.remove()
        found = torch.stack(caught).mean(0).flatten(1) if caught else logits
        # The view's zero gradient for defences that pass none back travels with the logits.
        found = found + 0 * logits.sum(1, keepdim=True)
        return torch.cat([found, torch.ones_like(found[:, :1])], 1)

    def forward(self, images: Tensor) -> Tensor:
        score = self.features(images) @ self.weights
        return torch.stack([-score, score], 1)


def plant(view: AdaptiveView, layer: nn.Module | None, image: Tensor, epsilon: float) -> Head | None:
    """A head that tells one random corner of the budget from neighbours; None where none can."""
    head = Head(view, layer)
    inner = BALLS["linf"].start(image.expand(PLANTED_AMONG, -1, -1, -1), 0.5 * epsilon)
    sign = torch.where(torch.rand_like(image) < 0.5, -1.0, 1.0).to(image.dtype)
    corners = torch.where(torch.rand(CORNERS, *image.shape[1:]) < 0.5, -1.0, 1.0).to(image)
    points = torch.cat([image, inner, (image + epsilon * sign).clamp(0, 1)])
    wanted = torch.full((len(points),), -1.0, device=image.device)
    wanted[-1] = 1.0
    with torch.no_grad():
        features = head.features(points).float()
    # The shortest weights that fit: least squares, scaled so that no feature counts for its size.
    scale = features.std(0).clamp_min(1e-6)
    scale[-1] = 1.0
    # On the processor: of the driver that copes with dependent features GPUs have none.
    system, wished = (features / scale).cpu(), wanted.cpu()
    head.weights = torch.linalg.lstsq(system, wished, driver="gelsd").solution.to(image.device) / scale
    # Nearly as high as the planted one, so that a gradient which points anywhere near does not do.
    scores = features @ head.weights
    head.weights[-1] -= PLANTED_SHARE * scores[-1]
    scores = scores - PLANTED_SHARE * scores[-1]
    with torch.no_grad():
        chance = head.features((image + epsilon * corners).clamp(0, 1)).float() @ head.weights
    apart = bool(scores[-1] > 0) and bool((scores[:-1] < 0).all()) and bool((chance < 0).all())
    return head if apart else None


def output_layer(classifier: nn.Module, images: Tensor) -> nn.Module | None:
    """The linear layer whose output is the classifier's, or None where something else comes last: then
    whatever it does to gradients must not be passed by.
    """
    found: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda m, _, out: found.append((m, out)))
        for module in classifier.modules() if isinstance(module, nn.Linear)
    ]  # fmt: skip
    try:
        with torch.no_grad():
            logits = classifier(images)
    finally:
        for hook in hooks:
            hook.remove()
    last = [module for module, out in found if out is logits]
    return last[-1] if last else None
