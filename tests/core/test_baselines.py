from __future__ import annotations

import math
from fractions import Fraction
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advantage.core import (
    discounts,
    gae,
    group_advantages,
    group_mean,
    leave_one_out,
    policy_gradient,
    td_residual,
    terminal_reward,
    token_mean,
    traces,
)
from tests.core.claims import refused, same, slope
from tests.core.definitions import every, mean_and_variance, members, standard

FUNCTIONS = [group_mean, leave_one_out, group_advantages]
every_baseline = pytest.mark.parametrize("function", FUNCTIONS)
GROUPS = given(
    rewards=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12),
    ids=st.lists(st.integers(-2, 2), min_size=12, max_size=12),
    kept=st.lists(st.booleans(), min_size=12, max_size=12),
)


def one_group(rewards: Tensor) -> Tensor:
    return torch.zeros(rewards.shape, dtype=torch.long)


def test_numbers_by_hand() -> None:
    rewards, group = torch.tensor([0.0, 10.0, 1.0, 30.0, 5.0]), torch.tensor([7, -1, 7, -1, 3])
    same(group_mean(rewards, group), [0.5, 20.0, 0.5, 20.0, 5.0], 0)
    same(leave_one_out(rewards, group), [1.0, 30.0, 0.0, 10.0, 5.0], 0)
    same(group_advantages(rewards, group, scale=None), [-0.5, -10.0, 0.5, 10.0, 0.0], 0)
    same(group_advantages(rewards, group, ddof=0, eps=0.0), [-1.0, -1.0, 1.0, 1.0, 0.0], 1e-6)
    half = math.sqrt(0.5)
    same(group_advantages(rewards, group, eps=0.0), [-half, -half, half, half, 0.0], 1e-6)
    same(group_advantages(rewards, group, ddof=0, eps=0.5), [-0.5, -10 / 10.5, 0.5, 10 / 10.5, 0.0], 1e-6)


def test_defaults() -> None:
    """ddof 1, ε 1e-6, divided by the standard deviation."""
    rewards = torch.tensor([0.0, 1e-6], dtype=torch.float64)
    same(group_advantages(rewards, one_group(rewards))[1], 0.5e-6 / (math.sqrt(0.5) * 1e-6 + 1e-6))


@GROUPS
@settings(max_examples=60)
def test_exact_moments_of_each_group(rewards: list[float], ids: list[int], kept: list[bool]) -> None:
    group, valid = ids[: len(rewards)], kept[: len(rewards)]
    of = [[rewards[j] for j in places] for places in members(group, valid)]
    others = [[rewards[j] for j in places if j != i] for i, places in enumerate(members(group, valid))]
    means = [float(mean_and_variance(own, 0)[0]) if ok else 0.0 for own, ok in zip(of, valid, strict=True)]
    left = [
        (float(mean_and_variance(rest, 0)[0]) if rest else own) if ok else 0.0
        for own, rest, ok in zip(rewards, others, valid, strict=True)
    ]
    exact = [
        dict(zip(own, standard(own, 1, 1e-6), strict=True))[reward] if ok else 0.0
        for reward, own, ok in zip(rewards, of, valid, strict=True)
    ]
    arguments = (torch.tensor(rewards, dtype=torch.float64), torch.tensor(group), torch.tensor(valid))
    same(group_mean(*arguments), means, 1e-9)
    same(leave_one_out(*arguments), left, 1e-9)
    same(group_advantages(*arguments[:2], valid=arguments[2]), exact, 1e-9)


@GROUPS
@settings(max_examples=20)
def test_leave_one_out_is_the_mean_baseline_rescaled(rewards: list[float], ids: list[int], kept: list[bool]) -> None:
    """r − b_loo = G/(G − 1) (r − mean)."""
    r, group = torch.tensor(rewards, dtype=torch.float64), torch.tensor(ids[: len(rewards)])
    count = (group.unsqueeze(0) == group.unsqueeze(1)).sum(-1)
    same((r - leave_one_out(r, group)) * (count - 1), (r - group_mean(r, group)) * count, 1e-9)


