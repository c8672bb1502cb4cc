"""Tripwires of the critic: what it explains of fresh data, what it learns by heart, how large its targets are."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from advantage.watch.tripwire import History, median, recent

EXPLAINED_UPDATES = 40  # updates in a row
EXPLAINED_LOW = -0.05  # a critic that answers a constant stands at 0, give or take its noise
STEADY_RETURNS = 0.2  # std / |mean| of the returns below which there is nothing to explain

OVERFIT_UPDATES = 40  # updates compared: the first quarter with the last
OVERFIT_LOSS = 0.5  # the loss on trained data fell below this share of what it was,
OVERFIT_ERROR = 0.9  # the squared error on fresh data did not fall below this share,
OVERFIT_RISE = 0.02  # and explained variance rose by no more than this
OVERFIT_EXPLAINED = 0.5  # a critic that explains more of fresh data than this does generalise

SCALE_UPDATES = 3  # updates in a row
SCALE_LARGE = 100.0  # a value head starts with outputs near 1

RUNAWAY_UPDATES = 5  # updates in a row
RUNAWAY_SHARE = 2.0  # times what a return can be; healthy Q-networks were seen to pass it by a tenth


def unexplained(history: History) -> str | None:
    """Explained variance of fresh data below 0 for long, at updates whose returns vary enough to be explained."""
    explained = recent(history, "train/explained_variance", EXPLAINED_UPDATES)
    if not explained or max(explained) >= EXPLAINED_LOW:
        return None
    if any(_steady(history[-1 - back]) for back in range(EXPLAINED_UPDATES)):
        return None
    return (
        f"explained variance of fresh data is {explained[-1]:.2g}, below {EXPLAINED_LOW} for {EXPLAINED_UPDATES} "
        "updates while the returns vary"
    )


def _steady(row: Mapping[str, float]) -> bool:
    """Whether the returns hardly vary beside their size: std(G) = std(Â)/√(1 − EV), because Â = G − V."""
    if "train/advantage_std" not in row or "train/return_mean" not in row:
        return False
    share = STEADY_RETURNS * sqrt(max(0.0, 1.0 - row["train/explained_variance"]))
    return row["train/advantage_std"] < share * abs(row["train/return_mean"])


def memorising(history: History) -> str | None:
    """The loss on trained data falls while neither the error nor the explained variance on fresh data gets better."""
    losses = recent(history, "train/value_loss", OVERFIT_UPDATES)
    if not losses:
        return None
    loss_then, loss_now = _ends(losses)
    if loss_now >= OVERFIT_LOSS * loss_then:
        return None
    explained = recent(history, "train/explained_variance", OVERFIT_UPDATES)
    means = recent(history, "train/advantage_mean", OVERFIT_UPDATES)
    spreads = recent(history, "train/advantage_std", OVERFIT_UPDATES)
    if not (explained and means and spreads) or _steady(history[-1]):
        return None
    # Before normalisation Â = G − V, so this is the mean squared error of values that have not seen their targets.
    errors = [mean * mean + spread * spread for mean, spread in zip(means, spreads, strict=True)]
    (error_then, error_now), (explained_then, explained_now) = _ends(errors), _ends(explained)
    if error_now < OVERFIT_ERROR * error_then:
        return None
    if explained_now > min(OVERFIT_EXPLAINED, explained_then + OVERFIT_RISE):
        return None
    return (
        f"in {OVERFIT_UPDATES} updates the critic's loss on trained data went from {loss_then:.3g} to {loss_now:.3g}, "
        f"its squared error on fresh data from {error_then:.3g} to {error_now:.3g}, "
        f"explained variance from {explained_then:.2f} to {explained_now:.2f}"
    )


def _ends(values: list[float]) -> tuple[float, float]:
    """The medians of the first and of the last quarter."""
    quarter = len(values) // 4
    return median(values[:quarter]), median(values[-quarter:])


def large_returns(history: History) -> str | None:
    """Returns of hundreds before a value head whose outputs begin near 1."""
    sizes = [abs(mean) for mean in recent(history, "train/return_mean", SCALE_UPDATES)]
    if sizes and min(sizes) > SCALE_LARGE:
        return f"the mean return that the critic has to predict is {sizes[-1]:.3g} in size; a value head starts near 1"
    return None


def runaway_values(history: History) -> str | None:
    """Values of actions far beyond any return: γ and the rewards seen so far bound what a policy can earn."""
    sizes = recent(history, "train/value_size", RUNAWAY_UPDATES)
    bounds = recent(history, "train/value_bound", RUNAWAY_UPDATES)
    if not sizes or not bounds:
        return None
    if any(size <= RUNAWAY_SHARE * bound or bound == 0.0 for size, bound in zip(sizes, bounds, strict=True)):
        return None
    return (
        f"max_a Q(s, a) reaches {sizes[-1]:.3g} in size, above what any return can be ({bounds[-1]:.3g}), "
        f"for {RUNAWAY_UPDATES} updates"
    )
