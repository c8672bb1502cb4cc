"""Reward functions: named, weighted, failing, absent, and giving what is no reward."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advantage.errors import NonFinite, RunFailed, UserError
from advantage.language.rewards import resolve_rewards, split_specs
from advantage.language.tasks import task
from advantage.language.types import Completion, Prompt

HERE = "tests.language.reward_functions"


def prompt(index=0, shown="2+2=", **columns):
    return Prompt((1, 2), shown, columns, index)


def completion(tokens=3, reason="stop"):
    return Completion((5,) * tokens, (-1.0,) * tokens, reason)


def score(specs, texts=("a", "bb", "ccc", "dddd"), columns=None, lengths=None, reasons=None, **options):
    """What the rewards make of some texts, a prompt each."""
    columns = columns or {}
    prompts = [prompt(i, **{name: values[i] for name, values in columns.items()}) for i in range(len(texts))]
    made = [
        completion((lengths or [3] * len(texts))[i], (reasons or ["stop"] * len(texts))[i]) for i in range(len(texts))
    ]
    return resolve_rewards(specs, **options)(prompts, made, list(texts))


def always(value, name="always"):
    def reward(completions, **columns):
        return [value] * len(completions)

    reward.__name__ = name
    return reward


def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


def picky(completions, **columns):
    """None for "bb", an error for "ccc"."""
    if "ccc" in completions:
        raise ValueError("not\nccc")
    return [None if text == "bb" else 1.0 for text in completions]


def test_the_sum_is_weighted_and_each_part_is_kept():
    scored = score([(length, 0.5), always(1.0), f"{HERE}:lengths*-2"])
    assert scored.total.tolist() == [0.5 * n + 1 - 2 * n for n in (1, 2, 3, 4)]
    assert scored.total.dtype == torch.float32 and scored.valid.all() and scored.valid.dtype == torch.bool
    assert scored.by_name == {"length": [1, 2, 3, 4], "always": [1.0] * 4, f"{HERE}:lengths": [1, 2, 3, 4]}
    assert scored.token_rewards is None and scored.failures == {} and scored.unscored == 0


@given(
    st.lists(
        st.tuples(st.floats(-3, 3), st.lists(st.none() | st.floats(-9, 9), min_size=4, max_size=4)), min_size=1
    ).filter(lambda parts: any(weight for weight, _ in parts))
)
def test_none_leaves_its_term_out_and_alone_excludes(parts):
    def function(number, values):
        def reward(completions, **columns):
            return values

        reward.__name__ = f"reward{number}"
        return reward

    scored = score([(function(number, values), weight) for number, (weight, values) in enumerate(parts)])
    for row in range(4):
        terms = [weight * values[row] for weight, values in parts if values[row] is not None]
        assert bool(scored.valid[row]) == bool(terms)
        assert scored.total[row].item() == pytest.approx(sum(terms), abs=1e-4)
    assert scored.unscored == 4 - int(scored.valid.sum())
    assert scored.failures == {}


def test_only_the_offender_of_a_batch_is_excluded():
    scored = score([picky, always(1.0)])
    assert scored.valid.tolist() == [True, True, False, True]
    assert scored.total.tolist() == [2.0, 1.0, 0.0, 2.0]
    assert scored.by_name["picky"] == [1.0, None, None, 1.0]
    assert scored.failures == {"picky": 1} and scored.unscored == 0


def test_a_failed_completion_is_excluded_and_no_zero_even_with_weight_0():
    assert score([(picky, 0.0), always(1.0)]).valid.tolist() == [True, True, False, True]


def test_past_the_share_of_failures_the_run_stops_with_the_first_error():
    def half(completions, **columns):
        return [RuntimeError(f"no {text}") if len(text) > 2 else 1.0 for text in completions]

    assert score([half]).failures == {"half": 2}
    with pytest.raises(RunFailed, match=r"2 of 4 .* 0.4 .* half, completion 2: RuntimeError: no ccc$"):
        score([half], max_failures=0.4)
    with pytest.raises(RunFailed, match="ValueError: not ccc$"):
        score([picky], max_failures=0.0)


def test_completions_that_were_not_sampled_are_not_judged():
    seen = []

    def spy(completions, **columns):
        seen.extend(completions)
        return [1.0] * len(completions)

    scored = score([spy], reasons=["stop", "error", "length", "stop"])
    assert seen == ["a", "ccc", "dddd"]
    assert scored.valid.tolist() == [True, False, True, True] and scored.failures == {"sampling": 1}
    nothing = score([spy], reasons=["error"] * 4)
    assert not nothing.valid.any() and nothing.failures == {"sampling": 4}


def test_token_rewards_sum_to_the_total_with_the_others_on_the_last_token():
    def process(completions, completion_ids, **columns):
        return [[0.5] * len(ids) for ids in completion_ids]

    scored = score([(process, 2.0), always(3.0)], lengths=[1, 2, 3, 4])
    assert scored.token_rewards == [[4.0], [1.0, 4.0], [1.0, 1.0, 4.0], [1.0, 1.0, 1.0, 4.0]]
    assert scored.total.tolist() == [sum(tokens) for tokens in scored.token_rewards]
    assert scored.by_name["process"] == [0.5, 1.0, 1.5, 2.0]
    failed = score([process, picky], lengths=[1, 2, 3, 4])
    assert failed.token_rewards == [[1.5], [0.5, 0.5], [0.0] * 3, [0.5, 0.5, 0.5, 1.5]]


def test_a_function_is_given_trls_arguments_and_how_completions_ended():
    seen = {}

    def spy(**given):
        seen.update(given)
        return [0.0] * len(given["completions"])

    chat = [{"role": "user", "content": "hi"}]
    prompts = [prompt(0, answer="4", prompt="no"), prompt(1, chat, answer="5", other=1)]
    resolve_rewards([spy])(prompts, [completion(1), completion(2), completion(3), completion(4)], ["a", "b", "c", "d"])
    assert seen == {
        "prompts": ["2+2=", "2+2=", chat, chat],
        "completions": ["a", "b", [{"role": "assistant", "content": "c"}], [{"role": "assistant", "content": "d"}]],
        "completion_ids": [[5], [5, 5], [5] * 3, [5] * 4],
        "finish_reason": ["stop"] * 4,
        "answer": ["4", "4", "5", "5"],
        "other": [None, None, 1, 1],
    }


def test_async_functions_run_together_and_are_cut_off_one_by_one():
    started = []

    async def slow(completions, **columns):
        started.append(completions)
        await asyncio.sleep(30 if "ccc" in completions else 0)
        return [1.0] * len(completions)

    async def meeting(completions, **columns):  # goes on only while `slow` is waiting
        assert started
        return [2.0] * len(completions)

    start = time.monotonic()
    scored = score([slow, meeting], timeout=0.2)
    assert time.monotonic() - start < 5
    assert scored.total.tolist() == [3.0, 3.0, 0.0, 3.0] and scored.valid.tolist() == [True, True, False, True]
    assert scored.failures == {"slow": 1}
    with pytest.raises(RunFailed, match="timed out after 0.2 s"):
        score([slow], timeout=0.2, max_failures=0.1)


def test_async_exceptions_and_callables_and_running_loops():
    class Judge:
        async def __call__(self, completions, **columns):
            if "bb" in completions:
                raise OSError("offline")
            return [1.0] * len(completions)

    async def inside():
        return score([Judge()])

    for scored in (score([Judge()]), asyncio.run(inside())):
        assert scored.valid.tolist() == [True, False, True, True] and scored.failures == {"Judge": 1}


def test_plain_functions_run_in_the_calling_thread():
    where = []
    score([lambda completions, **_: where.append(threading.get_ident()) or [0.0] * 4])
    assert where == [threading.get_ident()]


def test_numbers_of_any_library_are_numbers():
    kinds = [np.array([1, 2, 3, 4]), torch.tensor([1.0, 2, 3, 4]), (True, np.float32(2), torch.tensor(3), 4)]
    for kind in kinds:
        assert score([lambda completions, kind=kind, **_: kind]).total.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ([1.0, 2.0], RunFailed, "gave 2 rewards for 4 completions"),
        (1.0, RunFailed, "gave a float; expected f(prompts, completions"),
        (None, RunFailed, "gave a NoneType"),
        ([1.0, math.nan, 1.0, 1.0], NonFinite, "is nan for completion 1 ('bb')"),
        ([1.0, 1.0, -math.inf, 1.0], NonFinite, "is -inf for completion 2 ('ccc')"),
        ([1.0, "x", 1.0, 1.0], RunFailed, "gave 'x' for completion 1"),
        ([1.0, {}, 1.0, 1.0], RunFailed, "gave {} for completion 1"),
        ([[1.0], None, None, None], RunFailed, "gave 1 token rewards for the 3 tokens of completion 0 ('a')"),
        ([[1.0, math.nan, 0], None, None, None], NonFinite, "is nan for token 1 of completion 0"),
    ],
)
def test_what_is_no_reward_is_named(given, kind, says):
    with pytest.raises(kind) as error:
        score([always(0.0, "fine"), lambda completions, **_: given])
    assert "<lambda>" in str(error.value) and says in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_number_is_found_when_one_is_judged_alone():
    def moody(completions, **columns):
        if len(completions) > 1:
            raise ValueError
        return []

    with pytest.raises(RunFailed, match="moody gave .* for one completion"):
        score([moody])


def test_without_a_name_the_tasks_own_reward_is_taken():
    add = task("add")
    row = add.example(0)
    columns = {name: value for name, value in row.items() if name != "prompt"}
    rewards = resolve_rewards([], add)
    given = [Prompt((1,), row["prompt"], columns, 0)]
    scored = rewards(given, [completion(), completion()], [row["answer"], "x"])
    assert scored.total.tolist() == [1.0, 0.0] and list(scored.by_name) == ["task"]
    both = resolve_rewards(["task", "length:3*0.1"], add)(given, [completion()], [row["answer"]])
    assert both.total.tolist() == pytest.approx([0.9])


def test_names_and_weights():
    scored = score(
        ["exact*2", r"regex:b+*0.5", f"{HERE}:Holder.half*1e-1", "json_valid"], columns={"answer": list("axxx")}
    )
    assert scored.total.tolist() == pytest.approx([2.05, 0.55, 0.05, 0.05])
    assert list(scored.by_name) == ["exact", "regex:b+", f"{HERE}:Holder.half", "json_valid"]
    assert list(score([r"regex:a*5*1"]).by_name) == ["regex:a*5"]
    assert split_specs(" exact*2 ,length:5, ") == ["exact*2", "length:5"]


def test_partials_keep_their_functions_name():
    assert list(score([functools.partial(functools.partial(length), extra=1)]).by_name) == ["length"]


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ([], "no reward: give --task"),
        (["exat"], "did you mean exact"),
        (["task"], "no task is given"),
        (["no_such.module:f"], "module 'no_such.module' cannot be imported: ModuleNotFoundError"),
        (["exat:f"], "did you mean exact"),
        ([f"{HERE}:length"], "did you mean lengths"),
        ([f"{HERE}:NUMBER"], "is a int, not a function f(prompts, completions"),
        ([f"{HERE}:wrong_signature"], "takes (x, /); expected f(prompts, completions, completion_ids=None, **columns)"),
        ([f"{HERE}:no_completions"], "takes (prompts); expected f("),
        (["exact", "exact*2"], "two rewards are called 'exact'"),
        (["exact*1e999"], "weight of reward 'exact' is inf"),
        ([3], "3 is no reward"),
        (["code"], "sandboxed code rewards are not built"),
        (["code:python"], "sandboxed code rewards are not built"),
        (["reward_model"], "reward_model:PATH"),
    ],
)
def test_mistakes_are_one_line_before_the_run(specs, says):
    with pytest.raises(UserError) as error:
        resolve_rewards(specs)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_options_out_of_range():
    for options in ({"max_failures": 1.5}, {"timeout": 0.0}, {"timeout": math.nan}):
        with pytest.raises(UserError, match="must lie in"):
            resolve_rewards([length], **options)


def test_a_missing_column_is_named_before_the_run_and_in_it():
    rewards = resolve_rewards(["exact"])
    with pytest.raises(UserError, match=r"exact needs a column 'answer'; the data have gold, level$"):
        rewards.check(["prompt", "gold", "level"])
    with pytest.raises(UserError, match="the data have none besides the prompt"):
        rewards.check(["prompt"])
    rewards.check(["prompt", "answer"])
    with pytest.raises(UserError, match="needs a column 'answer'"):
        score(["exact"])


def test_a_trained_reward_model_is_scored_by_what_loads_it():
    def load(path):
        return lambda prompts, completions, cut: [
            len(path) + len(text) - 100 * c for text, c in zip(completions, cut, strict=True)
        ]

    scored = score(["reward_model:some/path*2"], load_scorer=load, reasons=["stop", "length", "stop", "stop"])
    assert scored.total.tolist() == [2.0 * (9 + n - 100 * (n == 2)) for n in (1, 2, 3, 4)]


def test_a_function_may_ask_how_completions_ended():
    def ended(completions, finish_reason, **columns):
        return [float(reason == "stop") for reason in finish_reason]

    assert score([ended], reasons=["stop", "length", "stop", "length"]).total.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_a_function_that_ends_the_program_has_failed_and_ends_nothing():
    def leaves(completions, **columns):
        if "ccc" in completions:
            raise SystemExit(3)
        return [1.0] * len(completions)

    scored = score([leaves])
    assert scored.valid.tolist() == [True, True, False, True]
    assert scored.failures == {"leaves": 1}


def test_rewards_that_all_weigh_nothing_are_refused():
    with pytest.raises(UserError, match=r"every reward has weight 0 \(json_valid\)"):
        resolve_rewards(["json_valid*0"])
    assert resolve_rewards(["json_valid*0", "format:x"]).parts[0].weight == 0


def test_texts_and_completions_must_match():
    with pytest.raises(ValueError, match="one text a completion"):
        resolve_rewards([length])([prompt()], [completion()], [])
    with pytest.raises(ValueError, match="as many completions"):
        resolve_rewards([length])([prompt(), prompt()], [completion()] * 3, ["a"] * 3)


def test_a_lone_reward_model_has_the_same_name_wherever_it_lies():
    def names(*specs):
        scorer = lambda prompts, completions, cut: [0.0] * len(completions)  # noqa: E731
        return [part.name for part in resolve_rewards(specs, load_scorer=lambda path: scorer).parts]

    assert names("exact", "reward_model:runs/a*0.5") == ["exact", "reward_model"]
    assert names("reward_model:a", "reward_model:b") == ["reward_model:a", "reward_model:b"]
    with pytest.raises(UserError, match="two rewards are called 'reward_model:a'"):
        names("reward_model:a", "reward_model:a")
