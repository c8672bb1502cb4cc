"""The oracle itself, against definitions that share nothing with it: truncated sums, finite differences, simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from advantage.tabular import (
    MDP,
    GridWorld,
    exact_fisher,
    exact_natural_gradient,
    exact_policy_gradient,
    expected_return,
    performance_difference,
    policy_values,
    softmax_policy,
    state_visitation,
)
from tests.tabular.processes import random_logits, random_mdp

SEEDS = st.integers(0, 10_000)


@given(SEEDS)
def test_values_are_the_sum_of_discounted_rewards(seed: int) -> None:
    mdp = random_mdp(seed, gamma=0.8)
    policy = softmax_policy(random_logits(seed, mdp))
    now, total = np.eye(mdp.num_states), np.zeros(mdp.num_states)
    for t in range(200):
        for s in range(mdp.num_states):  # what is paid at time t, over all (s, a, s')
            for a in range(mdp.num_actions):
                total += 0.8**t * now[:, s] * policy[s, a] * mdp.R[s, a]
        now = now @ sum(policy[:, [a]] * mdp.P[a] for a in range(mdp.num_actions))
    np.testing.assert_allclose(policy_values(mdp, policy), total, atol=1e-10)
    assert not total[mdp.terminal].any()


@given(SEEDS)
def test_visitation_is_the_discounted_sum_of_probabilities(seed: int) -> None:
    mdp = random_mdp(seed, gamma=0.8)
    policy = softmax_policy(random_logits(seed, mdp))
    now, total = mdp.start, np.zeros(mdp.num_states)
    for t in range(200):
        total += 0.8**t * np.where(mdp.terminal, 0.0, now)
        now = now @ sum(policy[:, [a]] * mdp.P[a] for a in range(mdp.num_actions))
    np.testing.assert_allclose(state_visitation(mdp, policy), total, atol=1e-10)


@pytest.mark.parametrize("gamma", [0.0, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_finite_differences(gamma: float, seed: int) -> None:
    mdp = random_mdp(seed, gamma)
    logits = random_logits(seed, mdp)
    found = exact_policy_gradient(mdp, logits)
    for place in np.ndindex(*logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-5
        ahead, behind = (expected_return(mdp, softmax_policy(logits + s)) for s in (step, -step))
        assert found[place] == pytest.approx((ahead - behind) / 2e-5, abs=1e-7)
    np.testing.assert_allclose(found.sum(1), 0.0, atol=1e-12)


@given(SEEDS)
def test_fisher_is_the_hessian_of_the_mean_kl(seed: int) -> None:
    mdp = random_mdp(seed, gamma=0.9, states=3)
    logits = random_logits(seed, mdp)
    visits = state_visitation(mdp, softmax_policy(logits))
    old, weights = torch.tensor(softmax_policy(logits)), torch.tensor(visits / visits.sum())

    def mean_kl(theta: torch.Tensor) -> torch.Tensor:
        new = torch.log_softmax(theta.reshape(logits.shape), -1)
        return (weights * (old * (old.log() - new)).sum(-1)).sum()

    hessian: Any = torch.autograd.functional.hessian(mean_kl, torch.tensor(logits.reshape(-1)))
    np.testing.assert_allclose(exact_fisher(mdp, logits), hessian.numpy(), atol=1e-10)


@pytest.mark.parametrize("damping", [0.0, 0.1])
@given(seed=SEEDS)
def test_the_natural_gradient_solves_its_equation(damping: float, seed: int) -> None:
    mdp = random_mdp(seed, gamma=0.9)
    logits = random_logits(seed, mdp)
    system = exact_fisher(mdp, logits) + damping * np.eye(logits.size)
    wanted = np.linalg.pinv(system, rcond=1e-10) @ exact_policy_gradient(mdp, logits).reshape(-1)
    found = exact_natural_gradient(mdp, logits, damping)
    np.testing.assert_allclose(found.reshape(-1), wanted, atol=1e-8, rtol=1e-6)


@given(SEEDS)
def test_the_performance_difference_lemma(seed: int) -> None:
    mdp = random_mdp(seed, gamma=0.9)
    policy, other = (softmax_policy(random_logits(seed + more, mdp)) for more in (0, 1))
    difference = expected_return(mdp, other) - expected_return(mdp, policy)
    assert performance_difference(mdp, policy, other) == pytest.approx(difference, abs=1e-10)


@given(SEEDS)
def test_sparse_is_dense(seed: int) -> None:
    dense = random_mdp(seed, gamma=0.9)
    thin = MDP([sparse.csr_array(part) for part in dense.P], dense.R, 0.9, dense.terminal, dense.start)
    logits = random_logits(seed, dense)
    for function in (exact_policy_gradient, exact_natural_gradient, exact_fisher):
        np.testing.assert_allclose(function(thin, logits), function(dense, logits), atol=1e-10)


def test_visitation_by_simulation() -> None:
    """Counts of 20,000 episodes within 4.5 standard errors: with 16 states a false alarm in less than 1e-4 of seeds."""
    mdp = random_mdp(3, gamma=0.9, states=16)
    policy = softmax_policy(random_logits(3, mdp))
    rng = np.random.default_rng(0)
    moves = np.cumsum(sum(policy[:, [a]] * mdp.P[a] for a in range(mdp.num_actions)), axis=1)
    episodes = 20_000
    states = rng.choice(mdp.num_states, size=episodes, p=mdp.start)
    counts = np.zeros((episodes, mdp.num_states))
    for t in range(300):
        going = np.flatnonzero(~mdp.terminal[states])
        counts[going, states[going]] += 0.9**t
        states[going] = (moves[states[going]] < rng.random(going.size)[:, None]).sum(1).clip(max=mdp.num_states - 1)
    error = counts.std(0) / np.sqrt(episodes)
    assert (np.abs(counts.mean(0) - state_visitation(mdp, policy)) <= 4.5 * error + 1e-9).all()


def test_torch_in_torch_out() -> None:
    mdp = random_mdp(0, gamma=0.9)
    logits = torch.tensor(random_logits(0, mdp), requires_grad=True)
    for function in (exact_policy_gradient, exact_natural_gradient, exact_fisher):
        assert function(mdp, logits).dtype == torch.float64
    assert isinstance(softmax_policy(logits), torch.Tensor)
    assert isinstance(state_visitation(mdp, policy=softmax_policy(logits)), torch.Tensor)


def test_without_an_end_visitation_sums_to_the_horizon() -> None:
    mdp = MDP(np.full((2, 3, 3), 1 / 3), np.ones((3, 2)), 0.75, np.zeros(3, bool))
    policy = np.full((3, 2), 0.5)
    assert state_visitation(mdp, policy).sum() == pytest.approx(4.0)
    np.testing.assert_allclose(policy_values(mdp, policy), 4.0)


def test_a_policy_that_cannot_end_has_no_value_at_gamma_1() -> None:
    world = GridWorld(gamma=1.0)
    up = np.eye(4)[np.zeros(64, int)]
    with pytest.raises(ValueError, match="never ends from state"):
        policy_values(world, up)
    assert np.isfinite(policy_values(world, np.full((64, 4), 0.25))).all()
