"""What the pictures draw is so: exact moments against samples, landmarks against the numbers of the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advantage.core import discounts, gae, td_residual, traces
from advantage.tabular import softmax_policy
from benchmarks.pictures import (
    DELTA,
    along_a_step,
    baseline_variance,
    bias_and_spread,
    gae_moments,
    one_parameter,
    process,
)
from tests.algorithms.tables import episodes_of


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_moments_of_gae_are_what_samples_have(lam: float) -> None:
    """30,000 episodes: mean and variance of Â at their first step, by state and action, within 4.5 standard errors."""
    mdp, features, theta = process()
    policy = np.asarray(softmax_policy(features @ theta))
    critic = np.random.default_rng(2).normal(size=9) * ~mdp.terminal
    rollout = episodes_of(mdp, policy, 30_000, seed=0, longest=1000)
    V = torch.from_numpy(critic)[rollout.context["observation"]]
    factors = discounts(rollout.terminated, mdp.gamma, torch.float64)
    delta = td_residual(rollout.rewards, V, torch.cat([V[:, 1:], 0 * V[:, :1]], 1), factors)
    first = gae(delta, factors, traces(rollout.cut, lam, torch.float64))[:, 0].numpy()
    mean, variance = gae_moments(mdp, policy, critic, lam)
    state, action = rollout.context["observation"][:, 0].numpy(), rollout.actions[:, 0].numpy()
    tried = 0
    for s, a in np.ndindex(8, 3):
        x = first[(state == s) & (action == a)]
        if len(x) < 300:
            continue
        tried += 1
        assert abs(x.mean() - mean[s, a]) < 4.5 * np.sqrt(variance[s, a] / len(x))
        kurtosis = ((x - x.mean()) ** 4).mean() - x.var() ** 2
        assert abs(x.var() - variance[s, a]) < 4.5 * np.sqrt(kurtosis / len(x))
    assert tried > 12


def test_what_is_seen_in_them() -> None:
    lams = np.linspace(0, 1, 21)
    found = bias_and_spread(lams)
    assert found["bias"][-1] < 1e-9 < 0.1 < found["bias"][0]
    assert found["standard deviation"][-1] > 2 * found["standard deviation"][0]
    assert 2 < found["root mean square error"].argmin() < 19
    b = np.array([0.0, 0.9])
    np.testing.assert_allclose(baseline_variance(b), [0.0009, 0.0576], atol=1e-12)
    step = one_parameter(np.array([0.24, 0.304]))
    assert step["KL"][1] <= DELTA * 1.05 and step["surrogate"][1] > step["J"][0] > step["J"][1]


def test_along_the_step_j_turns_where_the_surrogate_goes_on() -> None:
    found = along_a_step(*process(), np.array([0.0, 0.01, 1.0, 3.0, 6.0]))
    assert found["KL"][2] == pytest.approx(DELTA, rel=0.2)
    assert found["J"][1] == pytest.approx(found["surrogate"][1], rel=0.02)
    assert found["J"][3] > found["J"][4] and found["surrogate"][3] < found["surrogate"][4]
    assert found["clipped surrogate"][2] > found["clipped surrogate"][4]
