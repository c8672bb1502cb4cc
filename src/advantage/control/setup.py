"""What every control algorithm begins with: environments, a network, running moments, and held-out evaluation."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from gymnasium.spaces.utils import flatdim

from advantage.control.actions import Bounds, bounds_of
from advantage.control.drift import Drift
from advantage.control.environments import Envs, make_envs
from advantage.control.evaluation import Score, evaluate
from advantage.control.failures import in_memory
from advantage.control.normalization import Normalizer
from advantage.control.policy import make_policy
from advantage.control.q_network import make_q_network
from advantage.control.settings import Environments, ValueBased
from advantage.control.space_trees import Spaces, parts
from advantage.errors import UserError
from advantage.runs.live import LiveRun
from advantage.trajectory import Policy, Rollout, tree_map


class Workshop(NamedTuple):
    """Environments in mid-episode, the network that acts in them, and the moments that it sees them through.

    The network is a torch module that is a `Policy` too.
    """

    envs: Envs
    policy: Any
    normalizer: Normalizer


def prepare(target: Any, settings: Environments, run: LiveRun) -> Workshop:
    """Builds what acts, under the run's named seeds, and arranges held-out evaluation.

    Raises:
        UserError: environments that cannot be made, or evaluations asked for where there is only one to train in.
    """
    if settings.eval_every and isinstance(target, gym.Env | gym.vector.VectorEnv):
        raise UserError(
            f"eval_every is {settings.eval_every}, a ready-made environment cannot be evaluated beside its training;"
            " give its constructor, or eval_every=0"
        )
    _set_threads(settings.threads)
    count = how_many(target, settings.num_envs) or settings.num_envs
    with in_memory(num_envs=settings.num_envs):
        envs = make_envs(target, count, vectorization=settings.vectorization, env_args=settings.env_args)
        envs.start(run.seed("environments"))
    with in_memory(lambda: _too_large(envs.spaces, settings)):
        policy = make_network(envs.spaces.observation, envs.spaces.action, settings, run.seed("network"))
    normalizer = Normalizer(envs.spaces.observation, envs.num_envs, settings)
    if settings.normalize_observations and not normalizer.active:
        run.note("warn", "normalize_observations", "no observation here is a number on a scale: nothing is normalised")
    if settings.eval_every:
        run.held_out(lambda: held_out(target, policy, normalizer, settings, run.seed("evaluation")).scalars())
    if getattr(settings, "log_kl", False):
        drift = Drift(policy)
        run.keep(before_update=drift.old)
        run.also_log(drift.measure)
    return Workshop(envs, policy, normalizer)


def held_out(
    target: Any, policy: Policy, normalizer: Normalizer, settings: Environments, seed: int, episodes: int | None = None
) -> Score:
    """Deterministic whole episodes in environments of their own."""
    episodes = episodes or settings.eval_episodes
    count = how_many(target, min(episodes, settings.num_envs))
    envs = make_envs(target, count, vectorization="sync", env_args=settings.env_args)
    try:
        bounds = bounds_of(envs.spaces.action, settings)
        return evaluate(envs, policy, normalizer, bounds, episodes, seed, max_steps=settings.eval_max_steps)
    finally:
        envs.close()


def make_network(observation: gym.Space[Any], action: gym.Space[Any], settings: Any, seed: int) -> Any:
    """The network that these settings train: action values, or a policy and a critic."""
    make = make_q_network if isinstance(settings, ValueBased) else make_policy
    return make(observation, action, settings, seed)


def _too_large(spaces: Spaces, settings: Any) -> str:
    """Which part of a network is the largest, in words: a space that is wider than the layer it meets, or the layers.

    Weights are counted as of linear layers over flattened observations, which the encoders and heads here are.
    """
    seen, acted, network = _width(spaces.observation), _width(spaces.action), ",".join(map(str, settings.network))
    widths = [seen, *settings.network, acted]
    weights = [inputs * outputs for inputs, outputs in pairwise(widths)]
    weights[-1] += acted * (acted - 1) // 2 * getattr(settings, "full_covariance", False)
    largest = max(weights)
    makes = f"makes {largest:,} weights{f' with network={network}' if network else ''}, more than fits in memory"
    if weights[0] == largest and seen > widths[1]:
        what = _widest("observation space", spaces.observation)
        return f"{what} {makes}; wrap the environment so that fewer numbers describe what is seen"
    if weights[-1] == largest and acted > widths[-2]:
        what = _widest("action space", spaces.action)
        return f"{what} {makes}; wrap the environment so that there are fewer actions"
    return f"network={network} does not fit in memory; make it smaller"


def _widest(name: str, space: gym.Space[Any]) -> str:
    """The leaf of a space that is flattened to the most numbers, with its name."""
    while members := parts(space):
        key, space = max(members, key=lambda member: _width(member[1]))
        name += f"/{key}"
    return f"{name} {' '.join(str(space).split())}"


def _width(space: gym.Space[Any]) -> int:
    return int(flatdim(space)) if space.is_np_flattenable else 0


def how_many(target: Any, wanted: int) -> int | None:
    """As many as are wanted of an id or a constructor; of anything else None: all that it holds."""
    return wanted if isinstance(target, str) or callable(target) else None


def _set_threads(asked: int) -> None:
    """Checked here and not as a range of the setting: a run of a larger machine can still be looked at on this one."""
    if asked > (here := os.cpu_count() or 1):
        raise UserError(
            f"threads is {asked}; this machine has {here} processors, give at most as many"
            " (to resume here, in the run's config.toml)"
        )
    torch.set_num_threads(asked)


def say_rest(rows: int, minibatch_size: int, run: LiveRun) -> None:
    """A note where an epoch's last minibatch is smaller than the others."""
    if rest := rows % minibatch_size:
        run.note("note", "minibatches", f"an epoch's last minibatch has {rest} rows, not {minibatch_size}")


def describe(rollout: Rollout, bounds: Bounds) -> dict[str, float]:
    """What a rollout paid and how it acted, as the metrics that a run writes."""
    assert rollout.rewards is not None
    paid = rollout.rewards[rollout.mask]
    found = {"rollout/reward_mean": float(paid.mean()), "rollout/reward_std": float(paid.std(correction=0))}
    saturation = bounds.saturation(tree_map(lambda leaf: leaf[rollout.mask], rollout.actions))
    return found if saturation is None else found | {"rollout/action_saturation": saturation}
