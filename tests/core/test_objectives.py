from __future__ import annotations

from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advantage.core import (
    cispo,
    clipped_surrogate,
    fixed_length_mean,
    likelihood_ratio,
    policy_gradient,
    sequence_mean,
    standardize,
    surrogate,
    token_mean,
)
from tests.core.claims import refused, same, slope

RATIOS = st.floats(0.01, 5)
ADVANTAGES = st.floats(-5, 5)


def double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def by_ratio(ratio: float, advantage: float, *band: float | None) -> tuple[float, float]:
    """Value of the clipped surrogate and its slope in the ratio."""
    rho = double(ratio).requires_grad_()
    value = clipped_surrogate(rho, double(advantage), *band)
    return value.item(), slope(value, rho)[0].item()


def test_policy_gradient_by_hand() -> None:
    logp = double(-0.5, -2.0).requires_grad_()
    term = policy_gradient(logp, double(2.0, -3.0))
    same(term, double(-1.0, 6.0), 0)
    same(slope(term, logp)[0], double(2.0, -3.0), 0)


def test_policy_gradient_is_the_gradient_of_the_expected_reward() -> None:
    """By enumeration over a softmax; and a constant baseline changes nothing."""
    logits = double(0.5, -1.0, 0.2).requires_grad_()
    reward = double(1.0, 4.0, -2.0)
    logp = logits.log_softmax(-1)
    truth = slope((logp.exp() * reward).sum(), logits)[0]
    pi = logp.exp().detach()
    for baseline in (0.0, 7.5):
        same(slope((pi * policy_gradient(logp, reward - baseline)).sum(), logits)[0], truth)


def test_reinforce_with_ones_on_given_labels_is_cross_entropy() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 3, 1, 4, 4, 2])
    logp = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    loss = -token_mean(policy_gradient(logp, torch.ones_like(logp)))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    same(loss, expected)
    same(slope(loss, logits)[0], slope(expected, logits)[0])


def test_dividing_by_an_episodes_own_length_can_turn_the_sign() -> None:
    """One choice between a short episode that pays 1 and a ten-step one that pays 1.5: ∇J = +0.125."""
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    going_long, going_short = torch.nn.functional.logsigmoid(theta), torch.nn.functional.logsigmoid(-theta)
    mask = torch.arange(10) < torch.tensor([[10], [1]])
    first = torch.arange(10) == 0
    logp = torch.where(first, torch.stack([going_long, going_short]).unsqueeze(-1), 0.0)
    term = policy_gradient(logp, torch.tensor([[1.5], [1.0]], dtype=torch.float64).expand(2, 10))
    same(slope(fixed_length_mean(term, mask, length=1), theta)[0], 0.125)
    same(slope(sequence_mean(term, mask), theta)[0], -0.2125)


def test_standardised_trajectory_returns_leave_nothing() -> None:
    """Ψ = R(τ) is the same for all steps of an episode: standardised within it, every weight is exactly 0."""
    assert (policy_gradient(double(-1.0, -2.0, -0.1), standardize(double(0.3, 0.3, 0.3))) == 0).all()


def test_surrogate_by_hand() -> None:
    ratio, advantages = double(1.5, 0.5, 1.0).requires_grad_(), double(-2.0, 4.0, 3.0)
    same(surrogate(ratio, advantages), double(-3.0, 2.0, 3.0), 0)
    same(slope(surrogate(ratio, advantages), ratio)[0], advantages, 0)


