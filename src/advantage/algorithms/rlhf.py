"""RLHF by PPO (Ziegler et al. 2019; Ouyang et al. 2022): control's PPO, with a text for an episode.

Four phases: set up (actor, reference, critic, reward), generate, score (reward − β·KL a token, values, GAE), optimise.
With a verifier in the place of a reward model it is RLVR with a critic: the reward call is all that differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advantage.core import (
    clipped_surrogate,
    clipped_value_loss,
    kl_reward,
    likelihood_ratio,
    standardize,
    terminal_reward,
    token_mean,
)
from advantage.errors import RunFailed, UserError
from advantage.language.evaluation import hold_out
from advantage.language.generate import Samples, describe, kl_to_reference, prompts_of, watched
from advantage.language.rows import batch_of, ragged
from advantage.language.settings import Sampling
from advantage.language.setup import CriticAlone, frozen, generator_of, gold_of, prepare, rewards_of
from advantage.runs.live import LiveRun
from advantage.settings import setting
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import ascend, estimate, minibatches, schedule, scored, statistics, within_target_kl


@dataclass(frozen=True)
class Settings(Sampling):
    """RLHF's own settings, beside those of every algorithm that learns from its own samples."""

    batch_size: int = setting(64, "prompts of an update", low=1)
    num_generations: int = setting(1, "completions of a prompt", low=1)
    epochs: int = setting(2, "passes over the sampled completions", low=1)
    minibatch_size: int | None = setting(32, "completions of one optimiser step; none for all", low=1)
    critic: str = setting(
        "head",
        "V on the actor's hidden states, or a model of its own, begun as",
        choices=("head", "copy", "reward_model"),
    )
    critic_warmup: int = setting(0, "updates in which the critic alone learns", low=0)
    gamma: float = setting(1.0, "discount γ", low=0, high=1)
    gae_lambda: float = setting(0.95, "λ of GAE: 0 believes the critic, 1 the returns", low=0, high=1)
    vf_coef: float = setting(0.2, "weight of ½·error² of the critic", low=0)
    value_clip: float = setting(0.2, "bound on the critic's step away from its rollout values", above=0)
    beta: float = setting(0.05, "price β of leaving the reference model, reward per nat", low=0)
    kl_estimator: str = setting("k1", "of the price's KL", choices=("k1", "k2", "k3"))
    kl_target: float | None = setting(None, "KL that β is adapted to; none keeps β", unit="nats", above=0)
    kl_horizon: int = setting(10_000, "completions over which β adapts", low=1)
    sft_data: str = setting("", "answers to train on first, in RUN/sft; also by --sft-data")
    sft: dict[str, Any] = setting({}, "settings of that training, as sft.steps=100")
    pairs: str = setting("", "pairs to train the reward model from, in RUN/reward_model; also by --pairs")
    reward_model: dict[str, Any] = setting({}, "settings of that training, as reward_model.steps=100")
    target_kl: float | None = setting(None, "stop an update once the KL passes 1.5 times this; none never", above=0)

    def __post_init__(self) -> None:
        """Refuses a price that cannot be adapted."""
        if self.kl_target is not None and self.beta == 0:
            raise UserError("beta is 0, which kl_target multiplies and so never moves; begin with a beta above 0")


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = E[min(ρÂ, clip(ρ, 1 − ε_low, 1 + ε_high)Â)] − c₁ L_VF, maximised."""
    ratio = likelihood_ratio(new.logp, batch.logp_old)
    policy = clipped_surrogate(ratio, batch.advantages, now.eps_low, now.eps_high)
    critic = clipped_value_loss(new.values, batch.values_old, batch.returns, now.value_clip)
    return token_mean(policy - now.vf_coef * critic, batch.mask, total=batch.tokens)


def critic_alone(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = −c₁ L_VF: while the critic knows nothing, its advantages would teach the actor noise."""
    critic = clipped_value_loss(new.values, batch.values_old, batch.returns, now.value_clip)
    return -now.vf_coef * token_mean(critic, batch.mask, total=batch.tokens)


