"""Dr. GRPO (Liu et al. 2025): GRPO without its two biases.

Dividing by a group's standard deviation weighs easy and hard prompts more than the rest; dividing by a completion's own
length praises short right answers and excuses long wrong ones. Both divisions go: a constant takes their place.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor

from advantage.algorithms import grpo
from advantage.algorithms.grpo import Settings
from advantage.core import fixed_length_mean, group_advantages
from advantage.trajectory import Batch

__all__ = ["STAGES", "Settings", "objective", "train"]


def centred(rewards: Tensor, group: Tensor, valid: Tensor, now: Settings) -> Tensor:
    """Â = r − mean of the group."""
    return group_advantages(rewards, group, scale=None, valid=valid)


def over_the_longest(gain: Tensor, batch: Batch, now: Settings, longest: int) -> Tensor:
    """Sum over all tokens, over completions × the longest that a completion may be."""
    return fixed_length_mean(gain, batch.mask, longest, total=batch.sequences)


STAGES = replace(grpo.STAGES, advantages=centred, reduce=over_the_longest)
objective = partial(grpo.objective, stages=STAGES)
train = partial(grpo.train, stages=STAGES)
