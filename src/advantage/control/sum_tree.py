"""Weights of a fixed number of places, of which one is drawn by its share in logarithmic time."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class SumTree:
    """A binary tree whose leaves are weights and whose every other node is the sum of its two children.

    Nodes are summed anew from their children, never adjusted by a difference: they are a function of the leaves alone,
    to the bit, whatever order these were set in, and rounding does not pile up.

    Args:
        capacity: leaves, ≥ 1; all 0 at first.
    """

    def __init__(self, capacity: int) -> None:
        self._depth = max(1, (capacity - 1).bit_length())
        self._nodes = np.zeros(2 << self._depth)

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._nodes[1])

    def weights(self, places: Array) -> Array:
        """The weights at places (n,)."""
        found: Array = self._nodes[places + (1 << self._depth)]
        return found

    def share(self, places: Array) -> Array:
        """Weights over their total, (n,)."""
        return self.weights(places) / self.total

    def set(self, places: Array, weights: Array) -> None:
        """Sets the weights at places (n,); of a place that is named twice the last one counts.

        Args:
            weights: ≥ 0.
        """
        node = places + (1 << self._depth)
        self._nodes[node] = weights
        for _ in range(self._depth):
            node = node >> 1
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

    def find(self, shares: Array) -> Array:
        """The places (n,) at these shares of the total weight, in [0, 1): each by its weight where shares are uniform.

        None of weight 0 is ever found, rounding or not, while the total is above 0.
        """
        left = shares * self.total
        node = np.ones(len(shares), np.int64)
        for _ in range(self._depth):
            node = 2 * node
            lower = self._nodes[node]
            right = (left >= lower) & (self._nodes[node + 1] > 0)
            left = np.where(right, left - lower, left)
            node += right
        return node - (1 << self._depth)
