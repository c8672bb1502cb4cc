"""REINFORCE (Williams 1992): play whole episodes, then make each action more probable by what came of it.

The first rung of the ladder. What an action is weighted by, Ψ_t, is a choice: the return of its whole episode R(τ), or
from the action on G_t; less nothing, less the mean of earlier episodes, or less a critic's V(s_t).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advantage.adam import FlatAdam
from advantage.control.actions import Bounds
from advantage.control.baselines import EarlierReturns, measured
from advantage.control.collect import collect_episodes
from advantage.control.settings import Episodic
from advantage.control.setup import describe, prepare
from advantage.core import fixed_length_mean, policy_gradient, value_loss
from advantage.errors import UserError
from advantage.runs.live import LiveRun
from advantage.settings import scheduled, setting
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import ascend, normalized, returns_to_go, schedule, statistics


@dataclass(frozen=True)
class Settings(Episodic):
    """REINFORCE's own settings, beside those of every algorithm of whole episodes."""

    psi: str = setting("reward_to_go", "what an action is weighted by", choices=("trajectory", "reward_to_go"))
    baseline: str = setting("none", "what is subtracted from it", choices=("none", "running_mean", "value"))
    normalize_advantages: bool = setting(False, "Ψ to mean 0, std 1 over the batch, a baseline and a scale of its own")

    def __post_init__(self) -> None:
        """Refuses γ^t in front of R(τ), whose terms carry their discount already."""
        if self.psi == "trajectory" and self.discount_from_start:
            raise UserError("discount_from_start is true; the gradient by R(τ) has no γ^t: give psi=reward_to_go")


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = mean over episodes of Σ_t Ψ_t log π(a_t|s_t) − c₁ L_VF + c₂ H, maximised."""
    gain = policy_gradient(new.logp, batch.advantages)
    if batch.returns is not None:
        gain = gain - now.vf_coef * value_loss(new.values, batch.returns)
    if now.ent_coef > 0:
        gain = gain + now.ent_coef * new.entropy
    return fixed_length_mean(gain, batch.mask, length=1, total=batch.sequences)


def credit(rollout: Rollout, now: Settings) -> tuple[Tensor, Tensor]:
    """Ψ_t, which is R(τ) or G_t less what the rollout has for values, and the critic's target G_t."""
    returns = returns_to_go(rollout, now.gamma)
    psi = returns[:, :1].expand_as(returns) if now.psi == "trajectory" else returns
    if rollout.values is not None:
        psi = psi - rollout.values
    if now.discount_from_start:
        psi = psi * now.gamma ** torch.arange(psi.shape[1], dtype=psi.dtype)
    return psi, returns


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains on an environment until its budget of steps is spent."""
    envs, policy, normalizer = prepare(target, settings, run)
    optimizer, earlier = FlatAdam(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps), EarlierReturns()
    run.keep(envs=envs, policy=policy, normalizer=normalizer, optimizer=optimizer, earlier=earlier)
    bounds = Bounds(envs.spaces.action, settings.action_bounds)

    for update in run.updates(settings.steps):
        with run.phase("collect"):
            rollout = collect_episodes(envs, policy, normalizer, bounds, settings.episodes, run.rng("actions"))
            rollout = measured(rollout, settings.baseline, earlier)
        now = schedule(settings, update, envs.steps - update.steps, optimizer)
        with run.phase("update"):
            psi, returns = credit(rollout, now)
            targets = returns if settings.baseline == "value" else None
            data = Batch.of(rollout, psi, targets).single_steps().replace(sequences=settings.episodes)
            step = ascend(policy, optimizer, objective, normalized(data, now), now)
            earlier.learn(returns)
        found = describe(rollout, bounds) | statistics(data, [step], now) if run.due else {}
        run.log(found, rollout, envs.finished_episodes(), steps=envs.steps - update.steps)
    envs.close()
