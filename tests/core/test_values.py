from __future__ import annotations

from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advantage.core import (
    clipped_value_loss,
    discounts,
    double_q_target,
    gae,
    lambda_return,
    q_learning_target,
    sarsa_target,
    value_loss,
)
from tests.core.claims import refused, same, slope

VALUES = st.floats(-5, 5)


def double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_value_loss_by_hand() -> None:
    values = double(1.0, -2.0, 3.0).requires_grad_()
    loss = value_loss(values, double(3.0, 1.0, 3.0))
    same(loss, double(2.0, 4.5, 0.0), 0)
    same(slope(loss, values)[0], double(-2.0, -3.0, 0.0), 0)


def test_the_best_constant_is_the_mean_of_the_targets() -> None:
    value, targets = double(2.5).requires_grad_(), double(1.0, 2.0, 4.5)
    same(slope(value_loss(value.expand(3), targets), value)[0], double(0.0))


def test_a_target_from_the_live_critic_teaches_nothing() -> None:
    """The residual is then Â whatever the critic says: without the constant there is no gradient."""
    live = double(0.3, -0.7).requires_grad_()
    delta, factors, trace = double(1.0, 2.0), double(0.9, 0.9), double(0.5, 0.0)
    assert slope(value_loss(live, lambda_return(delta, live, factors, trace)), live)[0].abs().max() < 1e-15
    constant = lambda_return(delta, live.detach(), factors, trace)
    same(slope(value_loss(live, constant), live)[0], -gae(delta, factors, trace))


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient"),
    [
        (2.0, 2.0, 1.125, 0.0),  # went to the target, further than ε: the clipped error of 1.5 counts, and is constant
        (2.0, 0.0, 2.0, 2.0),  # went away from it: its own error counts
        (0.3, 2.0, 1.445, -1.7),  # within ε both are one
        (-2.0, -2.0, 1.125, 0.0),
        (0.0, 1.0, 0.5, -1.0),
    ],
)
def test_clipped_value_loss_by_hand(value: float, target: float, loss: float, gradient: float) -> None:
    values = double(value).requires_grad_()
    clipped = clipped_value_loss(values, double(0.0), double(target), eps=0.5)
    same(clipped, double(loss))
    same(slope(clipped, values)[0], double(gradient))


@given(VALUES, VALUES, VALUES, st.floats(0, 3))
@settings(max_examples=60)
def test_clipped_value_loss_is_the_larger_of_two_errors(value: float, old: float, target: float, eps: float) -> None:
    near = min(max(value, old - eps), old + eps)
    expected = max((value - target) ** 2, (near - target) ** 2) / 2
    loss = clipped_value_loss(double(value), double(old), double(target), eps)
    same(loss, double(expected), 1e-9)
    assert loss >= value_loss(double(value), double(target))


def test_clipped_value_loss_without_a_bound_that_matters() -> None:
    values, old, targets = double(1.0, -3.0), double(0.0, 0.0), double(5.0, 5.0)
    same(clipped_value_loss(values, old, targets, 100.0), value_loss(values, targets))


def test_targets_by_hand() -> None:
    rewards, factors = double(1.0, 1.0), discounts(torch.tensor([False, True]), 0.5, torch.float64)
    online = torch.tensor([[1.0, 5.0, 2.0], [9.0, 0.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[8.0, 3.0, 6.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    same(sarsa_target(rewards, factors, online, torch.tensor([2, 0])), double(2.0, 1.0), 0)
    same(q_learning_target(rewards, factors, online), double(3.5, 1.0), 0)
    same(double_q_target(rewards, factors, online, other), double(2.5, 1.0), 0)
    same(double_q_target(rewards, factors, online, online), q_learning_target(rewards, factors, online), 0)


@given(st.integers(0, 999), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=30)
def test_targets_one_by_one(seed: int, rows: int, actions: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    rewards, factors = torch.randn(rows, generator=rng), torch.rand(rows, generator=rng)
    online, other = torch.randn(2, rows, actions, generator=rng)
    chosen = torch.randint(actions, (rows,), generator=rng)
    for i in range(rows):
        r, g, q, p = rewards[i].item(), factors[i].item(), online[i].tolist(), other[i].tolist()
        same(sarsa_target(rewards, factors, online, chosen)[i], r + g * q[chosen[i]], 1e-6)
        same(q_learning_target(rewards, factors, online)[i], r + g * max(q), 1e-6)
        same(double_q_target(rewards, factors, online, other)[i], r + g * p[q.index(max(q))], 1e-6)


def test_the_best_action_is_worth_no_less_than_any_other() -> None:
    rng = torch.Generator().manual_seed(0)
    rewards, factors, table = torch.zeros(9), torch.ones(9), torch.randn(9, 4, generator=rng)
    best = q_learning_target(rewards, factors, table)
    for action in range(4):
        assert (best >= sarsa_target(rewards, factors, table, torch.full((9,), action))).all()


@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_nothing_follows_a_termination(poison: float) -> None:
    rewards = torch.tensor([1.0, 2.0])
    factors = torch.tensor([0.0, 0.5], requires_grad=True)
    table = torch.tensor([[poison, poison], [1.0, 4.0]], requires_grad=True)
    for target in (
        sarsa_target(rewards, factors, table, torch.tensor([0, 1])),
        q_learning_target(rewards, factors, table),
        double_q_target(rewards, factors, table, table),
    ):
        same(target, [1.0, 4.0], 0)
        gradient = slope(target, table)[0]
        assert (gradient[0] == 0).all() and gradient[1].tolist() == [0.0, 0.5]
        assert slope(target, factors)[0].tolist() == [0.0, 4.0]


def test_refusals() -> None:
    one, table = torch.ones(2), torch.ones(2, 3)
    for eps in (-0.1, nan, inf):
        with refused("eps is", eps):
            clipped_value_loss(one, one, one, eps)
    with refused("next_q has shape", (2,), "axis of actions"):
        q_learning_target(one, one, one)
    with refused("next_q_online has shape", (3, 3)):
        double_q_target(one, one, torch.ones(3, 3), torch.ones(3, 3))
    with refused("next_q_target", (2, 4)):
        double_q_target(one, one, table, torch.ones(2, 4))
    with refused("next_actions", "int32", "int64"):
        sarsa_target(one, one, table, torch.zeros(2, dtype=torch.int32))
    with refused("next_actions", (1,)):
        sarsa_target(one, one, table, torch.zeros(1, dtype=torch.int64))
