"""Collection in language: completions as streams, their rewards, what is told of them, and held-out accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import advantage
from advantage.errors import UserError
from advantage.language.evaluation import mcnemar, pass_at_k, wilson
from advantage.language.generate import (
    Generator,
    accuracy,
    completion_text,
    describe,
    joined,
    longest_completion,
    of_groups,
    prompts_of,
    repetition,
    stop_ids,
)
from advantage.language.models import load_model, load_tokenizer
from advantage.language.policy import LanguagePolicy
from advantage.language.rewards import resolve_rewards
from advantage.language.settings import Sampling
from advantage.language.source import FromTask, source_of
from advantage.language.tasks import task


@pytest.fixture(scope="module")
def world() -> tuple[Generator, Any]:
    chosen, tokenizer = task("add"), load_tokenizer("tiny")
    policy = LanguagePolicy(load_model("tiny"))
    return Generator(policy, tokenizer, Sampling(), chosen, seed=3), chosen


def draw(world: tuple[Generator, Any], prompts: int = 3, n: int = 4, step: int = 0) -> Any:
    generator, chosen = world
    found = generator.draw(prompts_of(FromTask(chosen, 0), prompts, generator.tokenizer), n, step)
    return found.judged(resolve_rewards([], chosen))


def test_a_draw_is_n_completions_a_prompt_and_the_same_again(world: tuple[Generator, Any]) -> None:
    one, again, later = draw(world), draw(world), draw(world, step=1)
    assert (len(one.prompts), len(one.completions), one.n) == (3, 12, 4)
    assert (one.completions, one.texts) == (again.completions, again.texts)
    assert one.completions != later.completions


def test_texts_are_without_the_token_that_ended_them(world: tuple[Generator, Any]) -> None:
    samples = draw(world)
    ended = [c.ids[-1] for c in samples.completions if c.finish_reason == "stop"]
    assert ended and set(ended) <= stop_ids(world[0].policy.model, world[0].tokenizer)
    assert all("<|" not in text for text in samples.texts)


def test_a_completion_without_reward_has_no_step_and_no_part_in_the_numbers(world: tuple[Generator, Any]) -> None:
    samples = draw(world)
    rewards = [1.0, 0.0, None, 1.0] * 3
    judged = samples.judged(resolve_rewards([lambda prompts, completions, **columns: rewards]))
    assert judged.valid.tolist() == [True, True, False, True] * 3
    rollout = judged.rollout()
    assert (rollout.mask.any(-1) == judged.valid).all()
    told = describe(judged)
    assert told["reward"] == pytest.approx(2 / 3)
    assert told["completions/unscored"] == 3
    assert told["reward_std"] == pytest.approx((1 / 3) ** 0.5)
    assert judged.texts_for_people()[2].reward is None


def test_groups_can_be_parted_and_joined(world: tuple[Generator, Any]) -> None:
    samples = draw(world)
    again = joined([of_groups(samples, [2]), of_groups(samples, [0, 1])])
    assert again.texts == (*samples.texts[8:], *samples.texts[:8])
    assert torch.equal(again.rewards, torch.cat([samples.rewards[8:], samples.rewards[:8]]))
    assert again.prompts == (samples.prompts[2], *samples.prompts[:2])


def test_groups_without_spread_are_counted(world: tuple[Generator, Any]) -> None:
    flat = draw(world).judged(resolve_rewards([lambda prompts, completions, **columns: [1.0] * 8 + [0.0, 1.0] * 2]))
    assert describe(flat)["frac_reward_zero_std"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"top_k": 5}])
def test_a_cut_distribution_cannot_be_trained_on(world: tuple[Generator, Any], settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="top_p=1 and top_k=0"):
        Generator(world[0].policy, world[0].tokenizer, Sampling(**settings), None, 0)


def test_greedy_accuracy_is_of_the_held_out_prompts(world: tuple[Generator, Any]) -> None:
    generator, chosen = world
    found = accuracy(generator, chosen, 40)
    assert found == accuracy(generator, chosen, 40)
    assert 0.05 < sum(one for (one,) in found) / 40 < 0.95
    several = accuracy(generator, chosen, 5, n=3, temperature=1.0)
    assert [len(row) for row in several] == [3] * 5


def test_a_task_s_examples_go_on_where_they_stood() -> None:
    chosen = task("sort")
    source = FromTask(chosen, seed=7)
    first = source.take(3)
    state = source.state()
    second = source.take(2)
    other = FromTask(chosen, seed=7)
    other.restore(state)
    assert other.take(2) == second and first[0] != second[0]
    assert FromTask(chosen, seed=8).take(3) != first


def test_neither_data_nor_task() -> None:
    with pytest.raises(UserError, match="neither data nor task"):
        source_of("", "", "prompt", None, lambda task: 100, 0)


def test_repetition() -> None:
    assert repetition((1, 2, 3, 4)) == 0.0
    assert repetition((1, 2, 1, 2, 1, 2)) == pytest.approx(0.5)
    assert repetition((1, 1)) == 0.0


def test_wilson_covers_and_stays_inside() -> None:
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == pytest.approx(1.0)
    low, high = wilson(250, 500)
    assert low < 0.5 < high and high - low == pytest.approx(2 * 1.96 * 0.5 / 500**0.5, rel=0.01)
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    from itertools import combinations

    right, samples, k = [0, 1, 3, 5], 5, 2
    by_hand = [sum(any(i < c for i in chosen) for chosen in combinations(range(samples), k)) / 10 for c in right]
    assert pass_at_k(right, samples, k) == pytest.approx(sum(by_hand) / 4)


def test_mcnemar_asks_only_where_the_two_differ() -> None:
    assert mcnemar([True, False] * 50, [True, False] * 50) == 1.0
    assert mcnemar([False] * 10 + [True] * 40, [True] * 10 + [True] * 40) == pytest.approx(2 / 2**10)
    assert mcnemar([True] * 3, [False] * 3) == mcnemar([False] * 3, [True] * 3)


def test_a_completion_leaves_room_for_its_prompt() -> None:
    config = SimpleNamespace(max_position_embeddings=128)
    assert longest_completion(0, None, config) == 64
    assert longest_completion(0, None, SimpleNamespace()) == 256
    assert longest_completion(100, None, config) == 100
    with pytest.raises(UserError, match="max_completion_length is 128, and the model's context holds 128"):
        longest_completion(128, None, config)


def test_a_prompt_that_leaves_no_room_is_left_out_before_the_run(tmp_path: Path) -> None:
    rows = [{"prompt": "1" * size, "answer": "1"} for size in (5, 280, 6)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"data": path, "rewards": "exact", "steps": 3, "batch_size": 1, "num_generations": 2, "threads": 1}
    run = advantage.train("grpo", "tiny", run_dir=tmp_path / "run", quiet=True, **given)
    said = [event["text"] for event in run.reader.events()]
    assert any("1 of 3 examples are longer than 256 tokens" in line for line in said), said


def test_a_special_token_in_the_midst_of_a_completion_is_shown_to_the_reward():
    tokenizer = load_tokenizer("tiny")
    word, end = tokenizer("7", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id
    assert completion_text(tokenizer, [*word, end]) == "7"
    assert completion_text(tokenizer, [*word, end, *word, end]) == f"7{tokenizer.eos_token}7"
    assert completion_text(tokenizer, [end]) == ""
