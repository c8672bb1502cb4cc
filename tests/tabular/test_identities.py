"""Identities of the policy-gradient documents, exactly, by the core's own functions over whole expectations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advantage.core import clipped_surrogate, discounted_return, discounts, likelihood_ratio, policy_gradient, surrogate
from advantage.tabular import (
    MDP,
    exact_fisher,
    exact_policy_gradient,
    expected_return,
    policy_values,
    softmax_policy,
    state_visitation,
)
from tests.tabular.processes import random_logits, random_mdp

SEEDS = st.integers(0, 10_000)


def setting(seed: int) -> tuple[MDP, torch.Tensor, torch.Tensor, torch.Tensor]:
    """An MDP, logits, the weights d(s) π(a|s) of an expectation under the policy, and its advantages."""
    mdp = random_mdp(seed, 0.9)
    logits = torch.tensor(random_logits(seed, mdp), requires_grad=True)
    policy = np.asarray(softmax_policy(logits.detach().numpy()))
    values = policy_values(mdp, policy)
    weights = torch.tensor(np.asarray(state_visitation(mdp, policy))[:, None] * policy)
    return mdp, logits, weights, torch.tensor(mdp.q(values) - values[:, None])


@given(SEEDS)
def test_the_surrogate_is_0_at_the_old_policy_and_its_gradient_is_that_of_j(seed: int) -> None:
    mdp, logits, weights, advantages = setting(seed)
    old = logits.detach().log_softmax(-1)
    for objective in (surrogate, lambda ratio, A: clipped_surrogate(ratio, A, 0.2, 0.2)):
        L = (weights * objective(likelihood_ratio(logits.log_softmax(-1), old), advantages)).sum()
        assert L.item() == pytest.approx(0.0, abs=1e-12)  # not J: ERRATA of the documents
        (slope,) = torch.autograd.grad(L, logits)
        np.testing.assert_allclose(slope, exact_policy_gradient(mdp, logits.detach()), atol=1e-10)


@given(SEEDS)
def test_log_probabilities_times_advantages_have_the_gradient_of_j(seed: int) -> None:
    mdp, logits, weights, advantages = setting(seed)
    (slope,) = torch.autograd.grad((weights * policy_gradient(logits.log_softmax(-1), advantages)).sum(), logits)
    np.testing.assert_allclose(slope, exact_policy_gradient(mdp, logits.detach()), atol=1e-10)


@given(SEEDS)
def test_a_baseline_of_the_state_changes_nothing_on_average(seed: int) -> None:
    mdp, logits, weights, _ = setting(seed)
    baseline = torch.tensor(np.random.default_rng(seed).normal(size=(mdp.num_states, 1))) * 10
    (slope,) = torch.autograd.grad((weights * logits.log_softmax(-1) * baseline).sum(), logits)
    np.testing.assert_allclose(slope, 0.0, atol=1e-10)


@given(SEEDS)
def test_the_surrogate_is_the_performance_difference_but_for_the_states(seed: int) -> None:
    """J(π') − J(π) with the states of π in the place of those of π': off by the second order of the step."""
    mdp, logits, weights, advantages = setting(seed)
    way = np.random.default_rng(seed).normal(size=logits.shape)
    old, before = logits.detach().log_softmax(-1), expected_return(mdp, softmax_policy(logits.detach().numpy()))
    errors = []
    for size in (1e-2, 1e-3):
        moved = logits.detach() + size * torch.tensor(way)
        L = (weights * surrogate(likelihood_ratio(moved.log_softmax(-1), old), advantages)).sum()
        errors.append(abs(L.item() - (expected_return(mdp, softmax_policy(moved.numpy())) - before)))
    assert errors[1] <= max(errors[0] / 30, 1e-9)


@given(SEEDS)
def test_kl_is_half_the_quadratic_form_of_fisher(seed: int) -> None:
    mdp, logits, weights, _ = setting(seed)
    way = np.random.default_rng(seed).normal(size=logits.shape)
    mu, old = weights / weights.sum(), logits.detach().log_softmax(-1)
    F = np.asarray(exact_fisher(mdp, logits.detach().numpy()))
    half = 0.5 * 1e-6 * way.reshape(-1) @ F @ way.reshape(-1)
    moved = (logits.detach() + 1e-3 * torch.tensor(way)).log_softmax(-1)
    assert (mu * (old - moved)).sum().item() == pytest.approx(half, rel=2e-2)


def ways(mdp: MDP, policy: Any, s: int, a: int, depth: int) -> Iterator[tuple[float, list[float], bool]]:
    """All that can follow an action: probability, rewards, whether it ended by itself."""
    R = mdp.transition_rewards.reshape(mdp.P.shape)
    for following in np.flatnonzero(mdp.P[a, s]):
        p, r = mdp.P[a, s, following], float(R[a, s, following])
        if mdp.terminal[following] or depth == 1:
            yield p, [r], bool(mdp.terminal[following])
            continue
        for b in range(mdp.num_actions):
            for q, rewards, ended in ways(mdp, policy, int(following), b, depth - 1):
                yield p * policy[following, b] * q, [r, *rewards], ended


def test_the_mean_of_returns_given_state_and_action_is_q() -> None:
    """Over every trajectory: states only lead onward, so that all end within three steps."""
    rng = np.random.default_rng(0)
    P = np.triu(rng.random((2, 4, 4)), 1)
    P[:, 3, 3] = 1.0
    mdp = MDP(P / P.sum(-1, keepdims=True), rng.normal(size=(2, 4, 4)), 0.8, np.arange(4) == 3)
    policy = np.asarray(softmax_policy(rng.normal(size=(4, 2))))
    q = mdp.q(policy_values(mdp, policy))
    for s in range(3):
        for a in range(2):
            total = mean = 0.0
            for p, rewards, ended in ways(mdp, policy, s, a, 5):
                terminated = torch.arange(len(rewards)) == len(rewards) - 1
                G = discounted_return(
                    torch.tensor(rewards, dtype=torch.float64), discounts(terminated, 0.8, torch.float64), terminated
                )
                assert ended
                total, mean = total + p, mean + p * G[0].item()
            assert total == pytest.approx(1.0) and mean == pytest.approx(q[s, a])
