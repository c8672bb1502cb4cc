"""Tripwires of language models: what looks like their ill and is none, and what stands in a row's advice."""

from __future__ import annotations

import pytest

from advantage.watch import TRIPWIRES, inspect
from tests.watch.histories import COMPLETIONS, EXAMPLES, Row, language


def seen(history: list[Row]) -> set[str]:
    return {finding.tripwire for finding in inspect(history)}


def test_growing_answers_that_earn_more_are_no_runaway() -> None:
    grown = {"completions/mean_length": 90.0, "reward": 0.8}
    assert seen(language(COMPLETIONS, (20, {}), (40, grown))) == set()


def test_with_a_critic_a_group_may_be_one_completion() -> None:
    assert seen(language(COMPLETIONS, (40, {"frac_reward_zero_std": 1.0, "train/beta": 0.05}))) == set()


def test_a_solved_task_is_told_once() -> None:
    """Equal rewards are why there is neither advantage nor gradient: two more warnings would say nothing new."""
    solved = {"frac_reward_zero_std": 1.0, "train/advantage_std": 0.0, "train/gradient_norm": 0.0, "reward": 1.0}
    assert seen(language(COMPLETIONS, (20, solved))) == {"groups_without_spread"}


def test_to_be_sure_of_given_answers_is_no_collapse() -> None:
    sure = {"train/entropy": 1e-4}
    assert seen(language(EXAMPLES, (20, {}), (20, sure))) == set()
    assert seen(language(COMPLETIONS | {"train/entropy": 0.4}, (20, {}), (20, sure))) == {"entropy_collapse"}
    earned = sure | {"reward": 0.9, "gold": 0.9}
    assert seen(language(COMPLETIONS | {"train/entropy": 0.4}, (20, {}), (20, earned))) == set()


@pytest.mark.parametrize(("error", "told"), [(0.3, set()), (2.0, {"first_ratio"})])
def test_a_language_model_may_round_more(error: float, told: set[str]) -> None:
    """The largest error of thousands of tokens, computed in bfloat16 perhaps."""
    assert seen(language(COMPLETIONS, (3, {"train/first_ratio_error": error}))) == told


def test_advice_to_a_language_model_names_none_of_control_s_settings() -> None:
    control = ("normalize_", "num_envs", "num_steps", "ent_coef", "share_trunk", "environment")
    of_control = {"saturated_actions", "falling_returns", "failing_search", "few_effective_samples"}
    wrong = [
        (tripwire.name, word)
        for tripwire in TRIPWIRES
        for word in control
        if tripwire.name not in of_control | {"critic_memorises"} and word in tripwire.advice_in("model")
    ]
    assert wrong == []
