"""From the action that the policy scored to the action that the environment gets."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from advantage.trajectory import Tree, tree_leaves, tree_map

Array = np.ndarray[Any, Any]


class Bounds:
    """Raw actions into their boxes; discrete ones as they are. The raw action is what is stored and scored.

    "clip" cuts a raw action off at the box; "rescale" cuts at ±1 and stretches [−1, 1] over the box, which needs finite
    bounds and leaves entries without them clipped.
    """

    def __init__(self, space: gym.Space[Any], how: str) -> None:
        self.how = how
        self.boxes = _boxes(space)
        self.continuous = any(box is not None for box in tree_leaves(self.boxes))

    def applied(self, actions: Tree) -> Tree:
        """Arrays for the environments from tensors (E, …)."""
        return tree_map(lambda leaf, box: self._bounded(leaf.numpy(), box), actions, self.boxes)

    def saturation(self, actions: Tree) -> float | None:
        """Share of continuous action entries (…) that lie outside their bounds; None where there are none."""
        if not self.continuous:
            return None
        flags = [each for each in tree_leaves(tree_map(self._outside, actions, self.boxes)) if each is not None]
        return float(sum(each.sum() for each in flags) / sum(each.size for each in flags))

    def _outside(self, leaf: Tensor | Array, box: gym.spaces.Box | None) -> Array | None:
        if box is None:
            return None
        low, high = box.low, box.high
        if self.how == "rescale":
            low, high = np.where(_finite(box), -1.0, low), np.where(_finite(box), 1.0, high)
        raw = leaf.numpy() if isinstance(leaf, Tensor) else leaf
        outside: Array = (raw < low) | (raw > high)
        return outside

    def _bounded(self, raw: Array, box: gym.spaces.Box | None) -> Array:
        if box is None:
            return raw
        if self.how == "rescale":
            finite = _finite(box)
            low, high = np.where(finite, box.low, -1.0), np.where(finite, box.high, 1.0)
            share = 0.5 * (np.clip(raw, -1.0, 1.0) + 1.0)
            stretched = (1.0 - share) * low + share * high  # high − low itself may be beyond the largest float
            raw = np.where(finite, stretched, raw)
        return np.clip(raw, box.low, box.high).astype(box.dtype, copy=False)


def bounds_of(space: gym.Space[Any], settings: Any) -> Bounds:
    """The bounds as the settings have them; algorithms of discrete actions alone have no such setting and no boxes."""
    return Bounds(space, getattr(settings, "action_bounds", "clip"))


def _finite(box: gym.spaces.Box) -> Array:
    """Which entries have both bounds, and so can be stretched between them."""
    finite: Array = np.isfinite(box.low) & np.isfinite(box.high)
    return finite


def _boxes(space: gym.Space[Any]) -> Tree:
    """The space as a tree of its boxes, None where a part is none."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _boxes(part) for key, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_boxes(part) for part in space.spaces)
    return space if isinstance(space, gym.spaces.Box) else None
