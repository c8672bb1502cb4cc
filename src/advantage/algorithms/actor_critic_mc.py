"""Actor-critic, Monte Carlo: REINFORCE whose return is measured against what was expected, on normalised scales.

What is new beside reinforce.py: a critic that is fitted to returns of mean 0 and std 1, so that no environment's
rewards are too large for it; and advantages normalised once more. The mean of earlier episodes is the other baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advantage.adam import FlatAdam
from advantage.control.actions import Bounds
from advantage.control.baselines import EarlierReturns, ReturnScale, measured
from advantage.control.collect import collect_episodes
from advantage.control.settings import Episodic
from advantage.control.setup import describe, prepare
from advantage.core import fixed_length_mean, policy_gradient, standardize, value_loss
from advantage.core.dialects import DIALECTS
from advantage.runs.live import LiveRun
from advantage.settings import scheduled, setting
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import ascend, normalized, returns_to_go, schedule, statistics


@dataclass(frozen=True)
class Settings(Episodic):
    """Monte Carlo actor-critic's own settings, beside those of every algorithm of whole episodes."""

    baseline: str = setting("value", "what is subtracted from the return", choices=("running_mean", "value"))
    normalize_returns: bool = setting(True, "the critic's targets to mean 0, std 1 over the batch")


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = mean over episodes of Σ_t Ψ_t log π(a_t|s_t) − c₁ L_VF + c₂ H, maximised."""
    gain = policy_gradient(new.logp, batch.advantages)
    if batch.returns is not None:
        gain = gain - now.vf_coef * value_loss(new.values, batch.returns)
    if now.ent_coef > 0:
        gain = gain + now.ent_coef * new.entropy
    return fixed_length_mean(gain, batch.mask, length=1, total=batch.sequences)


def credit(rollout: Rollout, now: Settings) -> tuple[Tensor, Tensor]:
    """Ψ_t = G_t − V(s_t), and the critic's target G_t, both in the units that the critic speaks in."""
    returns = returns_to_go(rollout, now.gamma)
    if now.normalize_returns and now.baseline == "value":
        returns = standardize(returns, rollout.mask, ddof=DIALECTS[now.numerics].advantage_ddof)
    psi = returns - rollout.values
    if now.discount_from_start:
        psi = psi * now.gamma ** torch.arange(psi.shape[1], dtype=psi.dtype)
    return psi, returns


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains on an environment until its budget of steps is spent."""
    envs, policy, normalizer = prepare(target, settings, run)
    optimizer, earlier = FlatAdam(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps), EarlierReturns()
    scale = ReturnScale()
    run.keep(envs=envs, policy=policy, normalizer=normalizer, optimizer=optimizer, earlier=earlier, scale=scale)
    bounds = Bounds(envs.spaces.action, settings.action_bounds)

    for update in run.updates(settings.steps):
        with run.phase("collect"):
            rollout = collect_episodes(envs, policy, normalizer, bounds, settings.episodes, run.rng("actions"))
            rollout = measured(scale.in_rewards(rollout), settings.baseline, earlier)
        now = schedule(settings, update, envs.steps - update.steps, optimizer)
        with run.phase("update"):
            psi, returns = credit(rollout, now)
            targets = returns if settings.baseline == "value" else None
            data = Batch.of(rollout, psi, targets).single_steps().replace(sequences=settings.episodes)
            step = ascend(policy, optimizer, objective, normalized(data, now), now)
            raw = returns_to_go(rollout, now.gamma)
            earlier.learn(raw)
            if settings.normalize_returns:
                scale.learn(raw[rollout.mask])
        found = describe(rollout, bounds) | statistics(data, [step], now) if run.due else {}
        run.log(found, rollout, envs.finished_episodes(), steps=envs.steps - update.steps)
    envs.close()
