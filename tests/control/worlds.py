"""Environments that write down what happened, a network of one's own, and what collection needs around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from advantage.control.actions import Bounds
from advantage.control.environments import Envs, make_envs
from advantage.control.normalization import Normalizer
from advantage.control.policy import make_policy
from advantage.control.settings import OnPolicy
from advantage.trajectory import Batch, Evaluation, Policy, Rollout, Tree, tree_map

MODES = ["next_step", "same_step", "disabled"]


class Recording(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps every transition as the environment made it: `log` holds (s, a, r, terminated, truncated, s')."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.log: list[tuple[Tree, Any, float, bool, bool, Tree]] = []

    def reset(self, **options: Any) -> Any:
        found = super().reset(**options)
        self.last = copied(found[0])
        return found

    def step(self, action: Any) -> Any:
        found = super().step(action)
        after = copied(found[0])
        self.log.append((self.last, np.array(action), float(found[1]), bool(found[2]), bool(found[3]), after))
        self.last = after
        return found


def copied(observation: Tree) -> Tree:
    return tree_map(np.array, observation)


class Paid(gym.Env[Any, Any]):
    """Any spaces, any rewards; `ending(episode)` is its length and "terminated", "truncated" or "both"."""

    def __init__(
        self,
        ending: Callable[[int], tuple[int, str]],
        observation: gym.Space[Any] | None = None,
        action: gym.Space[Any] | None = None,
        reward: Callable[[np.random.Generator], float] = lambda rng: float(rng.normal()),
    ) -> None:
        self.observation_space = observation or gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = action or gym.spaces.Discrete(3)
        self.ending, self.reward, self.episode = ending, reward, -1

    def seen(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        length, how = self.ending(self.episode)
        over = self.t == length
        reward = self.reward(self.np_random)
        return self.seen(), reward, over and how != "truncated", over and how != "terminated", {}


class World(NamedTuple):
    """What collection takes."""

    envs: Envs
    policy: Any
    normalizer: Normalizer
    bounds: Bounds

    def logs(self) -> list[list[tuple[Tree, Any, float, bool, bool, Tree]]]:
        return [env.get_wrapper_attr("log") for env in self.envs.vector.envs]


@dataclass(frozen=True)
class Setup(OnPolicy):
    """On-policy settings with what `ascend` reads besides."""

    num_envs: int = 3
    network: tuple[int, ...] = (16,)
    learning_rate: Any = 1e-2


def world(
    constructors: list[Callable[[], gym.Env[Any, Any]]],
    mode: str = "same_step",
    policy: Policy | None = None,
    seed: int = 0,
    **settings: Any,
) -> World:
    """Recorded environments, started, and a network over their spaces."""
    recorded = [lambda make=make: Recording(make()) for make in constructors]
    given = Setup(num_envs=len(constructors), **settings)
    envs = make_envs(recorded, vectorization="sync", autoreset=mode)
    envs.start(seed)
    network = policy or make_policy(envs.spaces.observation, envs.spaces.action, given, seed=1)
    normalizer = Normalizer(envs.spaces.observation, envs.num_envs, given)
    return World(envs, network, normalizer, Bounds(envs.spaces.action, given.action_bounds))


class Mine(nn.Module):
    """A network that has nothing to do with ours: softmax over three actions, a critic beside it, its own noise."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.critic = nn.Linear(2, 3), nn.Linear(2, 1)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(rng.random((*shape, 1))).float()

    def act(self, context: Tree, noise: Tensor | None) -> Tensor:
        shares = self.logits(context["observation"]).softmax(-1)
        return shares.argmax(-1) if noise is None else (shares.cumsum(-1) < noise).sum(-1).clamp(max=2)

    def value(self, context: Tree) -> Tensor:
        return self.critic(context["observation"]).squeeze(-1)

    def evaluate(self, batch: Batch) -> Evaluation:
        log_probs = self.logits(batch.context["observation"]).log_softmax(-1)
        logp = log_probs.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
        return Evaluation(logp, -(log_probs.exp() * log_probs).sum(-1), self.value(batch.context))


def transitions(rollout: Rollout, stream: int) -> list[tuple[Tree, Any, float, bool, bool]]:
    """The true entries of a stream, in order: (s, a, r, terminated, truncated)."""
    assert rollout.rewards is not None
    found = []
    for t in rollout.mask[stream].nonzero().squeeze(-1).tolist():
        seen, action = (
            tree_map(lambda leaf, t=t: leaf[stream, t].numpy(), tree)
            for tree in (rollout.context["observation"], rollout.actions)
        )
        ends = bool(rollout.terminated[stream, t]), bool(rollout.truncated[stream, t])
        found.append((seen, action, float(rollout.rewards[stream, t]), *ends))
    return found
