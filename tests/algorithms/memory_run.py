"""A run without a directory: what an algorithm asks of one, and what it said, in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from advantage.runs.live import Update
from advantage.runs.streams import Streams
from advantage.trajectory import Episode, Rollout


class MemoryRun:
    """Runs of an algorithm's `train` whose every update a test looks at.

    Attributes:
        kept: what the algorithm named as its state.
        logged: the scalars of each update.
        rollouts: of each update.
        notes: what was said beside.
    """

    def __init__(self, updates: int, seed: int = 0) -> None:
        self.count, self.streams = updates, Streams(seed)
        self.kept: dict[str, Any] = {}
        self.logged: list[dict[str, float]] = []
        self.rollouts: list[Rollout] = []
        self.notes: list[tuple[str, str, str]] = []
        self.due, self.taken = True, None

    def seed(self, name: str) -> int:
        return self.streams.sub_seed(name)

    def rng(self, name: str) -> np.random.Generator:
        return self.streams.rng(name, len(self.logged))

    def keep(self, **things: Any) -> None:
        self.kept |= things

    def note(self, level: str, source: str, text: str) -> None:
        self.notes.append((level, source, text))

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def updates(self, total: int) -> Iterator[Update]:
        steps = 0
        for index in range(self.count):
            yield Update(index, steps, total)
            assert len(self.logged) == index + 1
            steps += self.rollouts[-1].steps if self.taken is None else self.taken

    def log(
        self, scalars: Mapping[str, float], rollout: Rollout, episodes: Sequence[Episode], steps: int | None = None
    ) -> None:
        self.taken = steps
        self.logged.append(dict(scalars))
        self.rollouts.append(rollout)
