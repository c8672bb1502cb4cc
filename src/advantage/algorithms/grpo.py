"""Group relative policy optimisation (Shao et al. 2024): PPO whose critic is the mean reward of a prompt's completions.

The loop is a row of named stages. A variant is a file that exchanges some of them and keeps the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from advantage.core import clipped_surrogate, group_advantages, kl_k3, likelihood_ratio, sequence_mean
from advantage.errors import RunFailed
from advantage.language.evaluation import hold_out
from advantage.language.generate import Samples, describe, kl_to_reference, prompts_of, watched
from advantage.language.rows import batch_of
from advantage.language.settings import Sampling
from advantage.language.setup import frozen, generator_of, gold_of, prepare, rewards_of
from advantage.runs.live import LiveRun
from advantage.settings import setting
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import ascend, minibatches, schedule, scored, statistics


@dataclass(frozen=True)
class Settings(Sampling):
    """GRPO's own settings, beside those of every algorithm that learns from its own samples."""

    advantage_eps: float = setting(1e-6, "ε beside the standard deviation of a group", low=0)
    kl_correction: bool = setting(False, "k3 weighted by ρ, so that it estimates KL(π‖π_ref) off policy too")


# --- the stages, as GRPO has them ---


def one_draw(draw: Callable[[], Samples], now: Settings) -> Samples:
    """The completions of one batch of prompts, whatever came of them."""
    return draw()


def as_scored(samples: Samples, now: Settings, longest: int) -> Tensor:
    """The rewards as they are."""
    return samples.rewards


def every_completion(rollout: Rollout, now: Settings) -> Tensor:
    """All that have a reward are trained on."""
    return rollout.mask


def standardised(rewards: Tensor, group: Tensor, valid: Tensor, now: Settings) -> Tensor:
    """Â = (r − mean of the group)/(std of the group + ε), for every token of a completion."""
    return group_advantages(rewards, group, valid=valid, eps=now.advantage_eps)


def token_ratio(logp: Tensor, logp_old: Tensor, mask: Tensor) -> Tensor:
    """ρ_t = exp(log π − log π_old), a token at a time."""
    return likelihood_ratio(logp, logp_old)


def clipped(ratio: Tensor, logp: Tensor, batch: Batch, now: Settings) -> Tensor:
    """min(ρÂ, clip(ρ, 1 − ε_low, 1 + ε_high)Â)."""
    return clipped_surrogate(ratio, batch.advantages, now.eps_low, now.eps_high)


def each_completion_alike(gain: Tensor, batch: Batch, now: Settings, longest: int) -> Tensor:
    """Mean over a completion's tokens, then over completions."""
    return sequence_mean(gain, batch.mask, total=batch.sequences)


@dataclass(frozen=True)
class Stages:
    """What a variant may exchange, in the order of the loop."""

    collect: Callable[..., Samples] = one_draw
    shape: Callable[..., Tensor] = as_scored
    keep: Callable[..., Tensor] = every_completion
    advantages: Callable[..., Tensor] = standardised
    ratio: Callable[..., Tensor] = token_ratio
    surrogate: Callable[..., Tensor] = clipped
    reduce: Callable[..., Tensor] = each_completion_alike


STAGES = Stages()


def objective(new: Evaluation, batch: Batch, now: Settings, stages: Stages = STAGES, longest: int = 1) -> Tensor:
    """J = E[min(ρÂ, clip(ρ, 1 − ε_low, 1 + ε_high)Â) − β k3(π‖π_ref)], maximised."""
    logp_old = new.logp.detach() if batch.logp_old is None else batch.logp_old
    ratio = stages.ratio(new.logp, logp_old, batch.mask)
    gain = stages.surrogate(ratio, new.logp, batch, now)
    if now.beta > 0:
        divergence = kl_k3(new.logp, batch.logp_ref)
        if now.kl_correction:
            divergence = likelihood_ratio(new.logp, logp_old) * divergence
        gain = gain - now.beta * divergence
    return stages.reduce(gain, batch, now, longest)


def train(target: Any, settings: Settings, run: LiveRun, stages: Stages = STAGES) -> None:
    """Trains a model on completions of its own until its budget of updates is spent."""
    workshop = prepare(target, settings, run, "prompt", temperature=settings.temperature)
    policy, tokenizer, optimizer, source, task = workshop
    reference = frozen(policy) if settings.beta > 0 else None
    generator = generator_of(workshop, settings, run)
    rewards, gold = rewards_of(settings, task), gold_of(settings, task)
    run.keep(policy=policy, optimizer=optimizer, source=source)
    hold_out(policy, tokenizer, task, settings, run)
    ascent = partial(objective, stages=stages, longest=generator.longest)
    off_policy = settings.epochs > 1 or settings.minibatch_size is not None

    drawn: list[int] = []

    def draw(step: int) -> Samples:
        drawn.append(step)
        with run.phase("generate"):
            samples = generator.draw(prompts_of(source, settings.batch_size, tokenizer), settings.num_generations, step)
        with run.phase("reward"):
            return samples.judged(rewards)  # ---- the reward seam ----

    for update in run.updates(settings.steps):
        now = schedule(settings, update, 0, optimizer)
        drawn.clear()
        samples = stages.collect(partial(draw, update.index), now)
        with run.phase("update"):
            rollout = samples.rollout()
            shaped = stages.shape(samples, now, generator.longest)
            rollout = rollout.replace(mask=stages.keep(rollout, now))
            if not rollout.mask.any():
                why = "all that have a reward were cut" if samples.valid.any() else "none has a reward"
                raise RunFailed(f"no completion is left to train on: {why}")
            advantages = stages.advantages(shaped, rollout.group, samples.valid, now)
            data = batch_of(rollout, advantages[:, None].expand(rollout.mask.shape))
            if off_policy:
                data = data.replace(logp_old=scored(policy, data, now).logp)
            if reference is not None:
                data = data.replace(logp_ref=scored(reference, data, now).logp)
            size = now.minibatch_size or len(data)
            parts = minibatches(data, now.epochs, size, run.rng("minibatches")) if off_policy else [data]
            steps = [ascend(policy, optimizer, ascent, batch, now) for batch in parts]
            rollout = rollout.replace(logp_old=data.logp_old, logp_ref=data.logp_ref)
        found = describe(samples) | watched(samples, gold) | {"completions/draws": float(len(drawn))}
        if reference is not None:
            first = steps[0]
            found["kl"] = kl_to_reference(first.new.logp, first.batch)
        run.log(found | statistics(data, steps, now, stages.ratio), rollout, samples=samples.texts_for_people())
