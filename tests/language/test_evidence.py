"""What tripwires are given to see of texts: templates, ends, pairs, and which reward function makes the difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from advantage.language.evidence import identical, of_examples, template_print
from advantage.language.generate import Samples, describe
from advantage.language.models import load_tokenizer
from advantage.language.pairs import batch_of_pairs
from advantage.language.rewards import Scored
from advantage.language.rows import batch_of_rows
from advantage.language.template import render_example
from advantage.language.types import Completion, Prompt

ASKED = [{"role": "user", "content": "copy ab"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_the_print_of_a_template_changes_with_it_and_with_nothing_else() -> None:
    tokenizer, again = load_tokenizer("tiny"), load_tokenizer("tiny")
    assert template_print(tokenizer) == template_print(again)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", " <|assistant|>")
    assert template_print(tokenizer) != template_print(again)
    strict = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}a"
    tokenizer.chat_template = strict
    first = template_print(tokenizer)  # though it refuses what it is asked to render
    tokenizer.chat_template = strict + "b"
    assert template_print(tokenizer) != first
    tokenizer.chat_template = None
    assert template_print(tokenizer) != first


def test_answers_that_end_are_counted_by_the_last_token_that_is_learnt() -> None:
    tokenizer = load_tokenizer("tiny")
    whole = render_example(tokenizer, {"prompt": ASKED, "completion": said("ab")})
    endless = replace(whole, ids=whole.ids[:-1], mask=whole.mask[:-1])
    for rows, share in (([whole], 1.0), ([whole, endless], 0.5), ([endless], 0.0)):
        data = batch_of_rows([row.ids for row in rows], [row.mask for row in rows])
        assert of_examples(data, tokenizer)["examples/ended"] == share


def test_pairs_are_identical_where_both_texts_are() -> None:
    tokenizer = load_tokenizer("tiny")
    one = {"prompt": ASKED, "chosen": said("ab"), "rejected": said("ab")}
    other, longer = {**one, "rejected": said("ba")}, {**one, "rejected": said("abb")}
    assert identical(batch_of_pairs([one, other, longer, one], tokenizer)) == 0.5


def samples(by_name: dict[str, list[float | None]], weights: list[float], valid: list[bool] | None = None) -> Samples:
    """One prompt whose completions have these rewards."""
    rows = list(zip(*by_name.values(), strict=True))
    total = torch.tensor([sum(w * (r or 0.0) for w, r in zip(weights, row, strict=True)) for row in rows])
    completion = Completion((5, 6), (-1.0, -1.0), "stop")
    known = torch.tensor([True] * len(rows) if valid is None else valid)
    prompt = Prompt((1,), "q", {}, 0)
    return Samples((prompt,), (completion,) * len(rows), ("x",) * len(rows), Scored(total, known, by_name, None, {}, 0))


def shares(found: dict[str, float]) -> dict[str, float]:
    return {name.split("/")[1]: share for name, share in found.items() if name.endswith("/share")}


def test_a_function_s_share_is_its_squared_correlation_with_the_total() -> None:
    right: list[float | None] = [0.0, 0.0, 1.0, 1.0]
    form: list[float | None] = [0.0, 1.0, 0.0, 1.0]
    found = describe(samples({"right": right, "form": form}, [2.0, 1.0]))  # independent: 4 of 5 parts, and 1
    assert shares(found) == pytest.approx({"right": 0.8, "form": 0.2})
    drowned = shares(describe(samples({"right": right, "form": form}, [1.0, 1e-3])))
    assert drowned["right"] > 0.99 and drowned["form"] < 0.01


def test_a_function_without_spread_alone_or_of_what_is_left_out_has_no_share() -> None:
    assert shares(describe(samples({"right": [0.0, 1.0]}, [1.0]))) == {}
    steady = samples({"right": [0.0, 1.0], "form": [1.0, 1.0]}, [1.0, 1.0])
    assert shares(describe(steady)) == pytest.approx({"right": 1})
    by_name: dict[str, list[float | None]] = {"right": [0.0, 1.0, 9.0], "form": [0.0, 1.0, None]}
    assert shares(describe(samples(by_name, [1.0, 1.0], [True, True, False]))) == pytest.approx({"right": 1, "form": 1})


def test_of_a_single_completion_no_spread_is_told() -> None:
    assert "frac_reward_zero_std" in describe(samples({"right": [0.0, 1.0]}, [1.0]))
    told = describe(samples({"right": [1.0]}, [1.0]))
    assert "frac_reward_zero_std" not in told and "reward_std" not in told and told["reward"] == 1.0
    assert told["completions/tokens"] == 2.0


def test_a_draw_knows_how_its_prompts_were_rendered(tmp_path: Any) -> None:
    import advantage

    run = advantage.train("grpo", "tiny", task="add", steps=1, batch_size=2, num_generations=2, threads=1,
                          quiet=True, run_dir=tmp_path / "run")  # fmt: skip
    recorded = run.metrics()
    assert recorded["examples/template"][0] == template_print(load_tokenizer("tiny"))
    assert recorded["completions/tokens"][0] == recorded["num_tokens"][0]  # all were trained on
