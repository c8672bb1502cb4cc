from __future__ import annotations

from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advantage.core import discounts, kl_reward, overlong_penalty, terminal_reward, traces
from advantage.core.rewards import ESTIMATORS
from tests.core.claims import refused, same, slope

OUTSIDE = [-0.1, 1.0000001, 1.5, nan, inf, -inf]


def test_discounts_by_hand() -> None:
    terminated = torch.tensor([[False, True], [False, False]])
    same(discounts(terminated, 0.9, torch.float64), [[0.9, 0.0], [0.9, 0.9]], 0)
    for gamma in (0.0, 1.0):
        same(discounts(terminated, gamma), [[gamma, 0.0], [gamma, gamma]], 0)


def test_traces_by_hand() -> None:
    cut = torch.tensor([[False, True, False], [False, False, False]])
    same(traces(cut, 0.9, torch.float64), [[0.9, 0.0, 0.0], [0.9, 0.9, 0.0]], 0)
    for lam in (0.0, 1.0):
        same(traces(cut, lam), [[lam, 0.0, 0.0], [lam, lam, 0.0]], 0)


def test_factors_have_the_default_dtype_unless_one_is_given() -> None:
    flags = torch.tensor([False, True])
    for function in (discounts, traces):
        assert function(flags, 0.9).dtype == torch.float32
        assert function(flags, 0.9, torch.float64).dtype == torch.float64
        torch.set_default_dtype(torch.float64)
        try:
            assert function(flags, 0.9).dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("value", OUTSIDE)
def test_factors_outside_the_unit_interval_are_refused(value: float) -> None:
    flags = torch.tensor([False, True])
    with refused("gamma is", value):
        discounts(flags, value)
    with refused("lam is", value):
        traces(flags, value)


def test_terminal_reward_by_hand() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True], [False, False, False]])
    score = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = [[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]]
    same(terminal_reward(score, mask), expected, 0)


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5), st.integers(0, 4))
@settings(max_examples=40)
def test_the_score_stands_on_the_last_true_step(rows: list[list[bool]], padding: int) -> None:
    """Of a mask with holes, too; and wherever padding stands."""
    mask, score = torch.tensor(rows), torch.arange(1.0, len(rows) + 1)
    rewards = terminal_reward(score, torch.nn.functional.pad(mask, (padding, padding), value=False))
    for i, row in enumerate(rows):
        last = max((t for t in range(6) if row[t]), default=None)
        expected = [score[i].item() if t - padding == last else 0.0 for t in range(6 + 2 * padding)]
        assert rewards[i].tolist() == expected


@pytest.mark.parametrize("poison", [nan, inf])
def test_the_score_of_an_empty_row_goes_nowhere(poison: float) -> None:
    score = torch.tensor([poison, 1.0], requires_grad=True)
    mask = torch.tensor([[False, False], [True, True]])
    rewards = terminal_reward(score, mask)
    same(rewards, [[0.0, 0.0], [0.0, 1.0]], 0)
    same(slope(rewards, score)[0], [0.0, 1.0], 0)


def test_one_stream_without_batch_axes() -> None:
    same(terminal_reward(torch.tensor(2.0), torch.tensor([True, True])), [0.0, 2.0], 0)


def test_kl_reward_by_hand() -> None:
    logp, logp_ref = torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-3.0, -1.0, -2.0 + 0.6931472])
    mask = torch.tensor([True, True, True])
    for estimator, expected in {
        "k1": [-1.0, 0.0, 0.34657],
        "k2": [-1.0, 0.0, -0.12011],
        "k3": [-0.56767, 0.0, -0.15343],
    }.items():
        same(kl_reward(logp, logp_ref, 0.5, mask, estimator), expected, 1e-5)
    same(kl_reward(logp, logp_ref, 0.5, mask), kl_reward(logp, logp_ref, 0.5, mask, "k1"), 0)


def test_prices_of_the_tokens_sum_to_the_price_of_the_completion() -> None:
    logp, logp_ref = -torch.rand(2, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 0]).unsqueeze(-1)
    total = -0.3 * ((logp * mask).sum(-1) - (logp_ref * mask).sum(-1))
    same(kl_reward(logp, logp_ref, 0.3, mask).sum(-1), total)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_what_stands_behind_the_mask_costs_nothing(estimator: str, poison: float) -> None:
    logp = torch.tensor([-1.0, poison, poison], requires_grad=True)
    logp_ref = torch.tensor([-2.0, poison, 0.5], requires_grad=True)
    rewards = kl_reward(logp, logp_ref, 0.5, torch.tensor([True, False, False]), estimator)
    assert rewards[0] != 0 and (rewards[1:] == 0).all()
    for gradient in slope(rewards, logp, logp_ref):
        assert gradient[0] != 0 and (gradient[1:] == 0).all()


def test_no_price_at_beta_zero() -> None:
    rewards = kl_reward(torch.tensor([-1.0]), torch.tensor([-2.0]), 0.0, torch.tensor([True]))
    assert rewards.item() == 0


def test_kl_reward_refusals() -> None:
    logp, mask = torch.zeros(2), torch.ones(2, dtype=torch.bool)
    for beta in (-0.1, nan, inf):
        with refused("beta is", beta):
            kl_reward(logp, logp, beta, mask)
    for estimator in ("k4", "K1", ""):
        with refused("estimator is", repr(estimator), "k1, k2, k3"):
            kl_reward(logp, logp, 0.1, mask, estimator)


def test_overlong_penalty_by_hand() -> None:
    lengths = torch.tensor([0, 80, 81, 90, 99, 100, 101, 10_000])
    same(overlong_penalty(lengths, 100, 20), [0.0, 0.0, -0.05, -0.5, -0.95, -1.0, -1.0, -1.0], 1e-7)


def test_overlong_penalty_without_and_with_nothing_but_a_slope() -> None:
    same(overlong_penalty(torch.tensor([99, 100, 101]), 100, 0), [0.0, 0.0, -1.0], 0)
    same(overlong_penalty(torch.tensor([0, 25, 100]), 100, 100), [0.0, -0.25, -1.0], 0)


@given(st.integers(1, 50), st.data())
@settings(max_examples=40)
def test_overlong_penalty_falls_and_stays_in_its_range(max_length: int, data: st.DataObject) -> None:
    cache = data.draw(st.integers(0, max_length))
    penalty = overlong_penalty(torch.arange(2 * max_length), max_length, cache)
    assert penalty.max() == 0 and penalty.min() >= -1
    assert (penalty.diff() <= 0).all()
    assert (penalty[: max_length - cache + 1] == 0).all()
    assert (penalty[max_length + 1 :] == -1).all()


def test_overlong_penalty_refusals() -> None:
    lengths = torch.tensor([3])
    for max_length in (0, -5):
        with refused("max_length is", max_length):
            overlong_penalty(lengths, max_length, 0)
    for cache in (-1, 101):
        with refused("cache is", cache, 100):
            overlong_penalty(lengths, 100, cache)
