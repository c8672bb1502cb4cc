from __future__ import annotations

from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advantage.core import discounted_return, discounts, td_residual
from tests.core.claims import peak_bytes, refused, same, slope
from tests.core.definitions import Streams, each_row, return_sum, streams

NO_CUT = torch.zeros(3, dtype=torch.bool)
RAGGED = given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), time=st.integers(1, 9), ends=st.sampled_from([0, 0.3, 1])
)


def returns(of: Streams, gamma: float) -> torch.Tensor:
    return discounted_return(of.rewards, discounts(of.terminated, gamma, torch.float64), of.cut, of.next_values)


def test_numbers_by_hand() -> None:
    half = torch.full((3,), 0.5)
    rewards = torch.tensor([1.0, 2.0, 4.0])
    same(discounted_return(rewards, half, NO_CUT), [3.0, 4.0, 4.0], 0)
    behind = torch.tensor([100.0, 100.0, 8.0])  # only what stands behind the last step is believed
    same(discounted_return(rewards, half, NO_CUT, behind), [4.0, 6.0, 8.0], 0)
    truncated = torch.tensor([False, True, False])
    same(discounted_return(rewards, half, truncated, behind), [27.0, 52.0, 8.0], 0)
    terminated = torch.tensor([0.5, 0.0, 0.5])
    same(discounted_return(rewards, terminated, truncated, behind), [2.0, 2.0, 8.0], 0)


def test_residual_by_hand() -> None:
    """A ride: 10 minutes gone, 18 to go, 30 expected; and one that ended, where the next value is nobody's."""
    one = torch.ones(2)
    residual = td_residual(10 * one, 30 * one, 18 * one, torch.tensor([1.0, 0.0]))
    same(residual, [-2.0, -20.0], 0)


@RAGGED
@settings(max_examples=40)
def test_sum_of_the_definition(seed: int, rows: int, time: int, ends: float) -> None:
    of = streams(seed, (rows, time), ends)
    factors = discounts(of.terminated, 0.8, torch.float64)
    same(returns(of, 0.8), each_row(return_sum, of.rewards, factors, of.cut, of.next_values))
    whole = discounted_return(of.rewards, factors, of.cut)
    same(whole, each_row(return_sum, of.rewards, factors, of.cut, torch.zeros_like(of.rewards)))


