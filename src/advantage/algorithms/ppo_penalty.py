"""PPO with a penalty in the place of the clip (Schulman et al. 2017, section 4).

What is new beside a2c.py: a rollout is used more than once, by importance ratios, and every step away from the policy
that collected it is paid for, by the KL. Its price β doubles where an update went too far and halves where it stayed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advantage.adam import FlatAdam
from advantage.control.actions import Bounds
from advantage.control.collect import collect
from advantage.control.settings import Minibatched
from advantage.control.setup import describe, prepare, say_rest
from advantage.core import likelihood_ratio, surrogate, token_mean
from advantage.runs.live import LiveRun
from advantage.settings import scheduled, setting
from advantage.trajectory import Batch, Evaluation
from advantage.update import ascend, critic_error, estimate, minibatches, normalized, schedule, statistics


@dataclass(frozen=True)
class Settings(Minibatched):
    """The penalty's own settings, beside those of every algorithm that uses a rollout more than once."""

    beta: float = setting(1.0, "price β of the KL in the first update, advantage per nat", above=0)
    target_kl: float = setting(0.01, "KL of an update that β is adapted to", unit="nats", above=0)


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = E[ρÂ − β KL(π_old‖π)] − c₁ L_VF + c₂ H, maximised."""
    ratio = likelihood_ratio(new.logp, batch.logp_old)
    gain = surrogate(ratio, batch.advantages) - now.vf_coef * critic_error(new, batch.returns)
    if new.kl is not None:
        gain = gain - now.beta * new.kl
    if now.ent_coef > 0:
        gain = gain + now.ent_coef * new.entropy
    return token_mean(gain, batch.mask, total=batch.tokens)


class Anchored:
    """The policy, which says of each decision besides how far it has moved: the exact KL(π_old‖π)."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.old = policy, copy.deepcopy(policy).requires_grad_(False)

    def drop(self) -> None:
        """The policy as it is now is the old one from here on."""
        self.old.load_state_dict(self.policy.state_dict())

    def evaluate(self, batch: Batch) -> Evaluation:
        """As the policy's, with `kl`."""
        new: Evaluation = self.policy.evaluate(batch)
        old = self.old.evaluate(batch)
        return replace(new, kl=old.distribution.kl(new.distribution).view(new.logp.shape))

    @torch.no_grad()
    def moved(self, data: Batch) -> float:
        """The mean KL over a batch."""
        return float(token_mean(self.evaluate(data).kl, data.mask))


class Price:
    """β: half as much where KL < d_target/1.5, twice as much where KL > 1.5 d_target.

    It stays within a millionth and a million times the first: no doubling would leave the 0 that quiet updates end at.
    """

    def __init__(self, settings: Settings) -> None:
        self.beta, self.target = settings.beta, settings.target_kl
        self._least, self._most = 1e-6 * settings.beta, 1e6 * settings.beta

    def adapt(self, kl: float) -> None:
        """By the KL of an update."""
        factor = 0.5 if kl < self.target / 1.5 else 2.0 if kl > self.target * 1.5 else 1.0
        self.beta = min(max(factor * self.beta, self._least), self._most)

    def state(self) -> dict[str, float]:
        """β."""
        return {"beta": self.beta}

    def restore(self, state: dict[str, float]) -> None:
        """Takes back what `state` gave."""
        self.beta = float(state["beta"])


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains on an environment until its budget of steps is spent."""
    envs, policy, normalizer = prepare(target, settings, run)
    optimizer = FlatAdam(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps)
    anchored, price = Anchored(policy), Price(settings)
    run.keep(envs=envs, policy=policy, normalizer=normalizer, optimizer=optimizer, price=price)
    bounds = Bounds(envs.spaces.action, settings.action_bounds)
    say_rest(envs.num_envs * settings.num_steps, settings.minibatch_size, run)

    for update in run.updates(settings.steps):
        with run.phase("collect"):
            rollout = collect(envs, policy, normalizer, bounds, settings.num_steps, run.rng("actions"))
        now = replace(schedule(settings, update, rollout.steps, optimizer), beta=price.beta)
        with run.phase("update"):
            anchored.drop()
            advantages, returns = estimate(rollout, now.gamma, now.gae_lambda, now.critic_target)
            data = Batch.of(rollout, advantages, returns).single_steps()
            steps = [
                ascend(anchored, optimizer, objective, normalized(batch, now), now)
                for batch in minibatches(data, now.epochs, now.minibatch_size, run.rng("minibatches"))
            ]
            kl = anchored.moved(data)
            price.adapt(kl)
        found = describe(rollout, bounds) | statistics(data, steps, now) | {"train/kl": kl, "train/beta": now.beta}
        run.log(found, rollout, envs.finished_episodes())
    envs.close()
