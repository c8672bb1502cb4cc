"""REINFORCE leave-one-out (Ahmadian et al. 2024): a completion's baseline is the mean reward of the others.

A baseline that does not contain the sample leaves the gradient without bias; one that does scales it by 1 − 1/G.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor

from advantage.algorithms import grpo
from advantage.algorithms.grpo import Settings
from advantage.core import leave_one_out, token_mean
from advantage.trajectory import Batch

__all__ = ["STAGES", "Settings", "objective", "train"]


def beside_the_others(rewards: Tensor, group: Tensor, valid: Tensor, now: Settings) -> Tensor:
    """Â = r − mean of the group's other completions."""
    return (rewards - leave_one_out(rewards, group, valid=valid)).masked_fill(~valid, 0.0)


def each_token_alike(gain: Tensor, batch: Batch, now: Settings, longest: int) -> Tensor:
    """Mean over all tokens of the whole batch."""
    return token_mean(gain, batch.mask, total=batch.tokens)


STAGES = replace(grpo.STAGES, advantages=beside_the_others, reduce=each_token_alike)
objective = partial(grpo.objective, stages=STAGES)
train = partial(grpo.train, stages=STAGES)
