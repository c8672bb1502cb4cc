"""CISPO (MiniMax 2025): the importance weight is clipped, not the gain, so that every token keeps a gradient.

PPO's clip drops the rare tokens that a reasoning model turns on, since their ratios move first. Here their weight is
bounded and their gradient stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from advantage.algorithms import grpo
from advantage.algorithms.rloo import each_token_alike
from advantage.core import cispo
from advantage.settings import Schedule, setting
from advantage.trajectory import Batch

__all__ = ["STAGES", "Settings", "objective", "train"]


@dataclass(frozen=True)
class Settings(grpo.Settings):
    """GRPO's, with a wide bound from above."""

    eps_high: Schedule = setting(4.0, "how far the weight may rise above 1", low=0)


def weighted(ratio: Tensor, logp: Tensor, batch: Batch, now: Settings) -> Tensor:
    """stop_grad(min(ρ, 1 + ε_high)) Â log π."""
    return cispo(logp, ratio, batch.advantages, now.eps_high)


STAGES = replace(grpo.STAGES, surrogate=weighted, reduce=each_token_alike)
objective = partial(grpo.objective, stages=STAGES)
train = partial(grpo.train, stages=STAGES)
