"""What the rungs of the ladder estimate: their gradients against exact ones, in a small MDP that is known in full.

Means and variances of the estimators are sums over every episode that can happen (small_mdp.py), by the algorithms' own
`credit` and `objective`; they are compared with the gradient of the linear system, to rounding. Then the same from
samples, through environments and collection, within a stated confidence.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from advantage.algorithms import a2c, actor_critic_mc, actor_critic_td, ppo, ppo_penalty, reinforce
from advantage.control.actions import Bounds
from advantage.control.baselines import EarlierReturns, measured
from advantage.control.collect import collect, collect_episodes
from advantage.control.environments import make_envs
from advantage.control.normalization import Normalizer
from advantage.settings import resolve
from advantage.trajectory import Batch, Rollout, tree_map
from advantage.update import estimate, normalized, returns_to_go
from tests.algorithms.memory_run import MemoryRun
from tests.algorithms.small_mdp import (
    WRONG,
    SmallMDP,
    everything,
    exact_gradient,
    policy_of,
    q_of,
    seeded,
    values_of,
    visits,
    weighted_gradient,
)
from tests.algorithms.test_ppo import Salary
from tests.control.scripted import Echo

PLAIN: dict[str, Any] = {"network": (), "vf_coef": 0.0, "max_grad_norm": 1e9}
Q_WRONG = torch.tensor([[0.5, -0.4], [1.0, 0.2], [-0.7, 0.9]], dtype=torch.float64)


def settings_of(algorithm: Any, **given: Any) -> Any:
    return resolve(algorithm.Settings, PLAIN | given)


def of_episode(rollout: Rollout, index: int) -> Rollout:
    """One stream of a rollout, alone."""

    def one(leaf: Tensor) -> Tensor:
        return leaf[index : index + 1]

    names = ("mask", "terminated", "truncated", "rewards", "values", "next_values", "action_values", "logp_old")
    columns = {name: one(column) for name in names if (column := getattr(rollout, name)) is not None}
    return rollout.replace(context=tree_map(one, rollout.context), actions=one(rollout.actions), **columns)


def gradients(algorithm: Any, rollout: Rollout, now: Any, policy: Any = None) -> Tensor:
    """Of each episode Σ_t Ψ_t ∇log π by the algorithm's credit and objective, (episodes, states × actions)."""
    policy = policy or policy_of(now)
    whole = hasattr(now, "episodes")
    if hasattr(algorithm, "credit"):
        psi, returns = algorithm.credit(rollout, now)
    else:
        psi, returns = estimate(rollout, now.gamma, now.gae_lambda)
    targets = None if whole and now.baseline != "value" else returns
    found = []
    for index in range(len(rollout.mask)):
        part = of_episode(rollout, index)
        chosen = None if targets is None else targets[index : index + 1]
        data = Batch.of(part, psi[index : index + 1], chosen).single_steps()
        data = data.replace(sequences=1) if whole else data
        value = algorithm.objective(policy.evaluate(data), data, now)
        (gradient,) = torch.autograd.grad(value, policy.head.logits.weight)
        found.append(gradient.T.reshape(-1) * (1 if whole else data.tokens))
    return torch.stack(found)


def expected(per_episode: Tensor, chance: Tensor) -> Tensor:
    return (chance[:, None] * per_episode).sum(0).reshape(3, 2)


