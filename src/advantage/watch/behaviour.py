"""Tripwires of what the policy does in its environment: actions against their bounds, returns against their best."""

from __future__ import annotations

from advantage.watch.tripwire import History, recent, written

SATURATION_UPDATES = 10  # updates in a row
SATURATION_HIGH = 0.9  # share of action entries outside the bounds; good bang-bang policies reach 0.8

FALL_UPDATES = 10  # updates in a row
FALL_SHARE = 0.75  # of the best return's size or of the range seen, whichever is larger
FALL_WARM_UP = 10  # first updates left out of the best: their mean is over few episodes and may be luck


def saturated_actions(history: History) -> str | None:
    """Nearly all continuous actions outside their bounds, for a while."""
    shares = recent(history, "rollout/action_saturation", SATURATION_UPDATES)
    if shares and min(shares) > SATURATION_HIGH:
        return (
            f"{shares[-1]:.0%} of the action entries lie outside their bounds, "
            f"above {SATURATION_HIGH:.0%} for {SATURATION_UPDATES} updates"
        )
    return None


def falling_returns(history: History) -> str | None:
    """The mean return far below its best and staying there; a dip of a third is ordinary."""
    last = recent(history, "rollout/ep_rew_mean", FALL_UPDATES)
    if not last:
        return None
    returns = written(history, "rollout/ep_rew_mean")[FALL_WARM_UP:]
    if not returns:
        return None
    best, worst = max(returns), min(returns)
    if best - max(last) <= FALL_SHARE * max(abs(best), best - worst):
        return None
    return f"the mean episode return is {last[-1]:.4g}, far below its best of {best:.4g}, for {FALL_UPDATES} updates"
