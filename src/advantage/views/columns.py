"""A run's numbers as curves: what was recorded, where it was not finite, and on which axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from advantage.algorithms import ALGORITHMS
from advantage.runs.kinds import KINDS, Kind, Measure, kind_of
from advantage.runs.reader import RunReader
from advantage.views.curves import Array, Curve


@dataclass(frozen=True)
class Columns:
    """The metrics of a run, one entry an update.

    Args:
        table: `RunReader.metrics()`.
        special: for each metric the updates at which it was not finite, with 'nan', 'inf' or '-inf'.
        kind: of the run, in words.
    """

    table: dict[str, Array]
    special: dict[str, dict[int, str]]
    kind: Kind

    @property
    def unit(self) -> str:
        """What the axis counts: environment steps in control, updates in language."""
        return self.kind.unit

    @property
    def steps(self) -> Array:
        """The axis, one entry an update."""
        return self.table["env_steps"] if self.kind.name == "control" else self.table["update"]

    @property
    def score(self) -> Measure:
        """The measure that says first how well training goes."""
        return self.kind.score(self.table)

    def curve(self, name: str) -> Curve:
        """Where the metric was recorded, NaN where it was not finite; empty for a metric that the run does not have."""
        if name not in self.table:
            return Curve(np.empty(0), np.empty(0))
        values, steps = self.table[name], self.steps
        special = np.isin(self.table["update"], list(self.special.get(name, ())))
        recorded = (np.isfinite(values) | special) & np.isfinite(steps)
        recorded[:-1] &= steps[:-1] != steps[1:]  # an update without a real step has no place of its own on the axis
        return Curve(steps[recorded], np.where(np.isfinite(values), values, np.nan)[recorded])

    def marks(self, name: str) -> list[tuple[float, str]]:
        """Step and word of each value that was not finite."""
        place = dict(zip(self.table["update"].tolist(), self.steps.tolist(), strict=True))
        return [(place[update], word) for update, word in sorted(self.special.get(name, {}).items()) if update in place]

    def finite(self, name: str) -> Array:
        """The finite values in order."""
        values = self.curve(name).values
        return values[np.isfinite(values)]

    def last(self, name: str) -> float | None:
        """The last finite value; None where there is none."""
        values = self.finite(name)
        return float(values[-1]) if len(values) else None


def read_columns(reader: RunReader) -> Columns:
    """The metrics of a run, non-finite ones told from absent ones."""
    special: dict[str, dict[int, str]] = {}
    query = "SELECT name, tick, special FROM scalars JOIN keys ON keys.id = key WHERE special IS NOT NULL"
    for name, tick, word in reader._rows(query):
        special.setdefault(name, {})[tick] = word
    table = reader.metrics()
    return Columns(table, special, kind_of_run(reader, table))


def kind_of_run(reader: RunReader, table: Mapping[str, Array]) -> Kind:
    """The kind of a run, by what it has counted; by its algorithm where it has counted nothing yet."""
    if len(table["update"]):
        clock = "updates" if np.isnan(table["env_steps"]).all() else "env_steps"
    else:
        entry = ALGORITHMS.get(reader.config["algorithm"])
        clock = "updates" if entry is not None and entry.world == "language" else "env_steps"
        if clock == "updates":
            return KINDS["sampled" if "num_generations" in reader.config["settings"] else "given"]
    return kind_of(clock, table)
