"""Deep Q-networks (Mnih et al. 2015): Q-learning on remembered steps, toward a target that stands still.

No policy is learnt: the greedy action is argmax_a Q(s, a), and any step teaches Q, whoever took it and whenever. The
replay takes the steps out of their order, the target network keeps the target from running after its own estimate.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from advantage.adam import FusedAdam
from advantage.control.explore import epsilon, explore, rollout_of
from advantage.control.q_network import QNetwork, follow
from advantage.control.q_statistics import Step, q_statistics
from advantage.control.replay import Replay, Transitions, make_replay
from advantage.control.settings import ValueBased
from advantage.control.setup import prepare
from advantage.core import double_q_target, q_learning_target, value_loss
from advantage.runs.live import LiveRun
from advantage.settings import scheduled, setting
from advantage.update import Optimizer, descend, schedule


@dataclass(frozen=True)
class Settings(ValueBased):
    """DQN's own settings, beside those of all that learns action values from a replay."""

    loss: str = setting("huber", "of δ: ½δ² up to |δ| = 1, |δ| − ½ beyond; or ½δ²", choices=("huber", "squared"))
    target_update_every: int = setting(500, "steps between two updates of the target network", unit="steps", low=1)
    tau: float = setting(1.0, "share of the network in such an update: 1 copies it, less averages", above=0, high=1)


def objective(q: Tensor, y: Tensor, weights: Tensor | None, now: Settings) -> Tensor:
    """L = E[w ℓ(y − Q(s, a))], minimised; w = 1 where every transition is as likely to be drawn."""
    if weights is None:
        return smooth_l1_loss(q, y) if now.loss == "huber" else value_loss(q, y).mean()
    return (weights * (smooth_l1_loss(q, y, reduction="none") if now.loss == "huber" else value_loss(q, y))).mean()


@torch.no_grad()
def targets(drawn: Transitions, network: QNetwork, frozen: QNetwork, now: Settings) -> Tensor:
    """y = R + γ_t max_a Q̄(s', a), Q̄ the target network;   double: R + γ_t Q̄(s', argmax_a Q(s', a))."""
    next_q = frozen(drawn.following)
    if now.double:
        return double_q_target(drawn.returns, drawn.discounts, network(drawn.following), next_q)
    return q_learning_target(drawn.returns, drawn.discounts, next_q)


def learn(
    drawn: Transitions, network: QNetwork, frozen: QNetwork, optimizer: Optimizer, replay: Replay, now: Settings
) -> list[Step]:
    """An optimiser step down the loss for each minibatch of what was drawn together."""
    steps, size = [], now.minibatch_size
    for batch, y in zip(drawn.split(size), targets(drawn, network, frozen, now).split(size), strict=True):
        q = network(batch.context).gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
        loss = objective(q, y, batch.weights, now)
        norm = descend(optimizer, loss, now.max_grad_norm)
        steps.append(Step(q.detach(), y, loss.detach(), norm))
        replay.reweigh(batch.index, y - steps[-1].q)
    return steps


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains on an environment until its budget of steps is spent."""
    envs, network, normalizer = prepare(target, settings, run)
    frozen = deepcopy(network).requires_grad_(False)
    optimizer = FusedAdam(network, scheduled(settings.learning_rate, 1.0), settings.adam_eps)
    replay = make_replay(envs.context, normalizer, settings)
    run.keep(envs=envs, policy=network, target=frozen, normalizer=normalizer, optimizer=optimizer, replay=replay)

    for update in run.updates(settings.steps):
        coins, order = run.rng("actions"), run.rng("minibatches")
        taken, learnt, at = [], [], update
        while at.steps < min(update.steps + settings.log_every, update.total):
            with run.phase("collect"):
                rates = epsilon(settings, at, envs.num_envs)
                taken.append(explore(envs, network, normalizer, rates, coins))
                replay.add(taken[-1])
            before, at = at, replace(at, steps=at.steps + taken[-1].count)
            now = schedule(settings, before, taken[-1].count, optimizer)
            due = at.steps // now.target_update_every - before.steps // now.target_update_every
            follow(frozen, network, now.tau, due)
            if at.steps <= now.learning_starts or len(replay) == 0:
                continue
            with run.phase("update"):
                count = now.gradient_steps or taken[-1].count
                for drawn in replay.draw(count, order, before.remaining):
                    learnt += learn(drawn, network, frozen, optimizer, replay, now)
        rollout = rollout_of(taken, network, normalizer)  # its moments take these steps in for the next update
        counted = {"rollout/exploration_rate": rates[-1], "train/n_updates": optimizer.steps}
        run.log(counted | q_statistics(rollout, learnt, replay.largest, now), rollout, envs.finished_episodes())
    envs.close()
