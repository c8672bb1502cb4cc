"""What a tripwire is: a small pure check over a run's recent scalars, with the words a practitioner needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

    Levels: a `note` is worth knowing, at a `warn` the run is probably not learning what it should, a `stop` ends it.
    """

    name: str
    level: Level
    check: Check
    meaning: str
    advice: str


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
