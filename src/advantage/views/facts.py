"""What a report is written from, and the pieces that the reports of both worlds have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from advantage.runs.kinds import EVALUATION
from advantage.runs.reader import RunReader
from advantage.views.chart import Layer
from advantage.views.columns import Columns, read_columns
from advantage.views.doctor import Symptom, diagnose
from advantage.views.html import Html, element, table, text

SPECKS = 1500  # single episodes or steps drawn at most, evenly picked: a page stays small however long the run
ROWS = 12  # evaluations listed at most; all are drawn

Tile: TypeAlias = tuple[str, str, str]
"""A word, the number, and what it is of."""


@dataclass(frozen=True)
class Facts:
    """A run as its report reads it."""

    reader: RunReader
    columns: Columns
    status: Mapping[str, Any]
    episodes: Mapping[str, NDArray[Any]]
    symptoms: Sequence[Symptom]

    @classmethod
    def of(cls, reader: RunReader) -> Facts:
        """All of it, read once."""
        symptoms = diagnose(reader.path).symptoms
        return cls(reader, read_columns(reader), reader.status(), reader.episodes(), symptoms)

    @property
    def updates(self) -> int:
        """How many updates are recorded."""
        return len(self.columns.table["update"])

    @property
    def steps(self) -> float:
        """Steps done, on the run's clock."""
        return float(self.columns.steps[-1]) if self.updates else 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return float(self.columns.table["wall_time"][-1]) if self.updates else 0.0

    def setting(self, name: str) -> Any:
        """A setting that the run began with; None where its algorithm has none of that name."""
        return self.reader.config["settings"].get(name)


def line(columns: Columns, name: str, label: str, colour: int) -> Layer:
    """A metric as a line."""
    curve = columns.curve(name)
    return Layer(label, curve.steps, curve.values, colour=colour, marks=columns.marks(name))


def picked(count: int) -> NDArray[np.intp]:
    """The places of at most `SPECKS` of that many things, evenly."""
    return np.unique(np.linspace(0, count - 1, min(SPECKS, count)).round().astype(np.intp))


def evaluation_table(
    columns: Columns, heads: Sequence[str], rows: Sequence[Sequence[str]], what: str
) -> Iterator[Html]:
    """The last held-out evaluations and the best one.

    Args:
        heads: of the columns, all of them of numbers.
        rows: one an evaluation, in order.
        what: is done every N steps, where none was made.
    """
    if not rows:
        yield element("p", text(f"None was made. With --eval-every N {what} and the best one is kept."), class_="soft")
        return
    values = columns.curve(EVALUATION).values
    finite = np.isfinite(values)
    best = int(np.argmax(np.where(finite, values, -np.inf))) if finite.any() else None
    shown = sorted({*range(max(0, len(rows) - ROWS), len(rows)), *([] if best is None else [best])})
    cells = [[*map(text, rows[i]), text("best" if i == best else "")] for i in shown]
    marked = [] if best is None else [shown.index(best)]
    yield table([*heads, ""], cells, numbers=range(len(heads)), marked=marked)
    if len(shown) < len(rows):
        yield element("p", text(f"The last {ROWS} of {len(rows):,} evaluations, and the best."), class_="soft")


def lasting(seconds: float) -> str:
    """A duration in words.

    >>> lasting(12), lasting(200), lasting(7500)
    ('12 s', '3 min 20 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