def test_group_mean_is_gae_with_the_group_mean_as_critic() -> None:
    """γ = λ = 1, score at the end, all completions terminated: every token of a completion has r − mean(r)."""
    mask = torch.arange(6) < torch.tensor([6, 2, 4, 1]).unsqueeze(-1)
    score, group = torch.tensor([1.0, 0.0, 0.5, 4.0], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    critic = group_mean(score, group).unsqueeze(-1).expand(4, 6)
    last = terminal_reward(torch.ones(4), mask) == 1
    factors = discounts(last, 1.0, torch.float64)
    delta = td_residual(terminal_reward(score, mask), critic, critic, factors)
    by_token = gae(delta, factors, traces(last | ~mask, 1.0, torch.float64))
    by_group = group_advantages(score, group, scale=None)
    same(by_token[mask], by_group.unsqueeze(-1).expand(4, 6)[mask])


def test_other_members_are_an_unbiased_baseline_the_group_mean_scales_the_gradient() -> None:
    """By enumeration of all groups of three: leave-one-out gives ∇J, the mean baseline (1 − 1/3) of it."""
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64, requires_grad=True)
    paid = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    logp = logits.log_softmax(-1)
    (truth,) = torch.autograd.grad((logp.exp() * paid).sum(), logits, retain_graph=True)
    for baseline, share in ((leave_one_out, 1.0), (group_mean, 2 / 3)):
        expected = torch.zeros(3, dtype=torch.float64)
        for drawn in every(3, 3):
            actions = torch.tensor(drawn)
            rewards = paid[actions]
            term = token_mean(policy_gradient(logp[actions], rewards - baseline(rewards, one_group(rewards))))
            expected += logp[actions].sum().exp().detach() * slope(term, logits)[0]
        same(expected, share * truth)


@pytest.mark.parametrize(("reward", "count"), [(0.1, 3), (1 / 3, 7), (0.7, 11), (1e8, 5), (-1e-30, 6), (3e38, 4)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_equal_float32_rewards_give_exactly_zero(reward: float, count: int, ddof: int) -> None:
    """Though the mean of equal numbers rounds: 0.1 three times sums to something else than 0.3."""
    rewards = torch.full((count,), reward)
    group = one_group(rewards)
    for eps in (0.0, 1e-46, 1e-6):
        assert (group_advantages(rewards, group, ddof=ddof, eps=eps) == 0).all()
    assert (group_advantages(rewards, group, scale=None) == 0).all()
    assert (rewards - group_mean(rewards, group) == 0).all()
    assert (rewards - leave_one_out(rewards, group) == 0).all()


@every_baseline
def test_no_spread_and_a_group_of_one_have_a_finite_slope(function: object) -> None:
    rewards = torch.tensor([0.1, 0.1, 0.1, 5.0], requires_grad=True)
    output = function(rewards, torch.tensor([0, 0, 0, 1]))
    assert slope(output, rewards)[0].isfinite().all()


def test_a_group_of_one_is_its_own_baseline() -> None:
    rewards, group = torch.tensor([3.0, 8.0]), torch.tensor([0, 1])
    same(group_mean(rewards, group), rewards, 0)
    same(leave_one_out(rewards, group), rewards, 0)
    for scale in ("std", None):
        for ddof in (0, 1):
            same(group_advantages(rewards, group, scale, ddof, 0.0), [0.0, 0.0], 0)
    for baseline in (group_mean, leave_one_out):
        leaf = rewards.clone().requires_grad_()
        same(slope(baseline(leaf, group), leaf)[0], [1.0, 1.0], 0)
    lonely = torch.tensor([True, False])  # and so is the only valid member of one
    same(leave_one_out(rewards, 0 * group, lonely), [3.0, 0.0], 0)
    same(group_advantages(rewards, 0 * group, valid=lonely), [0.0, 0.0], 0)


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float64, 1e8), (torch.float32, 1e6)])
def test_a_large_offset_cancels(dtype: torch.dtype, offset: float) -> None:
    steps = torch.arange(4, dtype=dtype)
    rewards, group = offset + steps, torch.zeros(4, dtype=torch.long)
    tight = 1e-14 if dtype == torch.float64 else 1e-6
    for ddof in (0, 1):
        expected = torch.tensor(standard([0.0, 1.0, 2.0, 3.0], ddof, 0.0), dtype=dtype)
        same(group_advantages(rewards, group, ddof=ddof, eps=0.0), expected, tight)
        same(group_advantages(rewards.flip(0), group, ddof=ddof, eps=0.0), expected.flip(0), tight)
    same(group_advantages(rewards, group, scale=None), steps - 1.5, 0)
    rounding = torch.finfo(dtype).eps / 2  # the baselines themselves are rounded once, at their size
    same(group_mean(rewards, group), offset + 1.5 + 0 * steps, rounding)
    same(leave_one_out(rewards, group).double(), [offset + (6 - n) / 3 for n in range(4)], rounding)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=16), st.sampled_from([0.1, 1.0, 1e4, 1e8]))
