"""A log of episodes that a behaviour policy has played: collected once, kept in the run's directory, drawn from."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from advantage.control.actions import Bounds
from advantage.control.behaviour import Behaviour
from advantage.control.collect import collect_log
from advantage.control.environments import Envs
from advantage.control.layers import learn_moments, settle_moments
from advantage.control.normalization import Normalizer
from advantage.control.policy import ActorCritic
from advantage.control.settings import Control
from advantage.core import token_mean
from advantage.runs import saved
from advantage.runs.live import LiveRun
from advantage.trajectory import Batch, Policy, Rollout, tree_map

FOLDER = "log"
_LARGEST = 80.0  # e⁸⁰ is still a float32


def recorded_log(
    envs: Envs, behaviour: Behaviour, bounds: Bounds, episodes: int, settings: Control, run: LiveRun
) -> Rollout:
    """Whole episodes of a behaviour policy in raw observations and rewards, `logp_sampler` its log-probabilities.

    A resumed run reads them from its directory: the behaviour's own run may have gone on meanwhile.

    Args:
        envs: where they are played, under the stream "behaviour".
        behaviour: who acts.
        bounds: how raw actions meet their boxes.
        episodes: how many, ≥ 1.
        settings: of the learner.
        run: whose they are.
    """
    folder = run.path / FOLDER
    if (folder / saved.ROLLOUT).exists():
        return Rollout(**saved.read_rollout(folder)[0])
    plain = dataclasses.replace(settings, normalize_observations=False, normalize_rewards=False)
    unchanged = Normalizer(envs.spaces.observation, envs.num_envs, plain)
    rng = np.random.default_rng(run.seed("behaviour"))
    rollout = collect_log(envs, behaviour, unchanged, bounds, episodes, rng)
    rollout = rollout.replace(logp_sampler=rollout.logp_old, logp_old=None, values=None, next_values=None)
    saved.write_rollout(folder, rollout, {"episodes": episodes})
    return rollout


def normalized(log: Rollout, policy: ActorCritic, normalizer: Normalizer) -> tuple[Rollout, dict[str, float]]:
    """The log as the learner sees it, by moments that are taken over all of it once; its mean return and length."""
    assert log.rewards is not None
    lengths, returns = log.mask.sum(-1), (log.rewards * log.mask).sum(-1)
    about = {"log/ep_rew_mean": float(returns.mean()), "log/ep_len_mean": float(lengths.float().mean())}
    raw = tree_map(lambda leaf: leaf.numpy(), log.context["observation"])
    normalizer.learn_observations(raw, log.mask.numpy())
    seen = tree_map(torch.from_numpy, normalizer.observe(raw))
    columns = (log.rewards.double(), log.terminated, log.truncated, log.mask)
    normalizer.sums = np.zeros(len(lengths))
    paid = normalizer.scale_rewards(*(column.numpy().T for column in columns)).T
    rewards = torch.from_numpy(np.ascontiguousarray(paid)).to(log.rewards.dtype)
    log = log.replace(context=log.context | {"observation": seen}, rewards=rewards)
    learn_moments(policy, log)
    settle_moments(policy)
    return log, about


def some_episodes(log: Rollout, count: int, rng: np.random.Generator) -> Rollout:
    """Other episodes each time, no longer than their longest needs; all of them, in order, where they are fewer."""
    streams = len(log.mask)
    index = torch.arange(streams) if count >= streams else torch.from_numpy(rng.choice(streams, count, replace=False))
    longest = int(log.mask[index].sum(-1).max()) + 1
    fields = {field.name: getattr(log, field.name) for field in dataclasses.fields(log)}
    return Rollout(**tree_map(lambda leaf: None if leaf is None else leaf[index, :longest], fields))


def said_now(policy: Policy, rollout: Rollout) -> Rollout:
    """The episodes with what a policy and its critic say about them; row t + 1 of a log shows what followed step t."""
    with torch.no_grad():
        said = policy.evaluate(Batch.of(rollout))
    assert said.values is not None
    following = torch.cat([said.values[:, 1:], torch.zeros_like(said.values[:, :1])], -1)
    return rollout.replace(logp_old=said.logp, values=said.values, next_values=following)


def support(batch: Batch, log_weights: Tensor, used: Tensor, cap: float | None) -> dict[str, float]:
    """How much of a log speaks for the present policy, by Kish's effective sample size as a share of its decisions.

        (Σ w)² / (n Σ w²),   1 where all weights are equal, 1/n where a single one decides

    Args:
        batch: of the log, with advantages.
        log_weights: log w of each step, (rows, time); summed as logarithms, so that no product is too large.
        used: the weights as the objective has them, truncated.
        cap: where they are truncated; None where they are not.
    """
    mask = batch.mask
    assert mask is not None
    each, count = log_weights[mask], math.log(int(mask.sum()))
    total = each.logsumexp(0)
    share = (2.0 * total - (2.0 * each).logsumexp(0) - count).exp()
    return {
        "train/policy_gradient_loss": -float(token_mean(used * batch.advantages, mask)),
        "train/effective_sample_size": float(share),
        "train/truncated_weights": 0.0 if cap is None else float((each > math.log(cap)).float().mean()),
        "train/weight_mean": float((total - count).clamp(max=_LARGEST).exp()),
    }