def test_discounts_may_differ_from_step_to_step() -> None:
    of = streams(3, (4, 7))
    factors = torch.rand(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = each_row(return_sum, of.rewards, factors, of.cut, of.next_values)
    same(discounted_return(of.rewards, factors, of.cut, of.next_values), expected)


def test_limits_of_gamma() -> None:
    of = streams(0, (3, 8))
    same(returns(of, 0.0), of.rewards, 0)
    undisturbed = streams(0, (3, 8), ends=0)
    total = undisturbed.rewards.sum(-1) + undisturbed.next_values[..., -1]
    same(returns(undisturbed, 1.0)[..., 0], total)


def test_constant_reward_under_a_time_limit_is_worth_one_over_one_minus_gamma() -> None:
    """Bootstrapped at the truncation, 13 steps are worth as much as for ever; without they are worth 7.46."""
    ones = torch.ones(13, dtype=torch.float64)
    limit = torch.arange(13) == 12
    going_on = discounts(torch.zeros(13, dtype=torch.bool), 0.9, torch.float64)
    same(discounted_return(ones, going_on, limit, 10 * ones), 10 * ones)
    assert discounted_return(ones, going_on, limit)[0].item() == pytest.approx(7.46, abs=0.005)


def test_residual_of_the_true_values_has_mean_zero_but_is_not_zero() -> None:
    """Two actions of reward ±1 from a state of value 0: δ is the advantage of the action, its mean is 0."""
    zero = torch.zeros(2)
    residual = td_residual(torch.tensor([1.0, -1.0]), zero, zero, zero)
    same(residual, [1.0, -1.0], 0)
    assert residual.mean() == 0


def test_score_on_every_token_is_paid_as_often_as_there_are_tokens() -> None:
    ones = torch.ones(5)
    last = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    cut = last.bool()
    assert discounted_return(ones, ones, cut)[0] == 5 * discounted_return(last, ones, cut)[0]


@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_nothing_comes_across_a_zero(poison: float) -> None:
    """Behind a termination, and where no stream is cut, the next value is never looked at; nor is the next episode."""
    terminated = torch.tensor([False, True, False, False])
    factors = discounts(terminated, 0.9).requires_grad_()
    next_values = torch.tensor([poison, poison, poison, 2.0], requires_grad=True)
    rewards = torch.tensor([1.0, 1.0, poison, 1.0], requires_grad=True)
    first_episode = discounted_return(rewards, factors, terminated, next_values)[:2]
    same(first_episode, [1.9, 1.0], 1e-6)
    for gradient in slope(first_episode, rewards, factors, next_values):
        assert gradient.isfinite().all()

    values = torch.zeros(4, requires_grad=True)
    residual = td_residual(torch.ones(4), values, torch.full((4,), poison), torch.zeros(4))
    same(residual, [1.0] * 4, 0)
    following = torch.full((4,), poison, requires_grad=True)
    zeros = torch.zeros(4, requires_grad=True)
    for gradient in slope(td_residual(torch.ones(4), values, following, zeros), values, following, zeros):
        assert gradient.isfinite().all()


@RAGGED
@settings(max_examples=20)
def test_padding_behind_the_end_changes_nothing(seed: int, rows: int, time: int, ends: float) -> None:
    of = streams(seed, (rows, time), ends)
    plain = of.rewards.clone().requires_grad_()
    padded = torch.cat([of.rewards, torch.full((rows, 3), nan, dtype=torch.float64)], -1).requires_grad_()
    factors = discounts(of.terminated, 0.9, torch.float64)
    cut = of.cut.clone()
    cut[..., -1] = True

    def pad(tensor: torch.Tensor, by: float) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (0, 3), value=by)

    short = discounted_return(plain, factors, cut, of.next_values)
    long = discounted_return(padded, pad(factors, 0.9), pad(cut, True), pad(of.next_values, nan))[..., :time]
    same(long, short, 0)
    same(slope(long, padded)[0][..., :time], slope(short, plain)[0], 0)
    assert (slope(long, padded)[0][..., time:] == 0).all()


def test_episodes_in_one_row_are_episodes_apart() -> None:
    first, second = streams(1, (2, 4)), streams(2, (2, 5))
    first.truncated[..., -1] = True
    row = Streams(**{name: torch.cat([tensor, getattr(second, name)], -1) for name, tensor in vars(first).items()})
    same(returns(row, 0.9), torch.cat([returns(first, 0.9), returns(second, 0.9)], -1), 0)


def test_float32_over_a_long_stream() -> None:
    of = streams(5, (2, 2000), ends=0)
    cut = torch.zeros(2, 2000, dtype=torch.bool)
    factors = torch.full((2, 2000), 0.99, dtype=torch.float64)
    exact = discounted_return(of.rewards, factors, cut)
    same(discounted_return(of.rewards.float(), factors.float(), cut).double(), exact, 2e-4)


def test_memory_grows_with_the_input_alone() -> None:
    def cost(time: int) -> int:
        of = streams(0, (4, time), dtype=torch.float32)
        factors = torch.full((4, time), 0.9)
        return peak_bytes(lambda: discounted_return(of.rewards, factors, of.cut, of.next_values)) // time

    assert cost(400) <= 1.05 * cost(100)
    assert cost(400) <= 16 * 4 * 4  # bytes a step: 16 numbers for each of 4 streams


def test_refusals() -> None:
    ones = torch.ones(2, 3)
    with refused("cut", "float32", "boolean"):
        discounted_return(ones, ones, torch.zeros(2, 3))
    with refused("next_values", (2, 1)):
        discounted_return(ones, ones, torch.zeros(2, 3, dtype=torch.bool), ones[:, :1])
    with refused("rewards", "int64"):
        td_residual(ones.long(), ones, ones, ones)
