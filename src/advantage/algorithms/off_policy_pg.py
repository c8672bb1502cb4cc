"""Off-policy policy gradient (Degris et al. 2012; Precup et al. 2000): learns from a log that another policy μ wrote.

The log is collected once, whole episodes of it, and never again: an update weighs a few of its episodes by how likely
π is to do what μ did. A weight π/μ a step corrects the action and leaves the states those of μ; the product along the
episode corrects both, and its variance grows with every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advantage.adam import FlatAdam
from advantage.control.actions import Bounds
from advantage.control.behaviour import behaviour_of
from advantage.control.logs import normalized, recorded_log, said_now, some_episodes, support
from advantage.control.settings import OnPolicy
from advantage.control.setup import describe, prepare
from advantage.core import (
    discounts,
    fixed_length_mean,
    gae,
    policy_gradient,
    standardize,
    td_residual,
    traces,
)
from advantage.runs.live import LiveRun
from advantage.settings import Schedule, scheduled, setting
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import ascend, critic_error, schedule, statistics


@dataclass(frozen=True)
class Settings(OnPolicy):
    """Its own settings, beside those of every on-policy algorithm. `steps` counts the log's decisions as often as they
    are learnt from; `num_steps` has no meaning here.
    """

    behaviour: str = setting("uniform", "who acts in the log: uniform, or a run's directory")
    log_episodes: int = setting(1000, "episodes of the log", low=1)
    batch_episodes: int = setting(64, "episodes of the log in an update, drawn anew for each", low=1)
    weights: str = setting("step", "what weighs a step: its own ratio, the product up to it, or that of its whole"
                           " episode", choices=("step", "decision", "trajectory"))  # fmt: skip
    weight_cap: float | None = setting(10.0, "a larger weight is truncated to this; none for none", above=0)
    trace_cap: float = setting(1.0, "a larger ratio is truncated to this in the advantage's recursion", above=0)
    discount_from_start: bool = setting(False, "γᵗ before the term of step t, as ∇J has it")
    learning_rate: Schedule = setting("lin_1e-3", "step size of Adam", low=0)


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = mean over episodes of Σ_t [w_t Â_t log π(a_t|s_t) − c₁ ½(V − target)² + c₂ H], maximised; w is a constant."""
    weight = truncated(log_weights(new.logp.detach(), batch, now), now)
    gain = weight * policy_gradient(new.logp, batch.advantages)
    gain = gain - now.vf_coef * critic_error(new, batch.returns)
    if now.ent_coef > 0:
        gain = gain + now.ent_coef * new.entropy
    return fixed_length_mean(gain, batch.mask, length=1, total=batch.sequences)


def log_weights(logp: Tensor, batch: Batch, now: Settings) -> Tensor:
    """log of π/μ of the step, of all steps up to it, or of the whole episode."""
    assert batch.mask is not None
    ratio: Tensor = (logp - batch.logp_sampler).masked_fill(~batch.mask, 0.0)
    if now.weights == "decision":
        ratio = ratio.cumsum(-1)
    elif now.weights == "trajectory":
        ratio = ratio.sum(-1, keepdim=True).expand(ratio.shape)
    return ratio


def truncated(log_weight: Tensor, now: Settings) -> Tensor:
    """min(w, cap), then γᵗ: an episode begins where its row does."""
    weight = log_weight.exp() if now.weight_cap is None else log_weight.exp().clamp(max=now.weight_cap)
    if now.discount_from_start:
        weight = weight * now.gamma ** torch.arange(weight.shape[-1], dtype=weight.dtype)
    return weight


def estimated(rollout: Rollout, now: Settings) -> tuple[Tensor, Tensor]:
    """Advantages of π from what μ did, and the critic's targets, with c = min(π/μ, cap).

        Â_t = δ_t + γ_t λ_t c_{t+1} Â_{t+1};   target V(s_t) + c_t Â_t

    Where whole episodes are weighed, their product already stands for every c in Â. Without caps and at λ = 1, E_μ[Â]
    is A of π up to a baseline, Q^π(s, a) − V(s), whatever the critic says.

    Source: Munos et al. 2016; Espeholt et al. 2018, equation 1.
    """
    factors = discounts(rollout.terminated, now.gamma, rollout.rewards.dtype)
    delta = td_residual(rollout.rewards, rollout.values, rollout.next_values, factors)
    plain = traces(rollout.cut, now.gae_lambda, delta.dtype)
    ratio = (rollout.logp_old - rollout.logp_sampler).masked_fill(~rollout.mask, 0.0).exp().clamp(max=now.trace_cap)
    corrected = gae(delta, factors, plain * torch.cat([ratio[:, 1:], torch.ones_like(ratio[:, :1])], -1))
    advantages = gae(delta, factors, plain) if now.weights == "trajectory" else corrected
    return advantages, rollout.values + ratio * corrected


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains on a log of an environment until its decisions have been used as often as the budget says."""
    envs, policy, normalizer = prepare(target, settings, run)
    bounds = Bounds(envs.spaces.action, settings.action_bounds)
    behaviour = behaviour_of(settings.behaviour, envs.spaces.observation, envs.spaces.action, settings)
    raw = recorded_log(envs, behaviour, bounds, settings.log_episodes, settings, run)
    log, about = normalized(raw, policy, normalizer)
    optimizer = FlatAdam(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps)
    run.keep(policy=policy, normalizer=normalizer, optimizer=optimizer)
    envs.close()

    for update in run.updates(settings.steps):
        rollout = said_now(policy, some_episodes(log, settings.batch_episodes, run.rng("minibatches")))
        now = schedule(settings, update, rollout.steps, optimizer)
        with run.phase("update"):
            data = Batch.of(rollout, *estimated(rollout, now))
            batch = data
            if now.normalize_advantages:
                batch = data.replace(advantages=standardize(data.advantages, data.mask))
            step = ascend(policy, optimizer, objective, batch, now)
        weights = log_weights(batch.logp_old, batch, now)
        found = statistics(data, [step], now) | support(batch, weights, truncated(weights, now), now.weight_cap)
        run.log(describe(rollout, bounds) | about | found, rollout, ())
