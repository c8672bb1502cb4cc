"""Numbers that fall as learning goes on: exploration, step size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from advantage.errors import UserError, nearest
from advantage.tabular.arrays import Floats, real

SHAPES = ("geometric", "linear", "inverse")
CLOCKS = ("episode", "step")


@dataclass(frozen=True)
class Decay:
    """A value that falls to a floor, by the number n of finished episodes or of steps.

        geometric  max(floor, start · rate^n)
        linear     max(floor, start − rate · n)
        inverse    max(floor, start / (1 + rate · n)), which satisfies Robbins & Monro's conditions at floor 0

    Args:
        start: its first value, ≥ 0.
        floor: its last, in [0, start].
        rate: in (0, 1] of the geometric shape, > 0 of the others.
        per: what n counts, "episode" or "step".
        shape: "geometric", "linear" or "inverse".

    Raises:
        UserError: anything else.

    >>> Decay(1.0, 0.1, rate=0.5).at(np.arange(5)).tolist()
    [1.0, 0.5, 0.25, 0.125, 0.1]
    """

    start: float
    floor: float
    rate: float
    per: str = "episode"
    shape: str = "geometric"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UserError(f"unknown shape {self.shape!r}: {nearest(self.shape, SHAPES)}")
        if self.per not in CLOCKS:
            raise UserError(f"unknown per={self.per!r}: {nearest(self.per, CLOCKS)}")
        for name in ("start", "floor", "rate"):
            object.__setattr__(self, name, real(name, getattr(self, name)))
        if not 0.0 <= self.floor <= self.start < math.inf:
            raise UserError(f"a decay from {self.start} to {self.floor}; it must fall, to a floor of at least 0")
        if not 0.0 < self.rate <= (1.0 if self.shape == "geometric" else math.inf):
            raise UserError(f"rate is {self.rate}; it must be above 0, and at most 1 where it is a factor")

    def at(self, n: Any) -> Floats:
        """Its values at the numbers n."""
        n = np.asarray(n, np.float64)
        if self.shape == "geometric":
            falling = self.start * self.rate**n
        else:
            falling = self.start - self.rate * n if self.shape == "linear" else self.start / (1.0 + self.rate * n)
        found: Floats = np.maximum(self.floor, falling)
        return found


Rate: TypeAlias = float | Decay


def as_decay(name: str, given: Any, low: float, high: float, *, open_low: bool = False) -> Decay:
    """A number or a decay as a decay, its values in [low, high], or in (low, high].

    Raises:
        UserError: it lies outside, or is neither.
    """
    decay = given if isinstance(given, Decay) else _constant(name, given)
    least = decay.floor
    inside = (least > low or (open_low and isinstance(given, Decay))) if open_low else least >= low
    if not (inside and decay.start <= high):
        bounds = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if math.isinf(high) else ']'}"
        raise UserError(f"{name} is {given}; it must lie in {bounds}")
    return decay


def _constant(name: str, given: Any) -> Decay:
    try:
        value = real(name, given)
    except UserError:
        raise UserError(f"{name} is {given!r}; it must be a number or a Decay") from None
    if not 0.0 <= value < math.inf:
        raise UserError(f"{name} is {value}; it must be finite and at least 0")
    return Decay(value, value, 1.0)
