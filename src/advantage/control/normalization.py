"""Running moments of observations and of discounted reward sums: kept with the policy, frozen while it acts."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from advantage.control.space_trees import leaves, map_leaves
from advantage.trajectory import Tree

Array = np.ndarray[Any, Any]


class Moments:
    """Mean and variance of everything seen so far, in float64, merged batch by batch (Chan et al. 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape)
        self.variance = np.ones(shape)
        self.count = 0.0

    def update(self, rows: Array) -> None:
        """Takes in rows (N, *shape)."""
        if len(rows) == 0:
            return
        rows = rows.astype(np.float64)
        mean, variance, n = rows.mean(0), rows.var(0), float(len(rows))
        total = self.count + n
        delta = mean - self.mean
        if self.count == 0:
            self.mean, self.variance = mean, variance
        else:
            squares = self.variance * self.count + variance * n + delta**2 * self.count * n / total
            self.mean, self.variance = self.mean + delta * n / total, squares / total
        self.count = total

    def state(self) -> dict[str, Any]:
        """Arrays and a count, by name."""
        return {"mean": self.mean.copy(), "variance": self.variance.copy(), "count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.mean, self.variance = np.array(state["mean"]), np.array(state["variance"])
        self.count = float(state["count"])


class Normalizer:
    """Observations to mean 0 and std 1, rewards to discounted sums of std 1, each only where it is asked for.

        x̂ = clip((x − μ)/√(σ² + ε), ±c);   r̂ = clip(r/√(Var(Σ γ^k r) + ε), ±c)

    Observation moments change between rollouts only: every step of a rollout was acted, and is scored, with the same
    ones. Reward moments take a rollout in before its rewards are scaled, since nothing was acted on them. The γ is the
    learner's.

    Attributes:
        active: whether it changes observations at all.

    Source: Engstrom et al. 2020, appendix A.1; details 28–31 of the numbered list.
    """

    EPS = 1e-8

    def __init__(self, space: spaces.Space[Any], num_envs: int, settings: Any) -> None:
        self.space = space
        self.clip, self.gamma = settings.observation_clip, settings.gamma
        self.observations: list[Moments | None] = [
            Moments(leaf.shape) if settings.normalize_observations and isinstance(leaf, spaces.Box) else None
            for leaf in leaves(space, map_leaves(space, lambda part, _: part, space), "observation").values()
        ]
        self.active = any(moments is not None for moments in self.observations)
        scales_rewards = getattr(settings, "normalize_rewards", False)  # what learns from a replay has no such setting
        self.rewards = Moments(()) if scales_rewards else None
        self.reward_clip = settings.reward_clip if scales_rewards else np.inf
        self.sums = np.zeros(num_envs)

    def start(self) -> None:
        """Forgets the open reward sums: every environment begins a new episode."""
        self.sums = np.zeros_like(self.sums)

    def observe(self, observation: Tree) -> Tree:
        """Normalised observations (…, *shape) by the present moments; leaves that are no boxes stay as they are."""
        if not self.active:
            return observation
        moments = iter(self.observations)
        return map_leaves(self.space, lambda _, leaf: self._scaled(leaf, next(moments)), observation)

    def learn_observations(self, observation: Tree, mask: Array) -> None:
        """Takes in the observations (…, *shape) of one rollout where the mask (…) is true."""
        if not self.active:
            return
        for leaf, moments in zip(leaves(self.space, observation, "").values(), self.observations, strict=True):
            if moments is not None:
                moments.update(leaf[mask])

    def scale_rewards(self, rewards: Array, terminated: Array, truncated: Array, mask: Array) -> Array:
        """Rewards (time, envs) of one rollout divided by the running std of their discounted sums."""
        if self.rewards is None:
            return rewards
        sums = np.zeros_like(rewards)
        for t in range(len(rewards)):
            self.sums = np.where(mask[t], self.gamma * self.sums + rewards[t], self.sums)
            sums[t] = self.sums
            self.sums[terminated[t] | truncated[t]] = 0.0
        self.rewards.update(sums[mask])
        scaled = rewards / np.sqrt(self.rewards.variance + self.EPS)
        return np.clip(scaled, -self.reward_clip, self.reward_clip)

    def state(self) -> dict[str, Any]:
        """All moments and the open reward sums, by name."""
        state: dict[str, Any] = {"sums": self.sums.copy()}
        for name, moments in self._named():
            state |= {f"{name}/{key}": value for key, value in moments.state().items()}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.sums = np.array(state["sums"])
        for name, moments in self._named():
            moments.restore({key: state[f"{name}/{key}"] for key in ("mean", "variance", "count")})

    def _named(self) -> list[tuple[str, Moments]]:
        named = [(f"observation/{i}", moments) for i, moments in enumerate(self.observations)]
        return [(name, moments) for name, moments in [*named, ("reward", self.rewards)] if moments is not None]

    def _scaled(self, leaf: Array, moments: Moments | None) -> Array:
        if moments is None:
            return leaf
        scaled = (leaf - moments.mean) / np.sqrt(moments.variance + self.EPS)
        kind = leaf.dtype if leaf.dtype.kind == "f" else np.float32
        return np.clip(scaled, -self.clip, self.clip).astype(kind)
