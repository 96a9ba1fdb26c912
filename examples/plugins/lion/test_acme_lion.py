"""Lion moves every number by the learning rate, and its schedule meets its ends."""

import pytest
import torch
from acme_lion import Lion, inverse_sqrt


def test_a_step_moves_every_number_by_the_learning_rate_against_its_gradient():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimiser = Lion([weight], lr=0.1)
    weight.grad = torch.tensor([5.0, -0.001, 0.0])
    optimiser.step()
    assert torch.allclose(weight, torch.tensor([0.9, -1.9, 3.0]))


def test_it_finds_the_minimum_of_a_bowl():
    weight = torch.nn.Parameter(torch.tensor([4.0, -3.0]))
    optimiser = Lion([weight], lr=0.01, betas=(0.9, 0.9))
    for _ in range(600):
        optimiser.zero_grad()
        (weight**2).sum().backward()
        optimiser.step()
    assert weight.abs().max() < 0.15  # it goes to and fro by some steps


def test_betas_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="betas"):
        Lion([torch.nn.Parameter(torch.zeros(1))], lr=0.1, betas=(0.9, 1.0))


def test_the_rate_starts_at_lr_after_the_warm_up_and_ends_at_min_lr():
    settings = {"steps": 100, "lr": 1.0, "min_lr": 0.01, "warmup": 9, "cooldown": 20}
    assert inverse_sqrt(9, **settings) == pytest.approx(1.0)
    assert inverse_sqrt(39, **settings) == pytest.approx(0.5)
    assert inverse_sqrt(99, **settings) == pytest.approx(0.01)
    rates = [inverse_sqrt(step, **settings) for step in range(9, 100)]
    assert rates == sorted(rates, reverse=True)
