"""REINFORCE++ (Hu et al. 2025): no group statistic; rewards are whitened over the whole batch.

One completion a prompt is enough, since the baseline is every other prompt's reward too.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor

from advantage.algorithms import grpo
from advantage.algorithms.grpo import Settings
from advantage.algorithms.rloo import each_token_alike
from advantage.core import standardize

__all__ = ["STAGES", "Settings", "objective", "train"]


def whitened(rewards: Tensor, group: Tensor, valid: Tensor, now: Settings) -> Tensor:
    """Â = (r − mean)/(std + ε) over the batch."""
    return standardize(rewards, valid, eps=now.advantage_eps)


STAGES = replace(grpo.STAGES, advantages=whitened, reduce=each_token_alike)
objective = partial(grpo.objective, stages=STAGES)
train = partial(grpo.train, stages=STAGES)