class Price:
    """β, adapted so that the KL to the reference stays near a target.

        β ← β (1 + clip(KL/target − 1, ±0.2) n/horizon)

    Source: Ziegler et al. 2019, section 2.2.
    """

    def __init__(self, settings: Settings) -> None:
        self.beta, self._target, self._horizon = settings.beta, settings.kl_target, settings.kl_horizon

    def adapt(self, kl: float, completions: int) -> None:
        if self._target is not None:
            self.beta *= 1.0 + min(max(kl / self._target - 1.0, -0.2), 0.2) * completions / self._horizon

    def state(self) -> dict[str, float]:
        return {"beta": self.beta}

    def restore(self, state: dict[str, float]) -> None:
        self.beta = float(state["beta"])


def priced(rollout: Rollout, samples: Samples, now: Settings) -> Rollout:
    """The reward seam: the score on a completion's last token (or what each token earned), less β·KL on each."""
    tokens = samples.scored.token_rewards if samples.scored else None
    scores = terminal_reward(samples.rewards, rollout.mask) if tokens is None else ragged(tokens, rollout.mask.shape[1])
    price = kl_reward(rollout.logp_old, rollout.logp_ref, now.beta, rollout.mask, now.kl_estimator)
    return rollout.replace(rewards=scores.masked_fill(~rollout.mask, 0.0) + price)


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains a model on completions of its own, with a critic, until its budget of updates is spent."""
    workshop = prepare(target, settings, run, "prompt", temperature=settings.temperature, critic=settings.critic)
    policy, tokenizer, optimizer, source, task = workshop
    reference, price = frozen(policy), Price(settings)
    generator = generator_of(workshop, settings, run)
    rewards, gold = rewards_of(settings, task), gold_of(settings, task)
    run.keep(policy=policy, optimizer=optimizer, source=source, price=price)
    hold_out(policy, tokenizer, task, settings, run)

    for update in run.updates(settings.steps):
        now = replace(schedule(settings, update, 0, optimizer), beta=price.beta)
        with run.phase("generate"):
            prompts = prompts_of(source, now.batch_size, tokenizer)
            samples = generator.draw(prompts, now.num_generations, update.index)
        with run.phase("score"):
            samples = samples.judged(rewards)
            rollout = said(policy, reference, samples.rollout(), now)
            rollout = priced(rollout, samples, now)  # ---- the reward seam ----
            advantages, returns = estimate(rollout, now.gamma, now.gae_lambda)
        with run.phase("update"):
            data, steps = batch_of(rollout, standardize(advantages, rollout.mask), returns), []
            warming = update.index < now.critic_warmup
            function, learner = (critic_alone, CriticAlone(policy)) if warming else (objective, policy)
            for batch in minibatches(data, now.epochs, now.minibatch_size or len(data), run.rng("minibatches")):
                steps.append(ascend(learner, optimizer, function, batch, now, accept=within_target_kl(now)))
                if not steps[-1].taken:
                    break
        kl = kl_to_reference(rollout.logp_old, data)
        price.adapt(kl, len(samples.completions))
        found = describe(samples) | watched(samples, gold) | {"kl": kl, "train/beta": now.beta}
        raw = data.replace(advantages=advantages)
        run.log(found | statistics(raw, steps, now), rollout, samples=samples.texts_for_people())


def said(policy: Any, reference: Any, rollout: Rollout, now: Settings) -> Rollout:
    """What actor, critic and reference say of every token, before the update; V is 0 behind a completion's end."""
    if not rollout.mask.any():
        raise RunFailed("no completion has a reward: there is nothing to train on")
    data = batch_of(rollout)
    own, its = scored(policy, data, now), scored(reference, data, now)
    assert own.values is not None
    following = torch.cat([own.values[:, 1:], torch.zeros_like(own.values[:, :1])], -1)
    return rollout.replace(logp_old=own.logp, values=own.values, next_values=following, logp_ref=its.logp)
