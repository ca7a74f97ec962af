"""Somebody else's classifier, held to what every classifier here does: images in, logits out, no more."""

import sys
from contextlib import redirect_stdout

from torch import Tensor, nn

from comdefend.errors import RequestError, WorkError, reason


class Foreign(nn.Module):
    """`network` under a `name` for messages: images in [0, 1], N x C x H x W, to float logits N x K.

    The network is given a copy of the images, which it may overwrite; gradients flow through it. What it
    prints goes to standard error. Of a record, as networks of transformers return it, `logits` counts.

    Raises `WorkError`, in one sentence with the name, where the network fails or returns anything else.
    """

    def __init__(self, network: nn.Module, *, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.classes: int | None = None

    def prepare(self, images: Tensor) -> Tensor:
        """What the network is given: a new tensor."""
        return images.clone()

    def forward(self, images: Tensor) -> Tensor:
        try:
            with redirect_stdout(sys.stderr):
                output = self.network(self.prepare(images))
        except (Exception, SystemExit) as error:  # someone else's code can raise anything
            shape = "x".join(map(str, images.shape[1:]))
            taken = f"classifier {self.name!r} does not take images of {shape} in a batch of {len(images)}"
            if isinstance(error, RequestError):
                raise RequestError(f"{taken}: {error}") from error
            raise WorkError(f"{taken}: {reason(error)}") from error
        logits: Tensor = getattr(output, "logits", output)
        fits = isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(images)
        if not fits or not logits.is_floating_point():
            tensor = isinstance(logits, Tensor)
            what = f"{tuple(logits.shape)} of {logits.dtype}" if tensor else f"a {type(logits).__name__}"
            raise WorkError(
                f"classifier {self.name!r} returned {what} for a batch of {len(images)}; "
                "float logits N x K are needed"
            )
        if self.classes not in (None, logits.shape[1]):
            raise WorkError(
                f"classifier {self.name!r} returned {logits.shape[1]} logits for an image, and before "
                f"{self.classes}"
            )
        self.classes = logits.shape[1]
        return logits  # the very tensor: callers look for the layer that it comes from
