"""A trained policy on its own: observations in, the environment's actions out, nothing to know about networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch

from advantage.control.actions import bounds_of
from advantage.control.environments import make_envs
from advantage.control.evaluation import Score
from advantage.control.normalization import Normalizer
from advantage.control.settings import Environments
from advantage.control.setup import held_out, how_many, make_network
from advantage.control.space_trees import map_leaves, misfit, sender
from advantage.errors import UserError
from advantage.runs.state import restore
from advantage.trajectory import Policy, Tree, tree_leaves, tree_map


class Agent:
    """A policy with the normaliser that it was trained with, both frozen."""

    def __init__(
        self, target: Any, settings: Environments, policy: Policy, normalizer: Normalizer, spaces: Any
    ) -> None:
        self.target, self.settings, self.network, self.normalizer = target, settings, policy, normalizer
        self.observation_space: gym.Space[Any] = spaces.observation
        self.action_space: gym.Space[Any] = spaces.action
        self._bounds = bounds_of(spaces.action, settings)
        self._send = sender(spaces.action)
        self._rng = np.random.default_rng(0)

    @classmethod
    def of(cls, target: Any, settings: Environments, states: Mapping[str, dict[str, Any]]) -> Self:
        """The agent whose states a run saved; the environment is built once, for its spaces."""
        envs = make_envs(target, how_many(target, 1), vectorization="sync", env_args=settings.env_args)
        envs.start(0)
        policy = make_network(envs.spaces.observation, envs.spaces.action, settings, seed=0)
        normalizer = Normalizer(envs.spaces.observation, envs.num_envs, settings)
        envs.close()
        restore(policy, states["policy"])
        restore(normalizer, states["normalizer"])
        return cls(target, settings, policy, normalizer, envs.spaces)

    def act(self, observation: Tree, deterministic: bool = True, action_mask: Any = None) -> Tree:
        """The action for an observation, or one for each of a batch of them, as the environment takes it.

        Raises:
            UserError: an observation or a mask of another shape, a mask that allows nothing.
        """
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
        """V(s) in units of (normalised) reward, max_a Q(s, a) of what learns Q: a number, or (B,) for a batch."""
        context, alone = self._context(observation, None)
        seen = {"observation": tree_map(torch.from_numpy, self.normalizer.observe(context["observation"]))}
        with torch.inference_mode():
            values = self.network.value(seen).numpy()
        return float(values[0]) if alone else values

    def evaluate(self, episodes: int, seed: int) -> Score:
        """Deterministic whole episodes in fresh environments."""
        return held_out(self.target, self.network, self.normalizer, self.settings, seed, episodes)

    def _context(self, observation: Tree, action_mask: Any) -> tuple[Tree, bool]:
        """What the network sees, as a batch, and whether it was one observation alone."""
        rows, alone = self._rows(observation)
        if action_mask is None:
            return {"observation": rows}, alone
        mask = np.asarray(action_mask, bool)
        mask = mask[None] if alone else mask
        self._check_mask(mask, len(next(tree_leaves(rows))))
        return {"observation": rows, "action_mask": mask}, alone

    def _rows(self, observation: Tree) -> tuple[Tree, bool]:
        space = self.observation_space
        try:
            arrays = map_leaves(space, lambda part, leaf: np.asarray(leaf, part.dtype), observation)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise UserError(misfit(space, observation, "observation") or f"observation: {error}") from error
        if (wrong := misfit(space, arrays, "observation")) is None:
            return tree_map(lambda array: array[None], arrays), True
        lengths = map_leaves(
            space, lambda part, array: len(array) if array.ndim and array.shape[1:] == part.shape else -1, arrays
        )
        if len(set(tree_leaves(lengths))) > 1 or -1 in tree_leaves(lengths):
            raise UserError(f"{wrong}; give one observation, or a batch with one axis more in front of every part")
        return arrays, False

    def _check_mask(self, mask: np.ndarray, count: int) -> None:
        space = self.action_space
        if not isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            raise UserError(f"action_mask is for Discrete and MultiDiscrete actions, not for {space}")
        sizes = [int(space.n)] if isinstance(space, gym.spaces.Discrete) else space.nvec.tolist()
        if mask.shape != (count, sum(sizes)):
            raise UserError(f"action_mask is {mask.shape} as a batch; {count} of {space} need {(count, sum(sizes))}")
        if not np.logical_or.reduceat(mask, np.cumsum([0, *sizes[:-1]]), axis=1).all():
            raise UserError("action_mask allows no action; allow at least one of every choice")
