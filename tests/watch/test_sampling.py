"""Tripwires of sampled completions: what looks like their ill and is none."""

from __future__ import annotations

from advantage.watch import inspect
from tests.watch.histories import SAMPLED


def seen(history: list[dict[str, float]]) -> set[str]:
    return {finding.tripwire for finding in inspect(history)}


def test_growing_answers_that_earn_more_are_no_runaway() -> None:
    assert seen([SAMPLED] * 20 + [SAMPLED | {"completions/mean_length": 90.0, "reward": 0.8}] * 40) == set()


def test_with_a_critic_a_group_may_be_one_completion() -> None:
    assert seen([SAMPLED | {"frac_reward_zero_std": 1.0, "train/beta": 0.05}] * 40) == set()
