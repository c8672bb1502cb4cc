"""The few operations that lists and arrays do differently, once for each; what is built of them is written once.

Both make the same additions and comparisons in the same order, so that learning has the same bits either way. `sum` is
not used on floats: Python's compensates its rounding since 3.12.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from advantage.tabular.compiled import compiled


def _best(table: Any, s: int) -> Any:
    return max(table[s])


def _argmax(table: Any, s: int) -> int:
    row = table[s]
    return int(row.index(max(row)))


def _greedy(table: Any, s: int, uniform: float) -> Any:
    """A largest entry of a row, ties broken evenly by a number in [0, 1)."""
    row = table[s]
    top = max(row)
    count = row.count(top)
    if count == 1:
        return row.index(top)
    skip, a = min(int(uniform * count), count - 1), row.index(top)
    while skip > 0:
        a = row.index(top, a + 1)
        skip -= 1
    return a


def _best_array(table: Any, s: int) -> Any:
    top = table[s, 0]
    for a in range(1, table.shape[1]):
        if table[s, a] > top:
            top = table[s, a]
    return top


def _argmax_array(table: Any, s: int) -> int:
    first = 0
    for a in range(1, table.shape[1]):
        if table[s, a] > table[s, first]:
            first = a
    return first


def _greedy_array(table: Any, s: int, uniform: float) -> Any:
    top, count, a = table[s, 0], 1, 0
    for b in range(1, table.shape[1]):
        x = table[s, b]
        if x > top:
            top, count, a = x, 1, b
        elif x == top:
            count += 1
    if count == 1:
        return a
    skip = min(int(uniform * count), count - 1)
    while skip > 0:
        a += 1
        if table[s, a] == top:
            skip -= 1
    return a


def _draw_array(cumulative: Any, uniform: float, low: int, high: int) -> int:
    """First k in [low, high] whose running sum exceeds the number; `high` where rounding leaves none."""
    while low < high:
        middle = (low + high) // 2
        if uniform < cumulative[middle]:
            high = middle
        else:
            low = middle + 1
    return low


@functools.cache
def primitives(fast: bool) -> SimpleNamespace:
    """The operations: over lists, or compiled over arrays; and those that are built of them."""
    if fast:
        found = SimpleNamespace(
            best=compiled(_best_array),
            argmax=compiled(_argmax_array),
            greedy=compiled(_greedy_array),
            draw=compiled(_draw_array),
        )
    else:
        found = SimpleNamespace(best=_best, argmax=_argmax, greedy=_greedy, draw=bisect_right)
    found.move = build(_moving, found, fast)
    found.begin = build(_beginning, found, fast)
    found.choose = {name: build(factory, found, fast) for name, factory in _CHOICES.items()}
    if not fast:
        found.choose["epsilon_greedy"] = _epsilon_greedy_in_lists(found)
    found.expect = {name: build(factory, found, fast) for name, factory in _EXPECTATIONS.items()}
    return found


def build(factory: Callable[[Any], Any], found: SimpleNamespace, fast: bool) -> Any:
    """A function over the primitives, compiled where they are."""
    function = factory(found)
    return compiled(function) if fast else function


def _moving(of: Any) -> Any:
    draw = of.draw

    def move(offsets: Any, cumulative: Any, s: int, a: int, uniform: float) -> Any:
        """The outcome of an action in a model that is held in memory."""
        row = offsets[s]
        return draw(cumulative, uniform, row[a], row[a + 1] - 1)

    return move


def _beginning(of: Any) -> Any:
    draw = of.draw

    def begin(starts: Any, uniform: float) -> Any:
        """The first state of an episode."""
        cumulative, states = starts
        return states[draw(cumulative, uniform, 0, len(states) - 1)]

    return begin


def _epsilon_greedy(of: Any) -> Any:
    greedy = of.greedy

    def choose(table: Any, s: int, epsilon: float, uniform: float) -> Any:
        """One number decides whether to explore and which action: what is left of it is uniform again."""
        if uniform < epsilon:
            return int(uniform / epsilon * len(table[s]))
        return greedy(table, s, (uniform - epsilon) / (1.0 - epsilon))

    return choose


def _epsilon_greedy_in_lists(of: Any) -> Any:
    """The same, without a call where no two actions tie."""
    greedy = of.greedy

    def choose(table: Any, s: int, epsilon: float, uniform: float) -> Any:
        row = table[s]
        if uniform < epsilon:
            return int(uniform / epsilon * len(row))
        top = max(row)
        if row.count(top) == 1:
            return row.index(top)
        return greedy(table, s, (uniform - epsilon) / (1.0 - epsilon))

    return choose


def _softmax(of: Any) -> Any:
    best = of.best

    def choose(table: Any, s: int, temperature: float, uniform: float) -> Any:
        row, top, total = table[s], best(table, s), 0.0
        for a in range(len(row)):
            total += math.exp((row[a] - top) / temperature)
        goal, running = uniform * total, 0.0
        for a in range(len(row)):
            running += math.exp((row[a] - top) / temperature)
            if goal < running:
                return a
        return len(row) - 1

    return choose


def _given(of: Any) -> Any:
    draw = of.draw

    def choose(table: Any, s: int, _: float, uniform: float) -> Any:
        """From a policy, whose running sums the table holds."""
        row = table[s]
        return draw(row, uniform, 0, len(row) - 1)

    return choose


def _expectation_of_epsilon_greedy(of: Any) -> Any:
    best = of.best

    def expect(table: Any, s: int, epsilon: float) -> Any:
        row, total = table[s], 0.0
        for a in range(len(row)):
            total += row[a]
        return (1.0 - epsilon) * best(table, s) + epsilon * (total / len(row))

    return expect


def _expectation_of_softmax(of: Any) -> Any:
    best = of.best

    def expect(table: Any, s: int, temperature: float) -> Any:
        row, top, total, mean = table[s], best(table, s), 0.0, 0.0
        for a in range(len(row)):
            weight = math.exp((row[a] - top) / temperature)
            total += weight
            mean += weight * row[a]
        return mean / total

    return expect


_CHOICES = {"epsilon_greedy": _epsilon_greedy, "softmax": _softmax, "given": _given}
_EXPECTATIONS = {"epsilon_greedy": _expectation_of_epsilon_greedy, "softmax": _expectation_of_softmax}