def test_at_the_old_policy_every_surrogate_has_the_policy_gradient() -> None:
    """ρ = 1: also on the very edge of a band of no width. Its value is the mean advantage, not the return."""
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    actions = torch.arange(8) % 4
    advantages = torch.linspace(-2, 2, 8, dtype=torch.float64)
    logp = logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    ratio = likelihood_ratio(logp, logp.detach())
    expected = slope(policy_gradient(logp, advantages), logits)[0]
    for objective in (
        surrogate(ratio, advantages),
        clipped_surrogate(ratio, advantages, 0.2, 0.2),
        clipped_surrogate(ratio, advantages, 0.0, 0.0),
        clipped_surrogate(ratio, advantages, 0.2, 0.2, dual_clip=3.0),
    ):
        same(objective, advantages)
        same(slope(objective, logits)[0], expected)
    same(slope(cispo(logp, ratio, advantages, 0.2), logits)[0], expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.5, 2.0, 2.4, 0.0),  # praised and moved far enough up: nothing more to gain
        (0.5, 2.0, 1.0, 2.0),  # praised but moved down: the way back is open
        (1.5, -2.0, -3.0, -2.0),  # blamed but moved up: the way back is open
        (0.5, -2.0, -1.6, 0.0),  # blamed and moved far enough down
        (1.1, 2.0, 2.2, 2.0),  # inside the band
        (0.9, -2.0, -1.8, -2.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_four_quadrants(ratio: float, advantage: float, value: float, gradient: float) -> None:
    assert by_ratio(ratio, advantage, 0.2, 0.2) == (pytest.approx(value), gradient)


def test_lower_and_higher_band_are_two_numbers() -> None:
    assert by_ratio(2.0, 1.0, 0.1, 0.4) == (pytest.approx(1.4), 0.0)
    assert by_ratio(0.5, -1.0, 0.1, 0.4) == (pytest.approx(-0.9), 0.0)
    assert by_ratio(1.3, 1.0, 0.1, 0.4) == (1.3, 1.0)
    assert by_ratio(0.85, -1.0, 0.2, 0.0) == (-0.85, -1.0)


@given(RATIOS, ADVANTAGES, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=80)
def test_clipped_surrogate_is_the_smaller_of_two_products(
    ratio: float, advantage: float, eps_low: float, eps_high: float
) -> None:
    inside = max(1 - eps_low, min(ratio, 1 + eps_high))
    value, gradient = by_ratio(ratio, advantage, eps_low, eps_high)
    assert value == pytest.approx(min(ratio * advantage, inside * advantage), rel=1e-12, abs=1e-12)
    assert value <= ratio * advantage + 1e-12
    passed = (advantage > 0 and ratio > 1 + eps_high) or (advantage < 0 and ratio < 1 - eps_low)
    assert gradient == (0 if passed else advantage)


@given(RATIOS, ADVANTAGES, st.floats(1.001, 4))
@settings(max_examples=80)
def test_dual_clip_is_a_floor_for_the_blamed_alone(ratio: float, advantage: float, dual_clip: float) -> None:
    plain, plain_gradient = by_ratio(ratio, advantage, 0.2, 0.2)
    value, gradient = by_ratio(ratio, advantage, 0.2, 0.2, dual_clip)
    expected = max(plain, dual_clip * advantage) if advantage < 0 else plain
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert gradient == (0 if advantage < 0 and ratio > dual_clip else plain_gradient)


def test_the_clip_bounds_no_ratio() -> None:
    """Two states share one parameter: the unclipped one drags the clipped one's ratio on, out of the band."""
    theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    logp, advantages = torch.stack([theta, 0.01 * theta]), double(1.0, 1.0)
    ratio = likelihood_ratio(logp, double(0.0, 0.0))
    objective = clipped_surrogate(ratio, advantages, 0.2, 0.2)
    assert ratio[0] > 1.2 and slope(objective[0], theta)[0] == 0
    assert slope(objective, theta)[0] > 0


@pytest.mark.parametrize(
    ("advantage", "dual_clip", "expected"), [(1.0, None, 1.2), (1.0, 3.0, 1.2), (0.0, None, 0.0), (-1.0, 3.0, -3.0)]
)
def test_an_overflown_ratio_leaves_no_nan_where_the_clip_holds(
    advantage: float, dual_clip: float | None, expected: float
) -> None:
    ratio = torch.tensor([inf], requires_grad=True)
    value = clipped_surrogate(ratio, torch.tensor([advantage]), 0.2, 0.2, dual_clip)
    same(value, [expected], 1e-6)
    assert slope(value, ratio)[0].item() == 0


def test_cispo_by_hand() -> None:
    logp = double(-1.0, -1.0, -2.0, -2.0).requires_grad_()
    ratio = double(9.0, 0.1, 9.0, 1.0).requires_grad_()
    advantages = double(1.0, 1.0, -3.0, -3.0)
    term = cispo(logp, ratio, advantages, eps_high=1.0)
    same(term, double(-2.0, -0.1, 12.0, 6.0))
    same(slope(term, logp)[0], double(2.0, 0.1, -6.0, -3.0))
    assert (slope(term, ratio)[0] == 0).all()
    same(cispo(logp, ratio, advantages, eps_high=0.2), double(-1.2, -0.1, 7.2, 6.0))


def test_cispo_keeps_a_gradient_where_the_clip_has_none() -> None:
    logp = double(1.0).requires_grad_()
    ratio = likelihood_ratio(logp, double(0.0))
    assert slope(clipped_surrogate(ratio, double(1.0), 0.2, 0.2), logp)[0] == 0
    same(slope(cispo(logp, ratio, double(1.0), 0.2), logp)[0], double(1.2))


def test_refusals() -> None:
    one = torch.ones(2)
    for eps in (-0.1, nan, inf):
        with refused("eps_low is", eps):
            clipped_surrogate(one, one, eps, 0.2)
        with refused("eps_high is", eps):
            clipped_surrogate(one, one, 0.2, eps)
        with refused("eps_high is", eps):
            cispo(one, one, one, eps)
    for dual_clip in (1.0, 0.5, 0.0, -3.0, nan, inf):
        with refused("dual_clip is", dual_clip):
            clipped_surrogate(one, one, 0.2, 0.2, dual_clip)
