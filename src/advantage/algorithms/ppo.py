"""Proximal policy optimisation (Schulman et al. 2017), with the details that made its code work (Huang et al. 2022).

A rollout is used more than once: importance ratios say what its actions are worth to a policy that has moved on, and
the clip takes away the reward for moving further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from advantage.adam import FlatAdam
from advantage.control.actions import Bounds
from advantage.control.collect import collect
from advantage.control.settings import Minibatched
from advantage.control.setup import describe, prepare, say_rest
from advantage.core import (
    clipped_surrogate,
    clipped_value_loss,
    likelihood_ratio,
    token_mean,
    value_loss,
)
from advantage.core.dialects import DIALECTS
from advantage.runs.live import LiveRun
from advantage.settings import Schedule, scheduled, setting
from advantage.trajectory import Batch, Evaluation
from advantage.update import ascend, estimate, minibatches, normalized, schedule, statistics, within_target_kl


@dataclass(frozen=True)
class Settings(Minibatched):
    """PPO's own settings, beside those of every on-policy algorithm."""

    eps_low: Schedule = setting(0.2, "how far the ratio may fall below 1 and still be rewarded for it", low=0)
    eps_high: Schedule = setting(0.2, "how far it may rise above 1", low=0)
    dual_clip: float | None = setting(None, "floor c·Â for bad actions whose ratio explodes; none for none", above=1)
    value_clip: float | None = setting(None, "bound on the critic's step away from its rollout values", above=0)
    target_kl: float | None = setting(None, "stop an update once the KL passes 1.5 times this; none never", above=0)


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = E[min(ρÂ, clip(ρ, 1 − ε_low, 1 + ε_high)Â)] − c₁ L_VF + c₂ H, maximised."""
    ratio = likelihood_ratio(new.logp, batch.logp_old)
    policy = clipped_surrogate(ratio, batch.advantages, now.eps_low, now.eps_high, now.dual_clip)
    gain = policy - now.vf_coef * critic_loss(new, batch, now)
    if now.ent_coef > 0:
        gain = gain + now.ent_coef * new.entropy
    return token_mean(gain, batch.mask, total=batch.tokens)


def critic_loss(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """½(V − target)², without or with a bound on how far V may move from what it said when it collected."""
    if now.value_clip is None:
        return value_loss(new.values, batch.returns)
    if DIALECTS[now.numerics].value_clip == "max":
        return clipped_value_loss(new.values, batch.values_old, batch.returns, now.value_clip)
    near = batch.values_old + (new.values - batch.values_old).clamp(-now.value_clip, now.value_clip)
    return value_loss(near, batch.returns)


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains on an environment until its budget of steps is spent."""
    envs, policy, normalizer = prepare(target, settings, run)
    optimizer = FlatAdam(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps)
    run.keep(envs=envs, policy=policy, normalizer=normalizer, optimizer=optimizer)
    bounds = Bounds(envs.spaces.action, settings.action_bounds)
    say_rest(envs.num_envs * settings.num_steps, settings.minibatch_size, run)

    for update in run.updates(settings.steps):
        with run.phase("collect"):
            rollout = collect(envs, policy, normalizer, bounds, settings.num_steps, run.rng("actions"))
        now = schedule(settings, update, rollout.steps, optimizer)
        with run.phase("update"):
            advantages, returns = estimate(rollout, now.gamma, now.gae_lambda, now.critic_target)
            data = Batch.of(rollout, advantages, returns).single_steps()
            steps = []
            for batch in minibatches(data, now.epochs, now.minibatch_size, run.rng("minibatches")):
                steps.append(
                    ascend(policy, optimizer, objective, normalized(batch, now), now, accept=within_target_kl(now))
                )
                if not steps[-1].taken:
                    break
        run.log(describe(rollout, bounds) | statistics(data, steps, now), rollout, envs.finished_episodes())
    envs.close()
