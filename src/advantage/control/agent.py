"""A trained policy on its own: observations in, the environment's actions out, nothing to know about networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch

from advantage.control.actions import Bounds
from advantage.control.environments import make_envs
from advantage.control.evaluation import Score
from advantage.control.normalization import Normalizer
from advantage.control.policy import make_policy
from advantage.control.settings import Control
from advantage.control.setup import held_out, how_many
from advantage.control.space_trees import map_leaves, sender
from advantage.runs.state import restore
from advantage.trajectory import Policy, Tree, tree_leaves, tree_map


class Agent:
    """A policy with the normaliser that it was trained with, both frozen."""

    def __init__(self, target: Any, settings: Control, policy: Policy, normalizer: Normalizer, spaces: Any) -> None:
        self.target, self.settings, self.network, self.normalizer = target, settings, policy, normalizer
        self.observation_space: gym.Space[Any] = spaces.observation
        self.action_space: gym.Space[Any] = spaces.action
        self._bounds = Bounds(spaces.action, settings.action_bounds)
        self._send = sender(spaces.action)
        self._rng = np.random.default_rng(0)

    @classmethod
    def of(cls, target: Any, settings: Control, states: Mapping[str, dict[str, Any]]) -> Self:
        """The agent whose states a run saved; the environment is built once, for its spaces."""
        envs = make_envs(target, how_many(target, 1), vectorization="sync", env_args=settings.env_args)
        envs.start(0)
        policy = make_policy(envs.spaces.observation, envs.spaces.action, settings, seed=0)
        normalizer = Normalizer(envs.context["observation"], envs.num_envs, settings)
        envs.close()
        restore(policy, states["policy"])
        restore(normalizer, states["normalizer"])
        return cls(target, settings, policy, normalizer, envs.spaces)

    def act(self, observation: Tree, deterministic: bool = True, action_mask: Any = None) -> Tree:
        """The action for an observation, or one for each of a batch of them, as the environment takes it."""
        context, alone = self._context(observation, action_mask)
        actions = self._send(self.choose(context, None if deterministic else self._rng))
        return tree_map(lambda leaf: leaf[0], actions) if alone else actions

    def choose(self, context: Tree, rng: np.random.Generator | None = None) -> Tree:
        """Actions (E, …) as `Envs.step` takes them, for a context of `Envs`; deterministic without a generator."""
        seen = context | {"observation": self.normalizer.observe(context["observation"])}
        with torch.inference_mode():
            count = len(next(tree_leaves(context["observation"])))
            noise = None if rng is None else self.network.noise(rng, (count,))
            return self._bounds.applied(self.network.act(tree_map(torch.from_numpy, seen), noise))

    def value(self, observation: Tree) -> float | np.ndarray:
        """V(s) in units of (normalised) reward: a number, or (B,) for a batch."""
        context, alone = self._context(observation, None)
        seen = {"observation": tree_map(torch.from_numpy, self.normalizer.observe(context["observation"]))}
        with torch.inference_mode():
            values = self.network.value(seen).numpy()
        return float(values[0]) if alone else values

    def evaluate(self, episodes: int, seed: int) -> Score:
        """Deterministic whole episodes in fresh environments."""
        return held_out(self.target, self.network, self.normalizer, self.settings, seed, episodes)

    def _context(self, observation: Tree, action_mask: Any) -> tuple[Tree, bool]:
        flags = map_leaves(
            self.observation_space, lambda space, leaf: np.ndim(leaf) == len(space.shape or ()), observation
        )
        alone = next(tree_leaves(flags))

        def row(space: gym.Space[Any], leaf: Any) -> np.ndarray:
            array = np.asarray(leaf, space.dtype)
            return array[None] if alone else array

        context = {"observation": map_leaves(self.observation_space, row, observation)}
        if action_mask is not None:
            mask = np.asarray(action_mask, bool)
            context["action_mask"] = mask[None] if alone else mask
        return context, alone
