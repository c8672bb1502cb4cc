"""Environments that tell what happened to them: an observation names its episode and step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

ENDS = ((3, "terminated"), (1, "truncated"), (4, "truncated"), (2, "terminated"), (1, "terminated"), (2, "both"))


class Scripted(gym.Env[Any, Any]):
    """Episodes of set lengths and ends, in turn; observations are (episode, step); the reward is the action taken + 1.

    `reuse`: every observation is the same buffer, overwritten at each step and reset.
    """

    def __init__(self, offset: int = 0, reuse: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(5)
        self.offset, self.reuse = offset, reuse
        self.episode, self.t = -1, 0
        self.buffer = np.zeros(2, np.float32)
        self.taken: list[tuple[int, int, int]] = []

    def seen(self) -> np.ndarray:
        if not self.reuse:
            self.buffer = np.zeros(2, np.float32)
        self.buffer[:] = self.episode, self.t
        return self.buffer

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append((self.episode, self.t, int(action)))
        self.t += 1
        length, end = ENDS[(self.episode + self.offset) % len(ENDS)]
        over = self.t == length
        return self.seen(), float(action + 1), over and end != "truncated", over and end != "terminated", {}


class Echo(gym.Env[Any, Any]):
    """Any spaces: observations sampled from the generator, the actions received kept."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any], length: int = 4) -> None:
        self.observation_space, self.action_space, self.length = observation_space, action_space, length
        self.received: list[Any] = []
        self.seen: list[Any] = []

    def sample(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.seen.append(self.observation_space.sample())
        return self.seen[-1]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.received.append(action)
        self.t += 1
        return self.sample(), 0.0, self.t == self.length, False, {}


class Masked(gym.Env[Any, Any]):
    """Gives the masks it is told to, one a moment, and ends by termination after `length` steps, saying nothing."""

    def __init__(self, masks: list[Any], action_space: gym.Space[Any] | None = None, length: int = 3) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = action_space or gym.spaces.Discrete(3)
        self.masks, self.length, self.moment, self.t = masks, length, -1, 0

    def told(self) -> dict[str, Any]:
        self.moment += 1
        mask = self.masks[self.moment % len(self.masks)]
        return {} if mask is None else {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), self.told()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == self.length
        return np.zeros(1, np.float32), 0.0, over, False, {} if over else self.told()
