"""Tripwires: small pure checks over a run's recent scalars, for what goes wrong silently in reinforcement learning.

The run asks `inspect` after every update; `advantage doctor` explains what was found.
"""

from __future__ import annotations

from advantage.watch.table import TRIPWIRES
from advantage.watch.tripwire import Finding, History, Level, Tripwire

__all__ = ["HISTORY", "TRIPWIRES", "Finding", "History", "Level", "Tripwire", "inspect"]

HISTORY = 512
"""Updates that the tripwires look back on; a longer history only costs time."""


def inspect(history: History) -> list[Finding]:
    """What the tripwires see now, in the table's order; empty where all is well.

    Args:
        history: one mapping of scalars per update, newest last, a window of `HISTORY`. Any key may be absent: a check
            without its evidence is silent.

    >>> inspect([{"train/first_ratio_error": 0.2}])[0].tripwire
    'first_ratio'
    >>> inspect([])
    []
    """
    seen = ((tripwire, tripwire.check(history)) for tripwire in TRIPWIRES)
    return [Finding(tripwire.name, tripwire.level, text) for tripwire, text in seen if text]
