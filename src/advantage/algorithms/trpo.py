"""Trust region policy optimisation (Schulman et al. 2015). Read it beside ppo.py: where PPO takes many small steps
and clips, this takes one, measured in KL instead of in parameters: the natural gradient, then a line search.

The policy's step moves what the policy depends on, a trunk shared with the critic included; the critic's steps after
it move what the values alone depend on, so that they cannot carry the policy out of its trust region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advantage.adam import FlatAdam
from advantage.control.actions import Bounds
from advantage.control.collect import collect
from advantage.control.distributions import Bernoulli, Gaussian, constant
from advantage.control.policy import ActorCritic
from advantage.control.settings import OnPolicy
from advantage.control.setup import describe, prepare
from advantage.control.trust_region import move
from advantage.core import likelihood_ratio, surrogate, token_mean
from advantage.core.dialects import DIALECTS
from advantage.runs.live import LiveRun
from advantage.settings import Schedule, scheduled, setting
from advantage.trajectory import Batch, Evaluation
from advantage.update import ascend, critic_error, estimate, minibatches, normalized, schedule, statistics


@dataclass(frozen=True)
class Settings(OnPolicy):
    """TRPO's own settings, beside those of every on-policy algorithm. Its Adam and `micro_batch` are the critic's."""

    target_kl: Schedule = setting(0.01, "δ, the mean KL that a step of the policy may reach", unit="nats", above=0)
    step: str = setting("line_search", "whether the natural step is checked", choices=("line_search", "natural"))
    cg_iterations: int = setting(15, "Fisher-vector products of conjugate gradient at most", low=1)
    cg_damping: float = setting(0.1, "added to the diagonal of the Fisher matrix", low=0)
    line_search_tries: int = setting(10, "steps that the line search tries", low=1)
    line_search_shrink: float = setting(0.8, "factor between one try and the next", low=0.01, high=0.99)
    critic_epochs: int = setting(10, "passes of the critic over a rollout", low=1)
    minibatch_size: int = setting(128, "rows of one step of the critic", unit="steps", low=1)
    learning_rate: Schedule = setting(1e-3, "step size of the critic's Adam", low=0)


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = E[ρÂ] + c₂ H, maximised within KL(π_old‖π) ≤ δ. Its slope at π_old is the policy gradient."""
    gain = surrogate(likelihood_ratio(new.logp, batch.logp_old), batch.advantages)
    if now.ent_coef > 0:
        gain = gain + now.ent_coef * new.entropy
    return token_mean(gain, batch.mask, total=batch.tokens)


def mean_kl(old: Any, new: Any, batch: Batch, now: Settings) -> Tensor:
    """E[KL(π_old‖π)] over the rollout's states, exact, summed over the parts of an action."""
    dialect = DIALECTS[now.numerics]
    mean = token_mean(new.kl(old) if dialect.kl_reversed else old.kl(new), None)
    entries: int = batch.actions.shape[2:].numel() if isinstance(new, Gaussian | Bernoulli) else 1
    return mean / entries if dialect.kl_per_entry else mean


def critic_objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """−c₁ ½(V − target)², by steps of its own."""
    loss = critic_error(new, batch.returns)
    return -now.vf_coef * token_mean(loss, batch.mask, total=batch.tokens)


def policy_step(policy: ActorCritic, data: Batch, now: Settings, noise: Tensor | None = None) -> dict[str, float]:
    """The one step of an update; what came of it, as metrics. All rows take part at once."""
    with torch.no_grad():
        said = policy.evaluate(data)
    old = constant(said.distribution)

    def measure() -> tuple[Tensor, Tensor]:
        new = policy.evaluate(data)
        return objective(new, data, now), mean_kl(old, new.distribution, data, now)

    moved = move(list(policy.actor_parameters().values()), measure, now, noise)
    found = {
        "train/policy_objective": moved.gain,
        "train/policy_gradient_loss": -moved.gain,
        "train/kl_divergence_loss": moved.kl,
        "train/policy_gradient_norm": moved.gradient_norm,
        "train/first_ratio_error": float((said.logp - data.logp_old).expm1().abs().max()),
    }
    return found if now.step == "natural" else found | {"train/is_line_search_success": float(moved.taken)}


def search_noise(policy: ActorCritic, now: Settings, run: LiveRun) -> Tensor | None:
    """Where conjugate gradient begins: at 0, but for a dialect that begins beside it."""
    if (scale := DIALECTS[now.numerics].search_noise) == 0:
        return None
    size = sum(parameter.numel() for parameter in policy.actor_parameters().values())
    return scale * torch.from_numpy(run.rng("conjugate_gradient").standard_normal(size)).to(torch.get_default_dtype())


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains on an environment until its budget of steps is spent."""
    envs, policy, normalizer = prepare(target, settings, run)
    optimizer = FlatAdam(policy.critic_parameters(), scheduled(settings.learning_rate, 1.0), settings.adam_eps)
    run.keep(envs=envs, policy=policy, normalizer=normalizer, optimizer=optimizer)
    bounds = Bounds(envs.spaces.action, settings.action_bounds)

    for update in run.updates(settings.steps):
        with run.phase("collect"):
            rollout = collect(envs, policy, normalizer, bounds, settings.num_steps, run.rng("actions"))
        now = schedule(settings, update, rollout.steps, optimizer)
        with run.phase("update"):
            advantages, returns = estimate(rollout, now.gamma, now.gae_lambda, now.critic_target)
            data = Batch.of(rollout, advantages, returns).single_steps()
            moved = policy_step(policy, normalized(data, now), now, search_noise(policy, now, run))
            batches = minibatches(data, now.critic_epochs, now.minibatch_size, run.rng("minibatches"))
            steps = [ascend(policy, optimizer, critic_objective, batch, now) for batch in batches]
        found = statistics(data, steps, now)
        moved["train/loss"] = moved["train/policy_gradient_loss"] + found["train/loss"]
        run.log(describe(rollout, bounds) | found | moved, rollout, envs.finished_episodes())
    envs.close()
