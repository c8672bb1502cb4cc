"""Group sequence policy optimisation (Zheng et al. 2025): one ratio a completion, as it has one reward.

The ratio is the geometric mean of its tokens' ratios, so that the clip takes or leaves a completion as a whole. Its
band is far narrower than a token's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from advantage.algorithms import grpo
from advantage.core import sequence_ratio
from advantage.settings import Schedule, setting

__all__ = ["STAGES", "Settings", "objective", "train"]


@dataclass(frozen=True)
class Settings(grpo.Settings):
    """GRPO's, with the band that sequence ratios need."""

    eps_low: Schedule = setting(3e-4, "how far the ratio may fall below 1 and still be rewarded for it", low=0)
    eps_high: Schedule = setting(4e-4, "how far it may rise above 1", low=0)


STAGES = replace(grpo.STAGES, ratio=sequence_ratio)
objective = partial(grpo.objective, stages=STAGES)
train = partial(grpo.train, stages=STAGES)
