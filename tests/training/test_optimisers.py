"""Optimisers and schedules by the names that recipes use."""

import copy

import pytest
import torch
from torch import nn

from comdefend.training import load_recipe
from comdefend.training.optimisers import make_optimiser, orthogonalise, schedule_factor


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


@pytest.mark.parametrize("optimiser", ["adam", "sgd", "muon"])
def test_every_optimiser_lowers_a_loss_and_resumes_from_its_state(optimiser: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    recipe = load_recipe("cifar10", [f"optimiser={optimiser}", "learning_rate=0.01"])
    images, goal = torch.rand(8, 3, 8, 8), torch.rand(8, 2)

    def step(net: nn.Module, by: torch.optim.Optimizer) -> float:
        loss = (net(images) - goal).square().mean()
        by.zero_grad()
        loss.backward()
        by.step()
        return float(loss)

    chosen = make_optimiser(network, recipe)
    losses = [step(network, chosen) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]

    twin = copy.deepcopy(network)
    again = make_optimiser(twin, recipe)
    again.load_state_dict(copy.deepcopy(chosen.state_dict()))
    for _ in range(3):
        step(network, chosen)
        step(twin, again)
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_one_cycle_rises_then_falls_to_nothing() -> None:
    factor = schedule_factor(load_recipe("cifar10"), 100)
    values = [factor(k) for k in range(100)]
    peak = values.index(max(values))
    assert values[0] < 0.1
    assert 10 <= peak <= 20
    assert values[-1] < 0.01
    assert values[:peak] == sorted(values[:peak])


def test_the_papers_schedule_decays_from_a_hundredth_to_a_ten_thousandth() -> None:
    recipe = load_recipe("cifar10-paper")
    factor = schedule_factor(recipe, 1000)
    assert recipe.learning_rate * factor(0) == pytest.approx(0.01)
    assert recipe.learning_rate * factor(500) == pytest.approx(0.001)
    assert recipe.learning_rate * factor(1000) == pytest.approx(0.0001)
