"""Learning curves over seeds: interquartile mean, stratified bootstrap, runs brought onto one axis. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ENTRIES_AT_ONCE = 4_000_000  # float64 entries of resampled scores held together: 32 MB


class Statistic(Protocol):
    """A mean, a median, an interquartile mean: anything that reduces one axis."""

    def __call__(self, x: Array, axis: int) -> Array: ...


@dataclass(frozen=True)
class Curve:
    """One run's measure over its environment steps.

    Args:
        steps: environment steps, (points,), strictly increasing.
        values: the measure there, (points,); NaN where it was not finite.
    """

    steps: Array
    values: Array

    def __post_init__(self) -> None:
        if self.steps.ndim != 1 or self.steps.shape != self.values.shape:
            raise ValueError(f"a curve needs one value a step, not {self.values.shape} for {self.steps.shape}")
        if np.any(np.diff(self.steps) <= 0):
            raise ValueError("the steps of a curve must increase")


@dataclass(frozen=True)
class Band:
    """A statistic of several runs and its pointwise interval, all (points,). One run has no interval: NaN."""

    steps: Array
    centre: Array
    low: Array
    high: Array
    runs: int


def interquartile_mean(x: Array, axis: int = 0) -> Array:
    """Mean of what is left when the lowest and the highest quarter are put aside.

        IQM = mean(x₍ₖ₊₁₎ … x₍ₙ₋ₖ₎),  k = ⌊n / 4⌋

    Args:
        x: scores, any shape. A NaN makes its whole slice NaN: it has no rank, so no quarter to fall into.
        axis: the axis of the runs.

    Returns:
        The scores without that axis. Fewer than four runs: the mean, for a quarter of them is no run.

    Raises:
        ValueError: the axis is empty.

    Source: Agarwal et al. 2021, section 4.3; the whole-run trimming of their implementation.

    >>> float(interquartile_mean(np.array([0.0, 1.0, 2.0, 3.0, 100.0])))
    2.0
    """
    runs = x.shape[axis]
    if runs == 0:
        raise ValueError("an interquartile mean needs at least one score, not 0")
    aside = runs // 4
    ranked = np.sort(np.moveaxis(np.asarray(x, dtype=np.float64), axis, 0), axis=0)
    kept: Array = ranked[aside : runs - aside].mean(axis=0)
    return np.where(np.isnan(ranked[-1]), np.nan, kept)  # np.sort puts NaN last, where it would be trimmed away unseen


def stratified_bootstrap(
    scores: Sequence[Array],
    statistic: Statistic,
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Percentile interval of a statistic of all scores, runs drawn anew with replacement inside each stratum.

    A stratum is a task (an environment): drawing across tasks would count their difference as noise of the runs.

    Args:
        scores: one array a stratum, (runs, …); the numbers of runs may differ, the other axes may not. A row is drawn
            whole, so that the points of one learning curve stay together.
        statistic: reduces `axis` of all strata's rows put together, (…, all runs, …) to (…, …).
        resamples: bootstrap draws, 1 or more.
        confidence: in (0, 1), such as 0.95.
        rng: a generator of its own.

    Returns:
        The lower and the upper end, each of the trailing shape. With few runs it covers less often than its name says
        (the mean of five normal scores at 0.95: 0.83, of twenty: 0.93), for a resample's spread is √((n−1)/n) of the
        true one. With one run in each stratum both ends are the statistic itself.

    Raises:
        ValueError: no stratum, an empty one, trailing shapes that differ, resamples < 1, or confidence outside (0, 1).

    Source: Efron & Tibshirani 1993, chapter 13; strata as in Agarwal et al. 2021, section 4.1.
    """
    if not scores or any(len(stratum) == 0 for stratum in scores):
        raise ValueError("every stratum needs at least one run")
    if len({stratum.shape[1:] for stratum in scores}) > 1:
        raise ValueError(f"strata must agree in all axes but the first, not {[stratum.shape for stratum in scores]}")
    if resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(f"needs resamples >= 1 and 0 < confidence < 1, not {resamples} and {confidence}")
    entries = sum(stratum.size for stratum in scores)
    at_once = max(1, ENTRIES_AT_ONCE // max(1, entries))
    drawn = []
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        picked = [stratum[rng.integers(len(stratum), size=(count, len(stratum)))] for stratum in scores]
        drawn.append(statistic(np.concatenate(picked, axis=1), axis=1))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(drawn), [tail, 1.0 - tail], axis=0)
    return low, high


def common_grid(curves: Sequence[Curve], points: int = 200) -> Array:
    """Steps at which every curve has data: the curves' own where they are at most `points`, else evenly spaced.

    It begins where the last curve begins and ends where the first one ends. Going on with the runs that are left would
    let the curve jump by who survived. Empty where the curves share no step.
    """
    if not curves or any(len(curve.steps) == 0 for curve in curves):
        return np.empty(0)
    first = max(curve.steps[0] for curve in curves)
    last = min(curve.steps[-1] for curve in curves)
    union = np.unique(np.concatenate([curve.steps for curve in curves]))
    inside: Array = union[(first <= union) & (union <= last)]
    return inside if len(inside) <= points else np.linspace(first, last, points)


def interpolate(curve: Curve, grid: Array) -> Array:
    """The curve at the grid's steps, linearly between its points; NaN outside its data and beside a value that is NaN.

    >>> interpolate(Curve(np.array([10.0, 20.0]), np.array([1.0, 3.0])), np.array([5.0, 10.0, 15.0, 25.0]))
    array([nan,  1.,  2., nan])
    """
    if len(curve.steps) == 0:
        return np.full(len(grid), np.nan)
    right = np.clip(np.searchsorted(curve.steps, grid), 0, len(curve.steps) - 1)
    left = np.where(curve.steps[right] == grid, right, np.maximum(right - 1, 0))
    width = np.maximum(curve.steps[right] - curve.steps[left], 1e-300)  # both ends may be one point
    share = (grid - curve.steps[left]) / width
    between = curve.values[left] + share * (curve.values[right] - curve.values[left])
    outside = (grid < curve.steps[0]) | (grid > curve.steps[-1])
    return np.where(outside, np.nan, np.where(left == right, curve.values[left], between))


def band(
    curves: Sequence[Curve],
    statistic: Statistic,
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
    points: int = 200,
) -> Band:
    """A group's learning curve over its seeds: the statistic at each shared step, with its bootstrap interval."""
    grid = common_grid(curves, points)
    if len(grid) == 0:
        return Band(grid, grid, grid, grid, len(curves))
    scores = np.stack([interpolate(curve, grid) for curve in curves])
    centre = statistic(scores, axis=0)
    if len(curves) == 1:
        nothing = np.full(len(grid), np.nan)
        return Band(grid, centre, nothing, nothing, 1)
    low, high = stratified_bootstrap([scores], statistic, resamples, confidence, rng)
    return Band(grid, centre, low, high, len(curves))
