"""Advantage actor-critic in step (Mnih et al. 2016, without the asynchrony): many environments, one batch.

What is new beside actor_critic_td.py: the gradient is averaged over E environments in different moments of their
episodes, advantages are normalised over all E × T steps, and λ mixes all n-step advantages (λ = 1: as many rewards as
the rollout has).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from advantage.control.actions import Bounds
from advantage.control.collect import collect
from advantage.control.settings import OnPolicy
from advantage.control.setup import describe, prepare
from advantage.core import policy_gradient, token_mean, value_loss
from advantage.rmsprop import OPTIMIZERS
from advantage.runs.live import LiveRun
from advantage.settings import Schedule, scheduled, setting
from advantage.trajectory import Batch, Evaluation
from advantage.update import ascend, estimate, normalized, schedule, statistics


@dataclass(frozen=True)
class Settings(OnPolicy):
    """A2C's own settings, beside those of every on-policy algorithm."""

    record_every: int = setting(20, "updates from one row of metrics to the next", low=1)
    num_steps: int = setting(5, "steps of each environment in a rollout", low=1)
    gae_lambda: float = setting(1.0, "λ of GAE: 0 believes the critic, 1 the returns", low=0, high=1)
    learning_rate: Schedule = setting("lin_7e-4", "step size of the optimiser", low=0)
    optimizer: str = setting(
        "rmsprop", "torch's RMSprop, TensorFlow's (ε under the root), Adam", choices=(*OPTIMIZERS,)
    )
    rms_alpha: float = setting(0.99, "decay α of RMSprop's mean square", low=0, high=1)


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = E[Â log π(a|s)] − c₁ L_VF + c₂ H, maximised."""
    gain = policy_gradient(new.logp, batch.advantages) - now.vf_coef * value_loss(new.values, batch.returns)
    if now.ent_coef > 0:
        gain = gain + now.ent_coef * new.entropy
    return token_mean(gain, batch.mask, total=batch.tokens)


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains on an environment until its budget of steps is spent."""
    envs, policy, normalizer = prepare(target, settings, run)
    make = OPTIMIZERS[settings.optimizer]
    optimizer = make(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps, settings.rms_alpha)
    run.keep(envs=envs, policy=policy, normalizer=normalizer, optimizer=optimizer)
    bounds = Bounds(envs.spaces.action, settings.action_bounds)

    for update in run.updates(settings.steps):
        with run.phase("collect"):
            rollout = collect(envs, policy, normalizer, bounds, settings.num_steps, run.rng("actions"), logp=False)
        now = schedule(settings, update, rollout.steps, optimizer)
        with run.phase("update"):
            advantages, returns = estimate(rollout, now.gamma, now.gae_lambda, now.critic_target)
            data = Batch.of(rollout, advantages, returns).single_steps()
            step = ascend(policy, optimizer, objective, normalized(data, now), now)
        found = describe(rollout, bounds) | statistics(data, [step], now) if run.due else {}
        run.log(found, rollout, envs.finished_episodes())
    envs.close()
