"""Action masks: which actions an environment allows now, as it says in info["action_mask"]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from advantage.errors import RunFailed, UserError

Bools = np.ndarray[Any, np.dtype[np.bool_]]


class Masks:
    """The masks of E environments.

    Attributes:
        current: (E, n) bool, n the number of actions (of a MultiDiscrete space the sum over its parts); None where the
            environments give no masks.
    """

    def __init__(self, space: gym.Space[Any], num_envs: int) -> None:
        self.current: Bools | None = None
        self._space, self._num_envs = space, num_envs
        sizes: list[int] = []
        if isinstance(space, gym.spaces.Discrete):
            sizes = [int(space.n)]
        elif isinstance(space, gym.spaces.MultiDiscrete):
            sizes = [int(n) for n in space.nvec.ravel()]
        self._size, self._offsets = sum(sizes), np.cumsum([0, *sizes[:-1]])

    def begin(self, infos: Mapping[str, Any]) -> None:
        """Learns from a reset of all environments whether they give masks."""
        self.current = None
        if "action_mask" in infos:
            if not self._size:
                raise UserError(f"info['action_mask'] is for Discrete and MultiDiscrete actions, not for {self._space}")
            self.current = np.ones((self._num_envs, self._size), bool)

    def read(self, infos: Mapping[str, Any], wanted: Bools, step: int) -> None:
        """Takes the masks out of a vector environment's infos.

        Args:
            infos: what `step` or `reset` returned.
            wanted: (E,) bool, rows whose masks it has to hold. The others keep theirs.
            step: for messages.

        Raises:
            UserError: a mask of another size, of other numbers than 0 and 1, or given only now and then.
            RunFailed: a mask that allows nothing.
        """
        if self.current is None:
            if "action_mask" in infos:
                raise UserError(f"info['action_mask'] came at step {step}, but not from reset; give it from both")
            return
        missing = wanted & ~np.asarray(infos.get("_action_mask", "action_mask" in infos))
        if missing.any():
            raise UserError(
                f"environment {missing.argmax()} gave no info['action_mask'] at step {step}; give it always"
            )
        if not wanted.any():
            return
        self.current[wanted] = self._checked(infos["action_mask"][wanted], step)
        possible = np.logical_or.reduceat(self.current, self._offsets, axis=1).all(axis=1)
        if not possible.all():
            raise RunFailed(
                f"environment {possible.argmin()} allows no action at step {step}: its action_mask is empty"
            )

    def allow_all(self, rows: Bools) -> None:
        """Rows in which no action is chosen next."""
        if self.current is not None:
            self.current[rows] = True

    def _checked(self, given: np.ndarray[Any, Any], step: int) -> Bools:
        """Masks (rows, …) as (rows, n) bool; lists, and tuples of one mask a part, come as objects."""
        masks = np.stack([_flat(mask) for mask in given]) if given.dtype == object else given.reshape(len(given), -1)
        if masks.shape[1] != self._size:
            raise UserError(
                f"an action_mask at step {step} has {masks.shape[1]} entries; {self._space} has {self._size}"
            )
        allowed = masks.astype(bool)
        if (other := masks[masks != allowed]).size:
            raise UserError(f"an action_mask at step {step} holds {other[0]}; use booleans or 0 and 1")
        return allowed


def _flat(mask: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([np.ravel(part) for part in mask]) if isinstance(mask, tuple) else np.ravel(mask)
