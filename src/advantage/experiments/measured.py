"""A rung as it was measured: its runs' curves and ends, how far its updates moved, how noisy its gradient was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from advantage.experiments.sentences import Measured
from advantage.runs.encode import loads
from advantage.runs.reader import RunReader
from advantage.views.curves import Array, Curve

WINDOW = 20  # episodes whose mean return is the score at a moment
LAST = 0.1  # the part of the budget over which the score at the end is taken


@dataclass
class _Found:
    """What is known of a rung so far, by seed."""

    returns: dict[int, float] = field(default_factory=dict)
    reached: dict[int, float | None] = field(default_factory=dict)
    noise: dict[int, float] = field(default_factory=dict)
    moved: dict[int, float] = field(default_factory=dict)
    far: dict[int, float] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """A rung as it was measured.

    Attributes:
        measured: its numbers by seed.
        curves: the score over the steps, one a seed.
        far: the 95 % quantile of how far its updates moved the policy, in nats, by seed.
        sentence: what it changed.
    """

    measured: Measured
    curves: tuple[Curve, ...]
    far: Mapping[int, float]
    sentence: str = ""


def result(label: str, runs: Sequence[Path], noises: Sequence[Path], threshold: float | None) -> Result:
    """What the runs of a rung, one a seed from 0, have left behind.

    Args:
        label: of the rung.
        runs: their folders; one that is not there counts as failed.
        noises: the files in which the noise of their gradients stands.
        threshold: of the return; None for none.
    """
    found = _Found()
    for seed, (path, noise) in enumerate(zip(runs, noises, strict=True)):
        if not (path / "config.toml").exists():
            found.failed.append(seed)
            continue
        _read(found, seed, RunReader(path), threshold)
        if (scale := _scale(noise, path.name)) is not None:
            found.noise[seed] = scale
    parts = (found.returns, found.reached, found.noise, found.moved, tuple(found.failed))
    return Result(Measured(label, *parts), tuple(found.curves), found.far)


def score(returns: Array, steps: Array) -> Curve:
    """The mean return of the last 20 episodes, at every step at which an episode ended.

    Args:
        returns, steps: of the finished episodes in order, (episodes,).
    """
    if not len(returns):
        return Curve(np.empty(0), np.empty(0))
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    last = np.arange(1, len(returns) + 1)
    first = np.maximum(last - WINDOW, 0)
    means = (sums[last] - sums[first]) / (last - first)
    kept = np.append(steps[1:] != steps[:-1], True)  # an update's episodes have one place on the axis
    return Curve(steps[kept].astype(float), means[kept])


def at_the_end(curve: Curve, budget: float) -> float | None:
    """The mean of the score over the last tenth of the budget; the last one where it ended before. None without any."""
    if not len(curve.steps):
        return None
    late = curve.steps > (1.0 - LAST) * budget
    return float(curve.values[late].mean() if late.any() else curve.values[-1])


def reached(curve: Curve, threshold: float) -> float | None:
    """The first step at which the score is the threshold or more; None where it never is."""
    over = np.flatnonzero(curve.values >= threshold)
    return float(curve.steps[over[0]]) if len(over) else None


def _read(found: _Found, seed: int, reader: RunReader, threshold: float | None) -> None:
    episodes, metrics = reader.episodes(), reader.metrics()
    curve = score(episodes["return"], episodes["env_steps"])
    found.curves.append(curve)
    if (end := at_the_end(curve, float(reader.config["settings"]["steps"]))) is not None:
        found.returns[seed] = end
    if threshold is not None:
        found.reached[seed] = reached(curve, threshold)
    kl = metrics.get("train/kl", np.empty(0))
    if len(kl := kl[np.isfinite(kl)]):
        found.moved[seed], found.far[seed] = float(np.median(kl)), float(np.quantile(kl, 0.95))
    if reader.status()["state"] != "finished":
        found.failed.append(seed)


def _scale(path: Path, run: str) -> float | None:
    """A run's noise scale; None where it was not measured, or no gradient showed through the noise."""
    found = dict(loads(path.read_bytes())).get(run) if path.exists() else None
    return None if found is None or found["scale"] is None else float(found["scale"])
