"""Random numbers of torch, NumPy and `random`, whoever draws them: seeded together, and left as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> Any:
    """Where all generators are, for `restore_random_state`."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def restore_random_state(state: Any) -> None:
    """All generators as they were when `random_state` gave this."""
    own, cuda, numpy, python = state
    torch.set_rng_state(own)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy)
    random.setstate(python)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """What is drawn or seeded inside changes nothing of what is drawn after."""
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)


@contextmanager
def drawn_from(seed: int | None) -> Iterator[None]:
    """All that is drawn inside follows from `seed`, and what comes after is as if nothing had been drawn.
    None: numbers as they come.
    """
    if seed is None:
        yield
        return
    with random_state_kept():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