@settings(max_examples=40)
def test_nearly_equal_rewards_do_not_explode(ulps: list[int], about: float) -> None:
    """Rewards a few roundings apart: as exact arithmetic says, within (G − 1)/√G, and next to 0 where ε is larger."""
    spacing = torch.finfo(torch.float32).eps * 2.0 ** math.floor(math.log2(about))
    rewards = torch.tensor([about + n * spacing for n in ulps], dtype=torch.float32)
    exact = standard(rewards.tolist(), 1, 0.0)
    bare = group_advantages(rewards, one_group(rewards), eps=0.0)
    same(bare, exact, 1e-5)
    assert bare.abs().max() <= (len(ulps) - 1) / math.sqrt(len(ulps)) + 1e-5
    if about == 0.1:
        assert group_advantages(rewards, one_group(rewards), eps=1e-4).abs().max() < 1e-3


@every_baseline
@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_the_excluded_are_in_no_statistic(function: object, poison: float) -> None:
    rewards = torch.tensor([1.0, poison, 4.0, poison, 2.0], requires_grad=True)
    group, valid = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([True, False, True, False, True])
    output = function(rewards, group, valid=valid)
    same(output[valid], function(rewards[valid], group[valid]), 0)
    assert (output[~valid] == 0).all()
    gradient = slope(output, rewards)[0]
    assert gradient.isfinite().all() and (gradient[~valid] == 0).all()


@every_baseline
def test_a_non_finite_reward_that_counts_is_seen(function: object) -> None:
    """Nothing is silently mended: it shows in its own group, and in no other."""
    rewards, group = torch.tensor([1.0, nan, 3.0, 5.0]), torch.tensor([0, 0, 1, 1])
    output = function(rewards, group)
    assert output[:2].isnan().any() and output[2:].isfinite().all()


@every_baseline
def test_the_order_of_completions_does_not_matter(function: object) -> None:
    rng = torch.Generator().manual_seed(0)
    rewards, group = torch.randn(30, generator=rng, dtype=torch.float64), torch.randint(5, (30,), generator=rng)
    order = torch.randperm(30, generator=rng)
    same(function(rewards[order], group[order]), function(rewards, group)[order])
    same(function(rewards, 10**12 - 7 * group), function(rewards, group))
    same(function(rewards.view(5, 6), group.view(5, 6)).flatten(), function(rewards, group), 0)
    assert torch.equal(function(rewards, group.int()), function(rewards, group))


def test_advantages_of_a_group_sum_to_zero_and_have_spread_one() -> None:
    rewards = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    group = torch.arange(4).unsqueeze(-1).expand(4, 9)
    advantages = group_advantages(rewards, group, eps=0.0)
    same(advantages.sum(-1), torch.zeros(4, dtype=torch.float64))
    same(advantages.std(-1), torch.ones(4, dtype=torch.float64))


def test_division_by_the_spread_favours_lopsided_groups_only_in_proportion() -> None:
    """1 of 8 right against 4 of 8: factors 1/std 2.83 and 1.87, sums of absolute advantages 4.95 and 7.48."""
    for right, factor, total in ((1, 2.83, 4.95), (4, 1.87, 7.48)):
        rewards = (torch.arange(8) < right).double()
        scaled = group_advantages(rewards, one_group(rewards), eps=0.0)
        plain = group_advantages(rewards, one_group(rewards), scale=None)
        same(scaled / plain, torch.full_like(rewards, factor), 5e-3)
        assert scaled.abs().sum().item() == pytest.approx(total, abs=5e-3)


def test_exactness_of_the_oracle() -> None:
    assert mean_and_variance([0.1, 0.1, 0.1], 1) == (Fraction(0.1), 0)


def test_refusals() -> None:
    rewards, group = torch.ones(3), torch.zeros(3, dtype=torch.long)
    with refused("scale", "'mad'", "'std'"):
        group_advantages(rewards, group, scale="mad")
    for ddof in (2, -1):
        with refused("ddof is", ddof):
            group_advantages(rewards, group, ddof=ddof)
    for eps in (-1e-6, nan, inf):
        with refused("eps is", eps):
            group_advantages(rewards, group, eps=eps)
    for function in FUNCTIONS:
        with refused("group", "bool"):
            function(rewards, group.bool())
        with refused("valid", (2,)):
            function(rewards, group, valid=torch.ones(2, dtype=torch.bool))
