"""A defended classifier as an attacker sees it who knows the defence: gradient modes, EOT, estimates.

```
images -> purifier, differentiated in one of its gradient modes -> classifier -> logits
          drawn anew `eot_samples` times, if it is stochastic         mean of the logits
```

What comes out is the defended classifier's own logits in every mode; only the gradients differ. So
any attack that takes a model takes this one.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from comdefend.errors import RequestError
from comdefend.purifiers import Identity, Purifier, is_ours, is_random
from comdefend.purifiers.base import with_gradient_of
from comdefend.seeding import drawn_from, random_state_kept

ESTIMATED = "spsa"
"""The mode that asks for no gradient of anything: differences along random directions."""


class AdaptiveView(nn.Module):
    """`classifier(purifier(images))` with gradients in the manner of `mode`.

    `mode` is one of the purifier's (`Purifier.through`), or "spsa" (Uesato et al., 2018): the gradient
    of the whole is estimated from differences along `directions` random sign vectors of size `reach` (a
    fraction of the range of values). With `eot_samples` above 1 the logits are the mean over so many
    draws of a stochastic purifier, and their gradient is that of the mean (EOT, Athalye et al.,
    2018); the draws are computed anew one by one for the backward pass, so that memory does not grow
    with them. `frozen` seeds every draw alike: the defence without its randomness. An estimate takes both
    ends of a difference in the same draw.
    """

    def __init__(
        self,
        classifier: nn.Module,
        purifier: nn.Module,
        *,
        mode: str = "autograd",
        eot_samples: int = 1,
        frozen: int | None = None,
        directions: int = 16,
        reach: float = 2 / 255,
    ) -> None:
        super().__init__()
        if eot_samples < 1 or directions < 1:
            raise RequestError(
                f"eot_samples is {eot_samples} and directions {directions}; they must be at least 1"
            )
        self.classifier, self.purifier = classifier, purifier
        self.mode, self.eot_samples, self.frozen = mode, eot_samples, frozen
        self.directions, self.reach = directions, reach

    def forward(self, images: Tensor) -> Tensor:
        if self.mode == ESTIMATED:
            plain: Callable[[Tensor], Tensor] = lambda at: self._mean(at, "autograd")  # noqa: E731
            estimated: Tensor = _Estimated.apply(  # type: ignore[no-untyped-call]
                images, plain, self.directions, self.reach, is_random(self.purifier)
            )
            return estimated
        logits = self._mean(images, self.mode)
        # A purifier that passes no gradient back at all is differentiable nonetheless: with zeros.
        return logits + 0 * images.flatten(1).sum(1, keepdim=True)

    def _mean(self, images: Tensor, mode: str) -> Tensor:
        with drawn_from(self.frozen):
            if self.eot_samples == 1:
                return self._once(images, mode)
            followed = torch.is_grad_enabled() and images.requires_grad
            each = []
            with set_checkpoint_early_stop(False):  # stops by an exception, which a classifier may catch
                for _ in range(self.eot_samples):
                    # A seed of its own, for the backward pass to find the same draw again.
                    args = (images, mode, int(torch.randint(2**62, ())))
                    each.append(
                        checkpoint(self._once, *args, use_reentrant=False, preserve_rng_state=False)
                        if followed
                        else self._once(*args)
                    )
            return torch.stack(each).mean(0)

    def _once(self, images: Tensor, mode: str, seed: int | None = None) -> Tensor:
        with drawn_from(seed):
            logits: Tensor = self.classifier(through(self.purifier, images, mode))
        return logits


def one_sample(model: nn.Module) -> nn.Module:
    """What is answered to a single question: of a view that gives means over draws, one of these draws."""
    if not isinstance(model, AdaptiveView) or model.eot_samples == 1:
        return model
    return AdaptiveView(model.classifier, model.purifier, mode=model.mode, frozen=model.frozen)


def through(purifier: nn.Module, images: Tensor, mode: str) -> Tensor:
    """What the purifier itself makes of images, with the gradient of `mode` (`Purifier.through`).

    The values are those of a plain call, whatever somebody else's `through` would make of them: who wrote
    the defence does not decide what is attacked. Modules that are no `Purifier` know two modes only.
    """
    if mode == "autograd":
        purified: Tensor = purifier(images)
        return purified
    if mode == "identity":
        with torch.no_grad():
            values = purifier(images)
        return with_gradient_of(values, images)
    if not isinstance(purifier, Purifier):
        raise RequestError(
            f"{type(purifier).__name__} is no comdefend.Purifier and has no gradient mode {mode!r}"
        )
    if is_ours(purifier):
        return purifier.through(images, mode)  # ours give these values by themselves, for half of the price
    with random_state_kept(), torch.no_grad():
        values = purifier(images)
    with nullcontext() if purifier.stochastic else random_state_kept():
        return with_gradient_of(values, purifier.through(images, mode))  # of the same draw


def gradient_modes(purifier: nn.Module) -> tuple[str, ...]:
    """All modes that an evaluation tries: those that the purifier declares, best first, and whatever it
    declares the plain gradient, BPDA with the identity, BPDA with its `surrogate` where it has one of its
    own, and the estimate. Where nothing stands in front of the classifier there is one gradient.
    """
    if isinstance(purifier, Identity):
        return ("autograd",)
    declared = getattr(purifier, "gradient_modes", ())
    own = ("surrogate",) if isinstance(purifier, Purifier) and purifier.has_surrogate else ()
    return tuple(dict.fromkeys([*declared, "autograd", "identity", *own, ESTIMATED]))


class _Estimated(torch.autograd.Function):
    """A function of images whose gradient is estimated from its values."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, function: Callable[[Tensor], Tensor], directions: int, reach: float,
        random: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(images)
        ctx.function, ctx.directions, ctx.reach, ctx.random = function, directions, reach, random
        return function(images)

    @staticmethod
    def backward(ctx: Any, *wanted: Tensor) -> tuple[Tensor, None, None, None, None]:
        (images,) = ctx.saved_tensors
        (weights,) = wanted
        total = torch.zeros_like(images)
        with torch.no_grad():
            for _ in range(ctx.directions):
                direction = torch.where(torch.rand_like(images) < 0.5, -1.0, 1.0).to(images.dtype)
                seed = int(torch.randint(2**62, ())) if ctx.random else None
                with drawn_from(seed):
                    ahead = ctx.function((images + ctx.reach * direction).clamp(0, 1))
                with drawn_from(seed):
                    behind = ctx.function((images - ctx.reach * direction).clamp(0, 1))
                slope = ((ahead - behind) * weights).sum(1) / (2 * ctx.reach)
                total += slope[:, None, None, None].to(images.dtype) * direction
        return total / ctx.directions, None, None, None, None
