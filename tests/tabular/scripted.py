"""An environment that plays given episodes, so that what is to be learnt of them can be computed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

TERMINATED, TRUNCATED = "terminated", "truncated"


@dataclass(frozen=True)
class Episode:
    """States, one more than rewards, and how it ends."""

    states: Sequence[int]
    rewards: Sequence[float]
    ended: str = TERMINATED


class Scripted(gym.Env[Any, Any]):
    """One action; the episodes in turn, over and over."""

    def __init__(self, states: int, episodes: Sequence[Episode]) -> None:
        self.observation_space, self.action_space = gym.spaces.Discrete(states), gym.spaces.Discrete(1)
        self._episodes, self._next = episodes, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._now, self._t = self._episodes[self._next % len(self._episodes)], 0
        self._next += 1
        return self._now.states[0], {}

    def step(self, action: Any) -> Any:
        reward = self._now.rewards[self._t]
        self._t += 1
        last = self._t == len(self._now.rewards)
        ended = last and self._now.ended == TERMINATED
        return self._now.states[self._t], reward, ended, last and not ended, {}


def random_episodes(seed: int, count: int, states: int, *, apart: bool = False) -> list[Episode]:
    """Walks of one to twelve steps; `apart` visits no state twice."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        steps = int(rng.integers(1, min(12, states - 1) + 1))
        walk = rng.permutation(states)[: steps + 1] if apart else rng.integers(states, size=steps + 1)
        ended = TERMINATED if rng.random() < 0.7 else TRUNCATED
        found.append(Episode(walk.tolist(), rng.normal(size=steps).tolist(), ended))
    return found


def always(env: gym.Env[Any, Any]) -> Any:
    """The only policy."""
    space: Any = env.observation_space
    return np.ones((space.n, 1))
