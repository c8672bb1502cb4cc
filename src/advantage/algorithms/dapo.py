"""DAPO (Yu et al. 2025): four changes to GRPO, each against a way in which it stalls.

A wider band above than below, so that unlikely tokens may rise; groups without spread drawn anew, since they teach
nothing; every token alike, so that long completions count by their length; and no lesson from a completion that was
cut, but a growing price for coming near the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from advantage.algorithms import grpo
from advantage.algorithms.rloo import each_token_alike
from advantage.core import overlong_penalty
from advantage.errors import RunFailed
from advantage.language.generate import Samples, joined, of_groups
from advantage.settings import Schedule, setting
from advantage.trajectory import Rollout

__all__ = ["STAGES", "Settings", "objective", "train"]


@dataclass(frozen=True)
class Settings(grpo.Settings):
    """GRPO's, with the four changes; each can be taken back by its setting."""

    eps_high: Schedule = setting(0.28, "how far the ratio may rise above 1", low=0)
    max_draws: int = setting(10, "batches of prompts drawn at most for one update; 1 draws none anew", low=1)
    overlong_filter: bool = setting(True, "completions that were cut teach nothing")
    overlong_cache: int = setting(0, "width of the slope before the limit; 0 for no penalty", unit="tokens", low=0)


def until_groups_have_spread(draw: Callable[[], Samples], now: Settings) -> Samples:
    """Draws batches until as many groups have spread as a batch has prompts; the rest is dropped.

    Raises:
        RunFailed: `max_draws` batches had not one group with spread.
    """
    kept: list[Samples] = []
    for _ in range(now.max_draws):
        samples = draw()
        rewards, valid = samples.rewards.view(-1, samples.n), samples.valid.view(-1, samples.n)
        spread = [len(r[v].unique()) > 1 for r, v in zip(rewards, valid, strict=True)]
        if now.max_draws == 1:
            return samples
        kept.append(of_groups(samples, [group for group, has in enumerate(spread) if has]))
        if sum(len(part.prompts) for part in kept) >= now.batch_size:
            break
    found = joined(kept)
    if not found.prompts:
        why = "the task is too easy or too hard for this model"
        if all(completion.finish_reason == "length" for completion in samples.completions):
            why = "every completion was cut; raise max_completion_length"
        raise RunFailed(f"no group of {now.max_draws} batches has spread: {why}")
    return of_groups(found, range(min(now.batch_size, len(found.prompts))))


def softly_punished(samples: Samples, now: Settings, longest: int) -> Tensor:
    """r, less up to 1 for coming near the limit of length."""
    if not now.overlong_cache:
        return samples.rewards
    lengths = torch.tensor([len(completion.ids) for completion in samples.completions])
    return samples.rewards + overlong_penalty(lengths, longest, now.overlong_cache)


def those_that_ended(rollout: Rollout, now: Settings) -> Tensor:
    """Completions that were cut keep their reward in the statistics and are not trained on."""
    if not now.overlong_filter:
        return rollout.mask
    assert rollout.finish_reason is not None
    ended = torch.tensor([reason != "length" for reason in rollout.finish_reason])
    return rollout.mask & ended[:, None]


STAGES = replace(
    grpo.STAGES,
    collect=until_groups_have_spread,
    shape=softly_punished,
    keep=those_that_ended,
    reduce=each_token_alike,
)
objective = partial(grpo.objective, stages=STAGES)
train = partial(grpo.train, stages=STAGES)