def close(one: Tensor, other: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


# --- the oracle itself ---


def test_probabilities_sum_to_one_and_visits_are_those_of_the_enumeration() -> None:
    rollout, chance = everything()
    assert float(chance.sum()) == pytest.approx(1.0, abs=1e-14)
    states = rollout.context["observation"]
    counted = torch.stack([((states == s) & rollout.mask).double().sum(1) @ chance for s in range(3)])
    close(counted, visits())
    assert sorted(set(rollout.mask.sum(1).tolist())) == [1, 2, 3]


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_the_policy_gradient_theorem(gamma: float) -> None:
    q = q_of(values_of(gamma), gamma)
    close(weighted_gradient(q, gamma), exact_gradient(gamma))


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_the_mean_return_behind_an_action_is_its_value(gamma: float) -> None:
    """E[G_t | s, a] = Q(s, a)."""
    rollout, chance = everything()
    returns, states = returns_to_go(rollout, gamma), rollout.context["observation"]
    q = q_of(values_of(gamma), gamma)
    for state, action in itertools.product(range(3), range(2)):
        here = ((states == state) & (rollout.actions == action) & rollout.mask) * chance[:, None]
        assert float((here * returns).sum() / here.sum()) == pytest.approx(float(q[state, action]), abs=1e-12)


# --- whole episodes ---

UNBIASED = {
    "R(τ)": {"psi": "trajectory", "gamma": 0.9},
    "R(τ), γ = 1": {"psi": "trajectory", "gamma": 1.0},
    "R(τ) − mean": {"psi": "trajectory", "gamma": 0.9, "baseline": "running_mean"},
    "R(τ) − V": {"psi": "trajectory", "gamma": 0.9, "baseline": "value"},
    "G_t, γ = 1": {"gamma": 1.0},
    "γ^t G_t": {"gamma": 0.9, "discount_from_start": True},
    "γ^t (G_t − mean)": {"gamma": 0.9, "discount_from_start": True, "baseline": "running_mean"},
    "γ^t (G_t − V)": {"gamma": 0.9, "discount_from_start": True, "baseline": "value"},
    "G_t − V, γ = 1": {"gamma": 1.0, "baseline": "value"},
}


def seen_with(now: Any, values: Tensor = WRONG, mean: float = 0.8) -> tuple[Rollout, Tensor]:
    """All episodes, against the baseline of the settings: a critic that is wrong, or a constant."""
    rollout, chance = everything(values)
    earlier = EarlierReturns()
    earlier.mean = mean
    return measured(rollout, now.baseline, earlier), chance


@pytest.mark.parametrize("form", UNBIASED)
def test_unbiased_forms_are_the_gradient_of_j(form: str) -> None:
    now = settings_of(reinforce, **UNBIASED[form])
    rollout, chance = seen_with(now)
    close(expected(gradients(reinforce, rollout, now), chance), exact_gradient(now.gamma))


def test_the_usual_form_is_another_gradient_than_that_of_j() -> None:
    now = settings_of(reinforce, gamma=0.5)
    rollout, chance = seen_with(now)
    found = expected(gradients(reinforce, rollout, now), chance)
    close(found, weighted_gradient(q_of(values_of(0.5), 0.5), 1.0))  # visits are not discounted, what follows them is
    assert float((found - exact_gradient(0.5)).abs().max()) > 0.02


def test_a_factor_in_front_of_the_episode_s_return_is_refused() -> None:
    with pytest.raises(Exception, match="has no γ\\^t"):
        settings_of(reinforce, psi="trajectory", discount_from_start=True)


@pytest.mark.parametrize("baseline", ["running_mean", "value"])
def test_baselines_have_mean_zero_and_another_variance(baseline: str) -> None:
    bare = settings_of(reinforce, gamma=1.0)
    now = replace(bare, baseline=baseline)
    plain, (against, chance) = seen_with(bare)[0], seen_with(now)
    difference = gradients(reinforce, against, now) - gradients(reinforce, plain, bare)
    close(expected(difference, chance), torch.zeros(3, 2, dtype=torch.float64))
    assert float(difference.abs().max()) > 0.1


@pytest.mark.parametrize("episodes", [1, 4])
def test_a_mean_of_earlier_episodes_is_unbiased_and_one_with_the_present_shrinks(episodes: int) -> None:
    """With N episodes in the mean, the present among them, the gradient is 1 − 1/N of what it should be."""
    now = settings_of(reinforce, gamma=1.0, psi="trajectory", baseline="running_mean")
    rollout, chance = everything()
    returns = returns_to_go(rollout, 1.0)
    mean = float(chance @ returns[:, 0])
    n = episodes + 1
    without, including = [], []
    for index in range(len(chance)):
        one = of_episode(rollout, index)
        earlier = EarlierReturns()  # its mean over what the earlier ones can be: linear, so their own mean stands in
        earlier.learn(torch.full((episodes, 1), mean, dtype=torch.float64))
        without.append(gradients(reinforce, measured(one, "running_mean", earlier), now))
        earlier.learn(returns[index : index + 1])
        assert earlier.count == n
        including.append(gradients(reinforce, measured(one, "running_mean", earlier), now))
    close(expected(torch.cat(without), chance), exact_gradient(1.0))
    close(expected(torch.cat(including), chance), (1.0 - 1.0 / n) * exact_gradient(1.0))


def test_a_mean_that_has_seen_nothing_but_the_present_teaches_nothing() -> None:
    now = settings_of(reinforce, gamma=1.0, psi="trajectory", baseline="running_mean")
    rollout, _ = everything()
    one, earlier = of_episode(rollout, 0), EarlierReturns()
    earlier.learn(returns_to_go(one, 1.0))
    assert not gradients(reinforce, measured(one, "running_mean", earlier), now).any()


def test_a_baseline_can_raise_the_variance() -> None:
    """ERRATA 20: two arms, π = (.9, .1), rewards 1 and 0: variance .0009 without a baseline, .0576 with V."""
    logits = torch.tensor([math.log(9.0), 0.0], dtype=torch.float64)
    pi, rewards = logits.softmax(-1), torch.tensor([1.0, 0.0], dtype=torch.float64)

    def variance(baseline: float) -> float:
        score = torch.tensor([1.0 - pi[0], -pi[0]], dtype=torch.float64)  # ∂ log π / ∂ the first logit
        samples = (rewards - baseline) * score
        mean = pi @ samples
        return float(pi @ (samples - mean) ** 2)

    assert variance(0.0) == pytest.approx(0.0009, abs=1e-9)
    assert variance(float(pi @ rewards)) == pytest.approx(0.0576, abs=1e-9)


def test_monte_carlo_actor_critic_without_its_scales_is_reinforce_with_a_critic() -> None:
    ours = settings_of(actor_critic_mc, gamma=1.0, normalize_returns=False, normalize_advantages=False)
    theirs = settings_of(reinforce, gamma=1.0, baseline="value")
    rollout, _ = seen_with(ours)
    assert torch.equal(gradients(actor_critic_mc, rollout, ours), gradients(reinforce, rollout, theirs))


def test_the_dual_normalisation_by_hand() -> None:
    """Critic on standardised returns; Ψ = standardised return − V; Ψ standardised once more."""
    now = settings_of(actor_critic_mc, gamma=0.9)
    rollout, _ = seen_with(now)
    psi, targets = actor_critic_mc.credit(rollout, now)
    true = returns_to_go(rollout, 0.9)[rollout.mask]
    by_hand = (true - true.mean()) / true.std(correction=0)
    torch.testing.assert_close(targets[rollout.mask], by_hand, rtol=0, atol=1e-7)
    torch.testing.assert_close(psi[rollout.mask], by_hand - rollout.values[rollout.mask], rtol=0, atol=1e-7)
    data = normalized(Batch.of(rollout, psi, targets).single_steps(), now)
    assert float(data.advantages.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(data.advantages.std(correction=0)) == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(data.returns.reshape(-1), by_hand, rtol=0, atol=1e-7)


# --- bootstrapped ---


def n_step_q(values: Tensor, gamma: float, n: int) -> Tensor:
    """E[r_t + … + γⁿ V̂(s_{t+n}) | s, a]: n rewards of the policy, then what the critic says."""
    pi = torch.softmax(policy_of(settings_of(a2c)).head.logits.weight.detach().T, -1)
    for _ in range(n - 1):
        values = (pi * q_of(values, gamma)).sum(-1)
    return q_of(values, gamma)


def lambda_q(values: Tensor, gamma: float, lam: float) -> Tensor:
    """E[λ-return | s, a], by its own recursion to a fixed point: Q = r + γ P ((1 − λ) V̂ + λ Σ π Q)."""
    pi = torch.softmax(policy_of(settings_of(a2c)).head.logits.weight.detach().T, -1)
    q = torch.zeros_like(Q_WRONG)
    for _ in range(5):  # no episode is longer than three steps
        q = q_of((1.0 - lam) * values + lam * (pi * q).sum(-1), gamma)
    return q


@pytest.mark.parametrize("n", [1, 2, 3, 50])
@pytest.mark.parametrize("gamma", [0.8, 1.0])
def test_the_bias_of_n_steps_with_a_wrong_critic_is_as_computed(n: int, gamma: float) -> None:
    now = settings_of(actor_critic_td, gamma=gamma, n_step=n, normalize_advantages=False)
    rollout, chance = everything(WRONG)
    found = expected(gradients(actor_critic_td, rollout, now), chance)
    close(found, weighted_gradient(n_step_q(WRONG, gamma, n)))
    right = weighted_gradient(q_of(values_of(gamma), gamma))
    bias = float((found - right).abs().max())
    assert bias < 1e-12 if n >= 3 else bias > 1e-3  # no episode is longer
    exact = everything(values_of(gamma))[0]
    close(expected(gradients(actor_critic_td, exact, now), chance), right)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("gamma", [0.8, 1.0])
def test_the_bias_of_gae_with_a_wrong_critic_is_as_computed(lam: float, gamma: float) -> None:
    now = settings_of(a2c, gamma=gamma, gae_lambda=lam, normalize_advantages=False)
    rollout, chance = everything(WRONG)
    found = expected(gradients(a2c, rollout, now), chance)
    close(found, weighted_gradient(lambda_q(WRONG, gamma, lam)))
    right = weighted_gradient(q_of(values_of(gamma), gamma))
    bias = float((found - right).abs().max())
    assert bias < 1e-12 if lam == 1.0 else bias > 0.005
    close(expected(gradients(a2c, everything(values_of(gamma))[0], now), chance), right)
    if gamma == 1.0 and lam == 1.0:
        close(found, exact_gradient(1.0))


@pytest.mark.parametrize("critic", ["q", "q_minus_v"])
def test_a_critic_of_actions_weighs_by_what_it_says(critic: str) -> None:
    now = settings_of(actor_critic_td, critic=critic, gamma=0.8, normalize_advantages=False)
    for q in (Q_WRONG, q_of(values_of(0.8), 0.8)):
        policy = policy_of(now, action_values=q)
        pi = torch.softmax(policy.head.logits.weight.detach().T, -1)
        values = (pi * q).sum(-1)
        close(policy.value({"observation": torch.arange(3)}).detach(), values)
        rollout, chance = everything(values, q)
        close(expected(gradients(actor_critic_td, rollout, now, policy), chance), weighted_gradient(q))
        said = policy.evaluate(Batch.of(rollout))
        close(said.action_values[rollout.mask].detach(), rollout.action_values[rollout.mask])


def test_the_target_of_q_is_its_own_n_step_return() -> None:
    """E[r + … + γⁿ V(s_{t+n}) | s, a] is Q of the same number of rewards; the critic learns it at the taken action."""
    now = settings_of(actor_critic_td, critic="q", gamma=0.8, n_step=2, vf_coef=1.0)
    values = values_of(0.8)
    rollout, chance = everything(values, Q_WRONG)
    _, targets = actor_critic_td.credit(rollout, now)
    states, q = rollout.context["observation"], n_step_q(values, 0.8, 2)
    for state, action in itertools.product(range(3), range(2)):
        here = ((states == state) & (rollout.actions == action) & rollout.mask) * chance[:, None]
        assert float((here * targets).sum() / here.sum()) == pytest.approx(float(q[state, action]), abs=1e-12)


@pytest.mark.parametrize(
    ("target", "weight"), [("lambda_return", 0.5), ("return", 1.0), ("td", 0.0)], ids=["λ-return", "return", "td"]
)
def test_what_the_critic_learns_is_a_choice(target: str, weight: float) -> None:
    rollout, _ = everything(WRONG)
    advantages, targets = estimate(rollout, 0.8, 0.5, target)
    close(advantages, estimate(rollout, 0.8, 0.5)[0])
    close(targets[rollout.mask], estimate(rollout, 0.8, weight)[1][rollout.mask])
    now = settings_of(actor_critic_td, gamma=0.8, gae_lambda=0.5, critic_target=target)
    close(actor_critic_td.credit(rollout, now)[1][rollout.mask], targets[rollout.mask])


# --- ratios ---


def batch_of_everything() -> Batch:
    rollout, _ = everything(WRONG)
    advantages, returns = estimate(rollout, 0.9, 0.8)
    return Batch.of(rollout, advantages, returns).single_steps()


def gradient_of(algorithm: Any, now: Any, policy: Any, batch: Batch, evaluator: Any = None) -> list[Tensor]:
    value = algorithm.objective((evaluator or policy).evaluate(batch), batch, now)
    return list(torch.autograd.grad(value, list(policy.parameters())))


ALIKE: dict[str, Any] = {"network": (), "vf_coef": 0.7, "ent_coef": 0.03}


@pytest.mark.parametrize("beta", [0.1, 100.0])
def test_where_nothing_has_moved_a_ratio_changes_nothing(beta: float) -> None:
    """PPO with one epoch and one minibatch, and the penalty at any price, have A2C's gradient."""
    policy, batch = policy_of(resolve(a2c.Settings, ALIKE)), batch_of_everything()
    plain = gradient_of(a2c, resolve(a2c.Settings, ALIKE), policy, batch)
    clipped = gradient_of(ppo, resolve(ppo.Settings, ALIKE), policy, batch)
    anchored = ppo_penalty.Anchored(policy)
    priced = gradient_of(ppo_penalty, resolve(ppo_penalty.Settings, ALIKE | {"beta": beta}), policy, batch, anchored)
    for one, other, third in zip(plain, clipped, priced, strict=True):
        close(one, other)
        close(one, third)


def test_the_penalty_is_the_exact_kl_from_the_old_policy() -> None:
    now = resolve(ppo_penalty.Settings, PLAIN)
    policy, batch = policy_of(now), batch_of_everything()
    anchored = ppo_penalty.Anchored(policy)
    assert anchored.moved(batch) == 0.0
    with torch.no_grad():
        policy.head.logits.weight += torch.tensor([[0.5], [-0.2]], dtype=torch.float64)
    old, new = (torch.softmax(p.head.logits.weight.detach().T, -1) for p in (anchored.old, policy))
    by_hand = (old * (old / new).log()).sum(-1)[batch.context["observation"][:, 0]]
    close(anchored.evaluate(batch).kl[:, 0].detach(), by_hand)
    assert anchored.moved(batch) == pytest.approx(float(by_hand.mean()))
    reverse = (new * (new / old).log()).sum(-1)[batch.context["observation"][:, 0]]
    assert float((by_hand - reverse).abs().max()) > 1e-3
    free = ppo_penalty.objective(anchored.evaluate(batch), batch, replace(now, beta=1e-9))
    paid = ppo_penalty.objective(anchored.evaluate(batch), batch, replace(now, beta=2.0))
    assert float((free - paid).detach()) == pytest.approx(2.0 * float(by_hand.mean()), abs=1e-6)
    anchored.drop()
    assert anchored.moved(batch) == 0.0


@pytest.mark.parametrize(("kl", "factor"), [(0.0066, 0.5), (0.0067, 1.0), (0.0149, 1.0), (0.0151, 2.0)])
def test_the_price_follows_the_kl(kl: float, factor: float) -> None:
    price = ppo_penalty.Price(resolve(ppo_penalty.Settings, {"beta": 3.0, "target_kl": 0.01}))
    price.adapt(kl)
    assert price.beta == 3.0 * factor
    other = ppo_penalty.Price(resolve(ppo_penalty.Settings, {}))
    other.restore(price.state())
    assert other.beta == price.beta


@pytest.mark.parametrize(("kl", "bound"), [(0.0, 3e-6), (1.0, 3e6)])
def test_the_price_stays_where_it_can_come_back_from(kl: float, bound: float) -> None:
    price = ppo_penalty.Price(resolve(ppo_penalty.Settings, {"beta": 3.0, "target_kl": 0.01}))
    for _ in range(2000):
        price.adapt(kl)
    assert price.beta == pytest.approx(bound)
    price.adapt(1.0 - kl)
    assert price.beta == pytest.approx(bound * (2.0 if kl == 0.0 else 0.5))


# --- one rung as another ---


def parameters_after(algorithm: Any, target: Any, updates: int, **settings: Any) -> dict[str, Tensor]:
    run = MemoryRun(updates)
    algorithm.train(target, resolve(algorithm.Settings, settings), run)
    return {name: parameter.detach().clone() for name, parameter in run.kept["policy"].named_parameters()}


def test_a2c_in_one_environment_is_td_actor_critic_with_as_many_rewards_as_steps() -> None:
    alike = {"num_envs": 1, "num_steps": 7, "network": (8,), "learning_rate": 1e-2, "ent_coef": 0.01}
    target = functools.partial(gym.make, "CartPole-v1", max_episode_steps=15)
    one = parameters_after(a2c, target, 12, optimizer="adam", gae_lambda=1.0, **alike)
    other = parameters_after(actor_critic_td, target, 12, n_step=7, **alike)
    for name, parameter in one.items():
        torch.testing.assert_close(parameter, other[name], rtol=0, atol=1e-6)
    fewer = parameters_after(actor_critic_td, target, 12, n_step=3, **alike)
    assert max(float((one[name] - fewer[name]).abs().max()) for name in one) > 1e-3


def test_ppo_with_one_step_an_update_is_a2c() -> None:
    alike = {"num_envs": 2, "num_steps": 8, "network": (8,), "learning_rate": 1e-2, "gae_lambda": 0.9}
    target = functools.partial(gym.make, "CartPole-v1", max_episode_steps=15)
    one = parameters_after(a2c, target, 8, optimizer="adam", **alike)
    other = parameters_after(ppo, target, 8, epochs=1, minibatch_size=16, **alike)
    for name, parameter in one.items():
        torch.testing.assert_close(parameter, other[name], rtol=0, atol=1e-6)


# --- from samples ---

EPISODES = 4000


def played(now: Any, seed: int) -> Rollout:
    """Episodes through environments and collection."""
    envs = make_envs(SmallMDP, 4)
    envs.start(seed)
    policy, bounds = policy_of(now), Bounds(envs.spaces.action, "clip")
    normalizer = Normalizer(envs.spaces.observation, 4, now)
    return collect_episodes(envs, policy, normalizer, bounds, EPISODES, seeded(seed))


def of_each_kind(rollout: Rollout, now: Any) -> Tensor:
    """The gradient of every episode; equal episodes are differentiated once."""
    rows = torch.cat([rollout.context["observation"], rollout.actions, rollout.mask.long()], 1)
    kinds, place = torch.unique(rows, dim=0, return_inverse=True)
    first = [int((place == kind).nonzero()[0]) for kind in range(len(kinds))]
    parts = [of_episode(rollout, index) for index in first]
    return torch.cat([gradients(reinforce, part, now) for part in parts])[place]


@pytest.mark.parametrize("form", ["R(τ)", "G_t, γ = 1", "γ^t (G_t − V)"])
def test_sampled_gradients_lie_around_the_exact_one_and_spread_as_computed(form: str) -> None:
    """The mean of 4,000 episodes within its 99.9 % confidence interval at each of 6 entries (3.95 standard errors by
    Bonferroni); the variance within as many standard errors of the enumerated one."""
    now = settings_of(reinforce, **UNBIASED[form])
    rollout = measured(played(now, 11), now.baseline, EarlierReturns())
    samples = of_each_kind(rollout, now)
    everywhere, chance = seen_with(now, mean=0.0)
    each = gradients(reinforce, everywhere, now)
    mean = expected(each, chance).reshape(-1)
    variance = chance @ (each - mean) ** 2
    fourth = chance @ (each - mean) ** 4
    bound = 3.95
    apart = (samples.mean(0) - exact_gradient(now.gamma).reshape(-1)) / (variance / EPISODES).sqrt()
    wide = (samples.var(0) - variance) / ((fourth - variance**2) / EPISODES).sqrt()
    print(f"{form}: mean {float(apart.abs().max()):.2f}, variance {float(wide.abs().max()):.2f} standard errors")
    assert float(apart.abs().max()) < bound and float(wide.abs().max()) < bound


def test_sampled_rollouts_of_set_length_have_the_expected_gradient() -> None:
    """A2C over the ends of episodes: the mean over 300 environments × 64 steps, within 99.9 % at each of 6 entries.

    Per step the expectation is that of an episode over its mean length; where a rollout begins and ends costs O(1/T).
    """
    now = settings_of(a2c, gamma=0.9, gae_lambda=0.7, normalize_advantages=False)
    envs = make_envs(SmallMDP, 300)
    envs.start(5)
    policy, normalizer = policy_of(now), Normalizer(envs.spaces.observation, 300, now)
    rollout = collect(envs, policy, normalizer, Bounds(envs.spaces.action, "clip"), 64, seeded(5))
    each = gradients(a2c, rollout, now, policy) / rollout.mask.sum(1, keepdim=True)
    per_step = (weighted_gradient(lambda_q(WRONG, 0.9, 0.7)) / visits().sum()).reshape(-1)
    apart = (each.mean(0) - per_step) / (each.std(0) / math.sqrt(300))
    print(f"a2c: {float(apart.abs().max()):.2f} standard errors")
    assert float(apart.abs().max()) < 3.95


# --- a time limit is no end ---

SALARY: dict[str, dict[str, Any]] = {
    "reinforce": {"baseline": "value", "episodes": 8},
    "actor_critic_mc": {"episodes": 8},
    "actor_critic_mc raw": {"episodes": 8, "normalize_returns": False},
    "actor_critic_td": {"num_steps": 26, "n_step": 5},
    "actor_critic_td q": {"num_steps": 26, "n_step": 5, "critic": "q_minus_v"},
    "a2c": {"num_steps": 13, "optimizer": "adam", "num_envs": 2},
    "ppo_penalty": {"num_steps": 26, "num_envs": 2, "minibatch_size": 26, "epochs": 2},
}


@pytest.mark.parametrize("case", SALARY)
def test_a_constant_reward_is_worth_ten_behind_a_limit(case: str) -> None:
    """Reward 1 for ever at γ = 0.9 is worth 10, and a limit after 13 steps takes nothing of it."""
    algorithm = {"reinforce": reinforce, "a2c": a2c, "ppo_penalty": ppo_penalty}.get(case)
    algorithm = algorithm or (actor_critic_mc if "mc" in case else actor_critic_td)
    run = MemoryRun(100)
    plain = {"gamma": 0.9, "network": (), "learning_rate": 0.2, "vf_coef": 1.0, "max_grad_norm": 1e9}
    algorithm.train(functools.partial(Salary, 13), resolve(algorithm.Settings, plain | SALARY[case]), run)
    with torch.no_grad():
        value = float(run.kept["policy"].value({"observation": torch.ones(1, 1)}))
    if "scale" in run.kept:
        value = run.kept["scale"].mean + run.kept["scale"].std * value
    assert value == pytest.approx(10.0, rel=0.03)


def test_without_a_critic_a_limit_is_an_end() -> None:
    """ERRATA 32: nobody says what would have come; the mean return of a first step is 7.46."""
    run = MemoryRun(1)
    target = functools.partial(Salary, 13)
    reinforce.train(target, resolve(reinforce.Settings, {"gamma": 0.9, "baseline": "running_mean"}), run)
    assert run.kept["earlier"].mean == pytest.approx((1 - 0.9**13) / 0.1, rel=1e-6)
    assert run.kept["earlier"].count == 8


# --- what is thrown away ---


def test_steps_that_are_thrown_away_count(tmp_path: Any) -> None:
    import advantage

    made = [functools.partial(Salary, length) for length in (3, 40)]
    run = advantage.train("reinforce", made, run_dir=tmp_path / "r", quiet=True, steps=200, episodes=2, num_envs=2)
    assert run.metrics()["env_steps"].tolist() == [80.0, 160.0, 240.0]  # 43 of each 80 are kept
    assert int(run.reader.rollout()[0]["mask"].sum()) == 43


def test_one_environment_throws_nothing_away() -> None:
    run = MemoryRun(3)
    reinforce.train(SmallMDP, resolve(reinforce.Settings, {"episodes": 5}), run)
    assert run.kept["envs"].steps == sum(rollout.steps for rollout in run.rollouts)
    assert all(len(rollout.mask) == 5 for rollout in run.rollouts)


def test_action_masks_reach_the_mean_over_actions() -> None:
    now = resolve(actor_critic_td.Settings, {"critic": "q", "network": ()})
    policy = policy_of(now, action_values=Q_WRONG)
    context = {"observation": torch.tensor([0, 1]), "action_mask": torch.tensor([[True, False], [True, True]])}
    values = policy.value(context).detach()
    assert float(values[0]) == pytest.approx(float(Q_WRONG[0, 0]), abs=1e-12)
    assert float(values[1]) != pytest.approx(float(Q_WRONG[1, 0]), abs=1e-3)


def test_q_needs_actions_that_can_be_counted() -> None:
    with pytest.raises(Exception, match="Discrete actions") as caught:
        box = spaces.Box(-1.0, 1.0, (2,), np.float32)
        parameters_after(actor_critic_td, functools.partial(Echo, box, box), 1, critic="q")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [1, 7])
def test_a_rollout_without_scores_is_valued_the_same(count: int) -> None:
    now = settings_of(a2c)
    found = []
    for logp in (True, False):
        envs = make_envs(lambda: gym.wrappers.TimeLimit(SmallMDP(), 2), count)
        envs.start(3)
        normalizer, bounds = Normalizer(envs.spaces.observation, count, now), Bounds(envs.spaces.action, "clip")
        found.append(collect(envs, policy_of(now), normalizer, bounds, 40, seeded(3), logp=logp))
    scored, valued = found
    assert (scored.truncated & ~scored.terminated).any() and scored.terminated.any()
    assert valued.logp_old is None and scored.logp_old is not None
    assert torch.equal(scored.actions, valued.actions) and torch.equal(scored.rewards, valued.rewards)
    close(scored.values, valued.values)
    close(scored.next_values, valued.next_values)
