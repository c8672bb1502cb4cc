"""Held-out evaluation: whole episodes of a policy in environments of their own, with its moments frozen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from advantage.control.actions import Bounds
from advantage.control.environments import Envs
from advantage.control.normalization import Normalizer
from advantage.errors import RunFailed
from advantage.trajectory import Episode, Policy, tree_map


@dataclass(frozen=True)
class Score:
    """Undiscounted returns and lengths of whole episodes, in the environment's own rewards."""

    returns: np.ndarray
    lengths: np.ndarray

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns (ddof 0)."""
        return float(self.returns.std())

    def scalars(self) -> dict[str, float]:
        """As the metrics that a run writes."""
        return {
            "eval/mean_reward": self.mean,
            "eval/std_reward": self.std,
            "eval/mean_ep_length": float(self.lengths.mean()),
        }


def evaluate(
    envs: Envs,
    policy: Policy,
    normalizer: Normalizer,
    bounds: Bounds,
    episodes: int,
    seed: int,
    rng: np.random.Generator | None = None,
    max_steps: int | None = None,
) -> Score:
    """Returns of `episodes` whole episodes, the same number from every environment (first ones one more).

    Args:
        envs: environments that nothing else uses; they are started afresh from `seed`.
        policy, normalizer: used as they are, changed in nothing.
        bounds: how actions meet their boxes.
        episodes: how many, ≥ 1.
        seed: of the environments.
        rng: noise of the actions; None acts deterministically.
        max_steps: of an episode that counts; None for no bound.

    Raises:
        RunFailed: an episode is longer. Its length depends on the policy, so that only playing shows it.
    """
    owed = np.array([len(range(i, episodes, envs.num_envs)) for i in range(envs.num_envs)])
    kept: list[Episode] = []
    counts = np.zeros(envs.num_envs, int)
    envs.start(seed)
    with torch.inference_mode():
        while len(kept) < episodes:
            seen = envs.context | {"observation": normalizer.observe(envs.context["observation"])}
            noise = None if rng is None else policy.noise(rng, (envs.num_envs,))
            envs.step(bounds.applied(policy.act(tree_map(torch.from_numpy, seen), noise)))
            for episode in envs.finished_episodes():
                if counts[episode.stream] < owed[episode.stream]:
                    counts[episode.stream] += 1
                    kept.append(episode)
            if max_steps is not None and (envs.lengths[counts < owed] >= max_steps).any():
                raise RunFailed(
                    f"{envs.name}: an episode of the evaluation has not ended after eval_max_steps={max_steps} steps;"
                    " give the environment a time limit (max_episode_steps), or raise eval_max_steps"
                )
    kept.sort(key=lambda episode: episode.stream)
    return Score(np.array([e.total_reward for e in kept]), np.array([e.length for e in kept]))
