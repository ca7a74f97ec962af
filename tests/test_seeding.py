"""Random numbers: drawn from a seed, and as they would have been afterwards."""

import random

import numpy as np
import pytest
import torch

from comdefend.seeding import drawn_from, random_state_kept


def draw() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random()]


def test_all_generators_follow_the_seed_and_nothing_after_does() -> None:
    with drawn_from(3):
        first = draw()
    wanted = draw()
    with random_state_kept():
        pass
    with drawn_from(3):
        assert draw() == first
        assert draw() != first
    with drawn_from(4):
        assert all(a != b for a, b in zip(draw(), first, strict=True))
    assert draw() != wanted


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_drawn_or_seeded_inside_changes_nothing_outside(fails: bool) -> None:
    with drawn_from(1):
        wanted = draw()
    with drawn_from(1):
        try:
            with random_state_kept():
                torch.manual_seed(9)
                np.random.seed(9)
                random.seed(9)
                draw()
                if fails:
                    raise ValueError
        except ValueError:
            assert fails
        assert draw() == wanted


def test_without_a_seed_numbers_come_as_they_come() -> None:
    with drawn_from(1):
        wanted = draw()
    with drawn_from(1), drawn_from(None):
        assert draw() == wanted


@pytest.mark.parametrize("seed", [0, 2**32, 2**62])
def test_seeds_of_any_size_will_do(seed: int) -> None:
    with drawn_from(seed):
        assert len(draw()) == 3
