"""A run's numbers as curves: what was recorded, where it was not finite, and on which axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from advantage.runs.reader import RunReader
from advantage.views.curves import Array, Curve


@dataclass(frozen=True)
class Columns:
    """The metrics of a run, one entry an update.

    Args:
        table: `RunReader.metrics()`.
        special: for each metric the updates at which it was not finite, with 'nan', 'inf' or '-inf'.
    """

    table: dict[str, Array]
    special: dict[str, dict[int, str]]

    @property
    def unit(self) -> str:
        """What the axis counts: environment steps in control, updates in language."""
        return "updates" if np.isnan(self.table["env_steps"]).all() else "environment steps"

    @property
    def steps(self) -> Array:
        """The axis, one entry an update."""
        return self.table["update"] if self.unit == "updates" else self.table["env_steps"]

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
    return Columns(reader.metrics(), special)
