"""Actor-critic with temporal differences: n rewards are believed, then the critic is (Sutton & Barto 2018, chapter 13).

What is new beside actor_critic_mc.py: it learns every few steps, in the middle of episodes, because the critic's word
stands for all that has not happened yet. Its targets have the unit of rewards and are never normalised: the critic
would bootstrap from numbers that mean something else in each batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from advantage.adam import FlatAdam
from advantage.control.actions import Bounds
from advantage.control.collect import collect
from advantage.control.settings import OnPolicy
from advantage.control.setup import describe, prepare
from advantage.core import discounts, n_step_advantage, policy_gradient, td_residual, token_mean, value_loss
from advantage.runs.live import LiveRun
from advantage.settings import scheduled, setting
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import ascend, estimate, normalized, schedule, statistics


@dataclass(frozen=True)
class Settings(OnPolicy):
    """TD actor-critic's own settings, beside those of every on-policy algorithm."""

    num_envs: int = setting(1, "environments stepped together", low=1)
    record_every: int = setting(10, "updates from one row of metrics to the next", low=1)
    num_steps: int = setting(32, "steps of each environment in a rollout", low=1)
    n_step: int = setting(5, "rewards that are believed before the critic is", unit="steps", low=1)
    critic: str = setting(
        "v",
        "Ψ is the n-step advantage by V(s); Q(s, a); or Q(s, a) − Σ_a π Q (both of Discrete actions)",
        choices=("v", "q", "q_minus_v"),
    )
    critic_target: str = setting(
        "n_step",
        "what the critic learns: n rewards and V, Â + V by the λ of GAE, the return G_t, or r + γV(s')",
        choices=("n_step", "lambda_return", "return", "td"),
    )


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = E[Ψ log π(a|s)] − c₁ L_VF + c₂ H, maximised."""
    said = new.values if now.critic == "v" else new.action_values
    gain = policy_gradient(new.logp, batch.advantages) - now.vf_coef * value_loss(said, batch.returns)
    if now.ent_coef > 0:
        gain = gain + now.ent_coef * new.entropy
    return token_mean(gain, batch.mask, total=batch.tokens)


def credit(rollout: Rollout, now: Settings) -> tuple[Tensor, Tensor]:
    """Ψ_t, and the critic's target: of V(s_t) or of Q(s_t, a_t), which r_t + … + γⁿ V(s_{t+n}) is a sample of alike."""
    factors = discounts(rollout.terminated, now.gamma, rollout.rewards.dtype)
    delta = td_residual(rollout.rewards, rollout.values, rollout.next_values, factors)
    advantages = n_step_advantage(delta, factors, rollout.cut, now.n_step)
    targets = advantages + rollout.values
    if now.critic_target != "n_step":
        targets = estimate(rollout, now.gamma, now.gae_lambda, now.critic_target)[1]
    if now.critic == "v":
        return advantages, targets
    return rollout.action_values - (rollout.values if now.critic == "q_minus_v" else 0.0), targets


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains on an environment until its budget of steps is spent."""
    envs, policy, normalizer = prepare(target, settings, run)
    optimizer = FlatAdam(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps)
    run.keep(envs=envs, policy=policy, normalizer=normalizer, optimizer=optimizer)
    bounds = Bounds(envs.spaces.action, settings.action_bounds)

    for update in run.updates(settings.steps):
        with run.phase("collect"):
            rollout = collect(envs, policy, normalizer, bounds, settings.num_steps, run.rng("actions"))
        now = schedule(settings, update, rollout.steps, optimizer)
        with run.phase("update"):
            psi, returns = credit(rollout, now)
            data = Batch.of(rollout, psi, returns).single_steps()
            step = ascend(policy, optimizer, objective, normalized(data, now), now)
        found = describe(rollout, bounds) | statistics(data, [step], now) if run.due else {}
        run.log(found, rollout, envs.finished_episodes())
    envs.close()
