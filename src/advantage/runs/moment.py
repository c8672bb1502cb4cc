"""An update of a run: where it stands when one begins, and what is handed over when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from advantage.trajectory import Batch, Episode, Rollout, Sample


@dataclass(frozen=True)
class Update:
    """Where a run stands when an update begins.

    Attributes:
        index: updates completed.
        steps: environment steps done (in language: updates).
        total: steps of the whole run.
    """

    index: int
    steps: int
    total: int

    @property
    def remaining(self) -> float:
        """The share of the run that is still to come, in [0, 1]: what a schedule is a function of."""
        return max(0.0, 1.0 - self.steps / self.total)


class Logged(NamedTuple):
    """What an algorithm hands over at an update's end, as `LiveRun.log` has it."""

    scalars: dict[str, float]
    data: Rollout | Batch
    episodes: Sequence[Episode]
    samples: Sequence[Sample]
    steps: int | None
