"""The sum tree against the cumulative sum of all weights."""

from __future__ import annotations

import numpy as np
import pytest

from advantage.control.sum_tree import SumTree


@pytest.mark.parametrize("capacity", [1, 2, 3, 8, 1000])
def test_places_are_those_of_the_cumulative_sum(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    weights = np.where(rng.random(capacity) < 0.3, 0.0, np.round(rng.random(capacity) * 64) + 1)  # exact in sums
    weights[0] = 1.0
    tree = SumTree(capacity)
    tree.set(np.arange(capacity), weights)
    assert tree.total == weights.sum()
    shares = rng.random(5000)
    expected = np.searchsorted(weights.cumsum(), shares * weights.sum(), side="right")
    assert np.array_equal(tree.find(shares), expected)
    assert np.allclose(tree.share(np.arange(capacity)), weights / weights.sum())


def test_borders_belong_to_the_right_and_nothing_of_weight_0_is_found() -> None:
    tree = SumTree(5)
    tree.set(np.array([1, 3]), np.array([1.0, 3.0]))
    assert tree.find(np.array([0.0, 0.2, 0.25, 0.999, 1.0, 1.1])).tolist() == [1, 1, 3, 3, 3, 3]


def test_the_last_of_two_counts_and_no_rounding_piles_up() -> None:
    rng = np.random.default_rng(0)
    tree, fresh, weights = SumTree(37), SumTree(37), np.zeros(37)
    for _ in range(500):
        places, new = rng.integers(37, size=9), rng.random(9) * 10.0 ** rng.integers(-8, 8, 9)
        tree.set(places, new)
        weights[places] = new
    fresh.set(np.arange(37), weights)
    assert np.array_equal(tree.weights(np.arange(37)), weights)
    assert tree.total == fresh.total  # to the bit: nodes are a function of the leaves
    tree.set(np.arange(37), np.zeros(37))
    assert tree.total == 0.0
