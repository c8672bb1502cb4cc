"""What a tripwire is: a small pure check over a run's recent scalars, with the words a practitioner needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

Level = Literal["note", "warn", "stop"]
History = Sequence[Mapping[str, float]]
"""One mapping of scalars per update, newest last. Any key may be absent from any row."""

Check = Callable[[History], str | None]
"""Returns the evidence, numbers included, in one line; None where all is well or the evidence is absent."""


@dataclass(frozen=True)
class Finding:
    """What a tripwire saw at one update."""

    tripwire: str
    level: Level
    text: str


@dataclass(frozen=True)
class Tripwire:
    """A check with its name, how grave it is, what it means when it fires and what to try then.

    `advice_to_model` stands in the place of `advice` where a language model is trained and other settings help.
    Levels: a `note` is worth knowing, at a `warn` the run is probably not learning what it should, a `stop` ends it.
    """

    name: str
    level: Level
    check: Check
    meaning: str
    advice: str
    advice_to_model: str = ""

    def advice_in(self, target: str) -> str:
        """What to try in a run that trains on an "environment", or that trains a "model"."""
        return self.advice_to_model if target == "model" and self.advice_to_model else self.advice


def recent(history: History, key: str, count: int) -> list[float]:
    """A key's values in the last `count` updates, oldest first; empty unless every one of them has it.

    >>> recent([{"a": 1.0}, {"a": 2.0}, {"a": 3.0}], "a", 2)
    [2.0, 3.0]
    >>> recent([{"a": 1.0}, {}, {"a": 3.0}], "a", 2)
    []
    """
    first = len(history) - count
    if first < 0:
        return []
    # By index and not by slice: a bounded deque is a sequence without slices.
    values = [row[key] for row in (history[i] for i in range(first, first + count)) if key in row]
    return values if len(values) == count else []


def written(history: History, key: str) -> list[float]:
    """A key's values wherever they were written, oldest first.

    >>> written([{"a": 1.0}, {}, {"a": 3.0}], "a")
    [1.0, 3.0]
    """
    return [value for row in history if (value := row.get(key)) is not None]


def median(values: Sequence[float]) -> float:
    """The middle value, the upper one of two: robust to the single wild update that every healthy run has.

    >>> median([3.0, 1.0, 100.0])
    3.0
    """
    return sorted(values)[len(values) // 2]


def apart(low: Sequence[float], high: Sequence[float]) -> float:
    """How many standard errors the second mean lies above the first, for equally many values of each, two or more.

    >>> round(apart([0.0, 2.0], [4.0, 6.0]), 3)
    2.828
    """
    means = [sum(values) / len(values) for values in (low, high)]
    squares = [sum((x - mean) ** 2 for x in values) for values, mean in zip((low, high), means, strict=True)]
    error = sqrt(sum(squares) / (len(low) - 1) / len(low))
    rise = means[1] - means[0]
    return rise / error if error > 0 else inf if rise > 0 else 0.0
