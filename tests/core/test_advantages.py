from __future__ import annotations

from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advantage.core import discounted_return, discounts, gae, lambda_return, n_step_advantage, td_residual, traces
from tests.core.claims import peak_bytes, refused, same, slope
from tests.core.definitions import Streams, each_row, gae_mean, n_step_sum, streams

RAGGED = given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 3), time=st.integers(1, 8), ends=st.sampled_from([0, 0.3, 1])
)


def parts(of: Streams, gamma: float, lam: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """δ, γ_t and λ_t."""
    factors = discounts(of.terminated, gamma, torch.float64)
    delta = td_residual(of.rewards, of.values, of.next_values, factors)
    return delta, factors, traces(of.cut, lam, torch.float64)


def columns(of: Streams, factors: Tensor) -> tuple[Tensor, ...]:
    return of.rewards, of.values, of.next_values, factors, of.cut


def test_gae_by_hand() -> None:
    delta, half = torch.tensor([1.0, 2.0, 4.0]), torch.full((3,), 0.5)
    same(gae(delta, half, torch.ones(3)), [3.0, 4.0, 4.0], 0)
    same(gae(delta, torch.ones(3), torch.tensor([0.5, 0.0, 1.0])), [2.0, 2.0, 4.0], 0)
    same(gae(delta, torch.tensor([0.0, 1.0, 1.0]), half), [1.0, 4.0, 4.0], 0)
    same(lambda_return(delta, torch.tensor([10.0, 20.0, 30.0]), half, torch.ones(3)), [13.0, 24.0, 34.0], 0)


def test_n_steps_by_hand() -> None:
    delta, half = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.full((4,), 0.5)
    no_cut, cut = torch.zeros(4, dtype=torch.bool), torch.tensor([False, True, False, False])
    same(n_step_advantage(delta, half, no_cut, 1), delta, 0)
    same(n_step_advantage(delta, half, no_cut, 2), [2.0, 4.0, 8.0, 8.0], 0)
    same(n_step_advantage(delta, half, no_cut, 3), [3.0, 6.0, 8.0, 8.0], 0)
    same(n_step_advantage(delta, half, cut, 3), [2.0, 2.0, 8.0, 8.0], 0)


@RAGGED
@settings(max_examples=40)
@pytest.mark.parametrize("n", [1, 2, 3, 100])
def test_n_steps_telescope(n: int, seed: int, rows: int, time: int, ends: float) -> None:
    of = streams(seed, (rows, time), ends)
    delta, factors, _ = parts(of, 0.9)
    expected = each_row(lambda *row: n_step_sum(*row, n=n), *columns(of, factors))
    same(n_step_advantage(delta, factors, of.cut, n), expected)


@RAGGED
@settings(max_examples=40)
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_gae_is_the_weighted_mean_of_the_definition(lam: float, seed: int, rows: int, time: int, ends: float) -> None:
    of = streams(seed, (rows, time), ends)
    delta, factors, lams = parts(of, 0.9, lam)
    expected = each_row(lambda *row: gae_mean(*row, lam=lam), *columns(of, factors))
    same(gae(delta, factors, lams), expected)
    same(lambda_return(delta, of.values, factors, lams), expected + of.values)


@RAGGED
@settings(max_examples=20)
def test_gae_is_the_weighted_mean_of_the_n_step_advantages(seed: int, rows: int, time: int, ends: float) -> None:
    """Through the very functions. Where fewer than n steps are left Â^(n) stays the last one, so that the remaining
    weight λ^(T−1) on Â^(T) is each step's remainder."""
    of = streams(seed, (rows, time), ends)
    delta, factors, lams = parts(of, 0.99, 0.9)
    by_n = [n_step_advantage(delta, factors, of.cut, n) for n in range(1, time + 1)]
    mean = sum(0.1 * 0.9 ** (n - 1) * advantage for n, advantage in enumerate(by_n[:-1], 1))
    same(gae(delta, factors, lams), mean + 0.9 ** (time - 1) * by_n[-1])


def test_weights_without_the_remainder_fall_short() -> None:
    """Ten steps at λ = 0.95: they sum to 0.40, and the weighted mean of equal numbers is 0.40 of them."""
    delta = torch.zeros(10, dtype=torch.float64)
    delta[0] = 1.0  # then every n-step advantage of the first step is 1
    ones, no_cut = torch.ones(10, dtype=torch.float64), torch.zeros(10, dtype=torch.bool)
    by_n = [n_step_advantage(delta, ones, no_cut, n)[0] for n in range(1, 11)]
    short = sum(0.05 * 0.95 ** (n - 1) * advantage for n, advantage in enumerate(by_n, 1))
    assert short.item() == pytest.approx(0.40, abs=0.005)
    assert gae(delta, ones, 0.95 * ones)[0] == 1.0


@RAGGED
@settings(max_examples=20)
def test_limits_of_lambda(seed: int, rows: int, time: int, ends: float) -> None:
    of = streams(seed, (rows, time), ends)
    delta, factors, none = parts(of, 0.9, 0.0)
    same(gae(delta, factors, none), delta, 0)
    same(lambda_return(delta, of.values, factors, none), delta + of.values, 0)
    whole = discounted_return(of.rewards, factors, of.cut, of.next_values)
    same(gae(delta, factors, traces(of.cut, 1.0, torch.float64)), whole - of.values)
    same(lambda_return(delta, of.values, factors, traces(of.cut, 1.0, torch.float64)), whole)
    same(n_step_advantage(delta, factors, of.cut, 1), delta, 0)
    same(n_step_advantage(delta, factors, of.cut, time), whole - of.values)


def test_a_perfect_critic_of_a_constant_reward_finds_nothing_to_praise() -> None:
    """V = 1/(1 − γ) everywhere, cut by a time limit after 13 steps: every advantage is 0, at any λ."""
    ten, one = torch.full((13,), 10.0, dtype=torch.float64), torch.ones(13, dtype=torch.float64)
    limit = torch.arange(13) == 12
    for lam in (0.0, 0.5, 1.0):
        delta = td_residual(one, ten, ten, 0.9 * one)
        same(gae(delta, 0.9 * one, traces(limit, lam, torch.float64)), 0 * one)


def test_termination_and_truncation_differ() -> None:
    """Both cut the trace; only the truncation believes the value of the state that followed."""
    values, next_values = torch.tensor([0.0, 0.0, 5.0, 0.0]), torch.tensor([0.0, 3.0, 0.0, 0.0])
    end, never = torch.tensor([False, True, False, False]), torch.zeros(4, dtype=torch.bool)
    cut = traces(end, 1.0)
    for terminated, expected in ((end, [0.0, 0.0]), (never, [3.0, 3.0])):
        factors = discounts(terminated, 1.0)
        delta = td_residual(torch.zeros(4), values, next_values, factors)
        same(gae(delta, factors, cut), [*expected, -5.0, 0.0], 0)


@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_nothing_comes_across_a_zero(poison: float) -> None:
    delta = torch.tensor([1.0, 1.0, poison, 1.0], requires_grad=True)
    half = torch.full((4,), 0.5, requires_grad=True)
    severed = torch.tensor([1.0, 0.0, 0.0, 1.0], requires_grad=True)
    cut = torch.tensor([False, True, True, False])
    calls = [
        gae(delta, half, severed),
        gae(delta, severed, half),
        lambda_return(delta, torch.zeros(4), half, severed),
        n_step_advantage(delta, half, cut, 4),
        n_step_advantage(delta, severed, cut & False, 4),
    ]
    for advantages in calls:
        assert advantages[:2].isfinite().all() and advantages[1] == 1.0
        for gradient in slope(advantages[:2], delta, half, severed):
            assert gradient.isfinite().all()


def test_nothing_stands_behind_the_last_step() -> None:
    """Whatever its discount and trace say."""
    delta = torch.tensor([1.0, 1.0], requires_grad=True)
    one = torch.ones(2, requires_grad=True)
    for advantages in (gae(delta, one, one), n_step_advantage(delta, one, torch.tensor([False, False]), 2)):
        same(advantages, [2.0, 1.0], 0)
        assert slope(advantages, one)[0][-1] == 0


@RAGGED
@settings(max_examples=20)
def test_padding_behind_the_end_changes_nothing(seed: int, rows: int, time: int, ends: float) -> None:
    of = streams(seed, (rows, time), ends)
    plain, factors, lams = parts(of, 0.9, 0.8)
    padded = torch.nn.functional.pad(plain, (0, 2), value=nan).requires_grad_()
    plain.requires_grad_()
    more = torch.nn.functional.pad(factors, (0, 2), value=0.9)
    long = gae(padded, more, torch.nn.functional.pad(lams, (0, 2)))[..., :time]
    same(long, gae(plain, factors, lams), 0)
    same(slope(long, padded)[0][..., :time], slope(gae(plain, factors, lams), plain)[0], 0)
    assert (slope(long, padded)[0][..., time:] == 0).all()


def test_float32_over_a_completion() -> None:
    of = streams(7, (2, 2048), ends=0)
    delta, factors, lams = parts(of, 1.0, 0.95)
    same(gae(delta.float(), factors.float(), lams.float()).double(), gae(delta, factors, lams), 1e-5)


@pytest.mark.parametrize("name", ["gae", "n_step_advantage"])
def test_memory_grows_with_the_input_alone(name: str) -> None:
    def cost(time: int) -> int:
        delta, half, cut = torch.ones(4, time), torch.full((4, time), 0.5), torch.zeros(4, time, dtype=torch.bool)
        calls = {
            "gae": lambda: gae(delta, half, half),
            "n_step_advantage": lambda: n_step_advantage(delta, half, cut, 9),
        }
        return peak_bytes(calls[name]) // time

    assert cost(400) <= 1.05 * cost(100)
    assert cost(400) <= 10 * 4 * 4  # bytes a step: ten numbers for each of 4 streams


@pytest.mark.parametrize("n", [0, -1])
def test_no_steps_are_refused(n: int) -> None:
    with refused("n is", n):
        n_step_advantage(torch.ones(3), torch.ones(3), torch.zeros(3, dtype=torch.bool), n)
