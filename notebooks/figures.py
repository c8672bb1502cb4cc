"""The figures of the notebooks: what a run earned and how it learnt, read from its directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from advantage.api import Run

WINDOW = 50  # episodes of a rolling mean or variance
SMOOTHED = 20  # a curve of updates is averaged over this part of its rows: 1 / 20

Array = np.ndarray
Tables = Mapping[str, Mapping[str, Any]]
"""For each run, by the name that the legend gives it, its columns."""


def figures(runs: Mapping[str, Run], units: str = "linear") -> None:
    """Two figures of three and six panels, against environment steps: all runs in each.

    Args:
        runs: by the name that the legend gives them.
        units: the axis of Ψ and of the baseline; "symlog" where not all runs have them in rewards.
    """
    episodes = {name: run.reader.episodes() for name, run in runs.items()}
    updates = {name: run.metrics() for name, run in runs.items()}
    panels("what was earned", (score, rolling_variance, histogram), episodes)
    credit = partial(weights, scale=units), partial(baseline, scale=units)
    learnt = (policy_loss, critic_loss, gradient_norm, *credit, explained_variance)
    panels("how it was learnt", learnt, updates)


def panels(title: str, draw: Sequence[Callable[[Axes, Tables], None]], tables: Tables) -> None:
    """One figure with three panels a row, and one legend that says which colour is whose."""
    rows = len(draw) // 3
    figure, axes = plt.subplots(rows, 3, figsize=(15, 0.8 + 3.4 * rows), layout="constrained")
    for axis, panel in zip(axes.flat, draw, strict=True):
        panel(axis, tables)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        if not axis.has_data():
            nothing(axis)
    handles = [plt.Line2D([], [], color=colour, label=name) for name, _, colour in coloured(tables)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), title=title)
    plt.show()


# --- what was earned, by episode ---


def score(axis: Axes, episodes: Tables) -> None:
    """The return of every finished episode, and the mean of the last ones."""
    for _, table, colour in coloured(episodes):
        axis.plot(table["env_steps"], table["return"], ".", color=colour, alpha=0.15, markersize=3)
        axis.plot(*rolling(table["env_steps"], table["return"], WINDOW, np.mean), color=colour)
    axis.set(title=f"score: return of an episode, and mean of {WINDOW}", xlabel="environment steps", ylabel="return")


def rolling_variance(axis: Axes, episodes: Tables) -> None:
    """How far the returns of neighbouring episodes lie apart."""
    for _, table, colour in coloured(episodes):
        axis.plot(*rolling(table["env_steps"], table["return"], WINDOW, np.var), color=colour)
    axis.set(title=f"rolling variance of the score, {WINDOW} episodes", yscale="log")
    axis.set(xlabel="environment steps", ylabel="variance of the return")


def histogram(axis: Axes, episodes: Tables) -> None:
    """Where the returns of the first and of the last third of each run's episodes lie."""
    bins = np.histogram_bin_edges(np.concatenate([table["return"] for table in episodes.values()]), bins=40)
    for _, table, colour in coloured(episodes):
        third = -(-len(table["return"]) // 3)
        axis.hist(table["return"][:third], bins, density=True, histtype="step", color=colour, linestyle=":")
        axis.hist(table["return"][-third:], bins, density=True, histtype="stepfilled", color=colour, alpha=0.35)
    axis.set(title="score histogram: first third dotted, last third filled", xlabel="return", ylabel="density")


# --- how it was learnt, by update ---


def policy_loss(axis: Axes, updates: Tables) -> None:
    """The policy's part of the loss. It measures no success."""
    curves(axis, updates, "train/policy_gradient_loss")
    axis.set(title="policy's loss", ylabel="negated surrogate")


def critic_loss(axis: Axes, updates: Tables) -> None:
    """The critic's squared error, in squared units of what it was taught."""
    curves(axis, updates, "train/value_loss")
    axis.set(title="critic's loss", ylabel="mean of (V − target)²", yscale="log")


def gradient_norm(axis: Axes, updates: Tables) -> None:
    """The length of the whole gradient, actor and critic, as it was before it was clipped."""
    curves(axis, updates, "train/gradient_norm")
    axis.set(title="gradient norm before clipping", ylabel="L2 norm", yscale="log")


def weights(axis: Axes, updates: Tables, scale: str) -> None:
    """Mean and standard deviation of what actions are weighted by, before it is normalised."""
    curves(axis, updates, "train/advantage_mean")
    curves(axis, updates, "train/advantage_std", linestyle=":")
    axis.set(title="Ψ: mean, and dotted its standard deviation", ylabel="Ψ", yscale=scale)


def baseline(axis: Axes, updates: Tables, scale: str) -> None:
    """What is subtracted in the mean, and what the critic was taught, which it should come to."""
    curves(axis, updates, "train/value_mean")
    curves(axis, updates, "train/return_mean", linestyle=":")
    axis.set(title="baseline: mean, and dotted the critic's mean target", ylabel="V or b", yscale=scale)


def explained_variance(axis: Axes, updates: Tables) -> None:
    """What the critic foresaw of its targets: 1 all, 0 no more than a constant does."""
    curves(axis, updates, "train/explained_variance")
    axis.set(title="explained variance of the critic, above −1", ylabel="share", ylim=(-1.05, 1.05))


def curves(axis: Axes, updates: Tables, key: str, linestyle: str = "-") -> None:
    """A metric of every run that writes it: each update thinly, and smoothed."""
    for _, table, colour in coloured(updates):
        if key in table:
            known = np.isfinite(table[key])
            steps, values = table["env_steps"][known], table[key][known]
            axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.5, linestyle=linestyle)
            axis.plot(*rolling(steps, values, len(values) // SMOOTHED, np.mean), color=colour, linestyle=linestyle)
    axis.set(xlabel="environment steps")


def nothing(axis: Axes) -> None:
    """Of runs that subtract nothing there is no critic to tell of."""
    axis.text(0.5, 0.5, "no critic, nothing is subtracted", ha="center", transform=axis.transAxes)
    axis.set(xticks=[], yticks=[])
    axis.minorticks_off()


def coloured(tables: Tables) -> list[tuple[str, Mapping[str, Any], str]]:
    """Name, columns and colour of each run, the same in every panel."""
    return [(name, table, f"C{number}") for number, (name, table) in enumerate(tables.items())]


def rolling(x: Array, y: Array, window: int, what: Callable[..., Array]) -> tuple[Array, Array]:
    """A statistic of the last `window` values (of all, where there are fewer), at each x with so many behind it."""
    window = min(max(window, 1), len(y))
    if window == 0:
        return x, y
    x, found = x[window - 1 :], what(np.lib.stride_tricks.sliding_window_view(y, window), axis=-1)
    last = np.append(np.diff(x) > 0, True)  # episodes of one update have one x
    return x[last], found[last]
