"""What whole episodes are measured against: the episodes before them, or a critic in units of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from advantage.trajectory import Rollout


def measured(rollout: Rollout, baseline: str, earlier: EarlierReturns) -> Rollout:
    """The episodes with what is subtracted in the place of V(s_t): "value" leaves the critic's, "none" nothing."""
    assert rollout.rewards is not None
    if baseline == "value":
        return rollout
    constant = torch.full_like(rollout.rewards, earlier.mean) if baseline == "running_mean" else None
    return rollout.replace(values=constant, next_values=None)  # behind a time limit nobody says what would have come


class EarlierReturns:
    """The mean return of all episodes of earlier updates, the same for every state.

        b = (1/N) Σ_{i ≤ N} G_0^(i),   0 before the first

    No episode that it is subtracted from has a part in it: with its own return in the mean, the gradient would shrink
    to 1 − 1/N of itself, and the first episode would teach nothing.
    """

    def __init__(self) -> None:
        self.mean, self.count = 0.0, 0

    def learn(self, returns: Tensor) -> None:
        """Takes in the returns G_t (episodes, time) of an update that is over."""
        count = self.count + len(returns)
        self.mean += (float(returns[:, 0].mean()) - self.mean) * len(returns) / count
        self.count = count

    def state(self) -> dict[str, float]:
        """Mean and count."""
        return {"mean": self.mean, "count": self.count}

    def restore(self, state: dict[str, float]) -> None:
        """Takes back what `state` gave."""
        self.mean, self.count = float(state["mean"]), int(state["count"])


class ReturnScale:
    """What a critic of standardised returns speaks in: G = mean + std · V, by the returns it was last fitted to."""

    def __init__(self) -> None:
        self.mean, self.std = 0.0, 1.0

    def in_rewards(self, rollout: Rollout) -> Rollout:
        """The episodes with what follows a time limit in units of reward, as their returns are."""
        assert rollout.next_values is not None
        return rollout.replace(next_values=self.mean + self.std * rollout.next_values)

    def learn(self, returns: Tensor) -> None:
        """Takes note of the returns (N,) that the critic is fitted to."""
        self.mean, self.std = float(returns.mean()), float(returns.std(correction=0))

    def state(self) -> dict[str, float]:
        """Mean and standard deviation."""
        return {"mean": self.mean, "std": self.std}

    def restore(self, state: dict[str, float]) -> None:
        """Takes back what `state` gave."""
        self.mean, self.std = float(state["mean"]), float(state["std"])
