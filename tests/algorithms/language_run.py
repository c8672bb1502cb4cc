"""A run in memory for the algorithms of the language world, and training on completions that a test has written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from advantage.algorithms import grpo
from advantage.language.generate import Samples
from advantage.language.policy import LanguagePolicy
from advantage.language.rewards import Spec, resolve_rewards
from advantage.language.setup import Workshop
from advantage.runs.live import Update
from advantage.trajectory import Batch, Episode, Rollout, Sample
from tests.algorithms.memory_run import MemoryRun


class LanguageRun(MemoryRun):
    """As `MemoryRun`; data that were given instead of sampled are kept as their batch.

    Attributes:
        path: of a folder, for algorithms that keep a file in it.
        samples: the completions of each update, as people read them.
    """

    def __init__(self, updates: int, seed: int = 0, path: Path = Path()) -> None:
        super().__init__(updates, seed)
        self.path = path
        self.rollouts: list[Any] = []
        self.samples: list[list[Sample]] = []

    def between(self, tidy: Callable[[], object]) -> None:
        """Nothing is done between updates."""

    def updates(self, total: int) -> Iterator[Update]:
        for index in range(self.count):
            yield Update(index, index, total)
            assert len(self.logged) == index + 1

    def log(
        self,
        scalars: Mapping[str, float],
        rollout: Rollout | Batch,
        episodes: Sequence[Episode] = (),
        samples: Sequence[Sample] = (),
    ) -> None:
        self.logged.append(dict(scalars))
        self.rollouts.append(rollout)
        self.samples.append(list(samples))


@contextlib.contextmanager
def given(
    policy: LanguagePolicy,
    reference: LanguagePolicy | None,
    optimizer: Any,
    draw: Callable[[], Samples],
    rewards: Sequence[Spec],
    longest: int,
) -> Iterator[None]:
    """In it, `train` of GRPO and its variants has this policy and this reference, and its completions are drawn so."""

    def generator(*_: Any) -> Any:
        return SimpleNamespace(longest=longest, draw=lambda prompts, n, step: draw())

    workshop = Workshop(policy, None, optimizer, None, None)  # type: ignore[arg-type]
    with mock.patch.multiple(
        grpo,
        prepare=lambda *_, **__: workshop,
        frozen=lambda _: reference,
        generator_of=generator,
        rewards_of=lambda *_: resolve_rewards(rewards),
        prompts_of=lambda *_: [],
    ):
        yield
