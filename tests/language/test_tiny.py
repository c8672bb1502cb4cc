from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advantage.language import tiny
from advantage.language.models import load_model, load_tokenizer
from advantage.language.tasks import task

TOKENIZER = load_tokenizer("tiny")


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def rendered(messages: list[dict[str, str]], opened: bool = False) -> list[int]:
    return TOKENIZER.apply_chat_template(messages, add_generation_prompt=opened)["input_ids"]


@given(st.text(st.characters(codec="utf-8")))
def test_every_text_comes_back(text):
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    assert all(0 <= i < 248 for i in ids)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="<")))
def test_a_printable_character_is_a_token(text):
    ids = TOKENIZER(text)["input_ids"]
    assert len(ids) == len(text)
    assert "".join(TOKENIZER.decode([i]) for i in ids) == text


def test_special_tokens():
    assert TOKENIZER.convert_tokens_to_ids(list(tiny.SPECIAL)) == [0, 1, 2, 3, 4]
    assert (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (0, 1, 2)
    assert TOKENIZER("1<|eos|>")["input_ids"][1:] == [2]


def test_the_shipped_tokenizer_is_the_one_that_is_made_here(tmp_path):
    tiny.make_tokenizer().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (tiny.FOLDER / name).read_text(), name


def test_template():
    ids = rendered([user("12+34="), assistant("46")])
    assert TOKENIZER.decode(ids) == "<|bos|><|user|>12+34=<|assistant|>46<|eos|>"
    assert ids[:2] == [1, 3] and ids[-1] == 2
    with pytest.raises(Exception, match="knows the roles user and assistant, not system"):
        rendered([{"role": "system", "content": "be brief"}])


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=3))
def test_what_is_rendered_begins_with_what_was_rendered_before(turns):
    """So a prompt's tokens are those that the answer was sampled after, in every turn."""
    messages: list[dict[str, str]] = []
    for question, answer in turns:
        messages = [*messages, user(question)]
        prompt, before = rendered(messages, opened=True), rendered(messages)
        messages = [*messages, assistant(answer)]
        whole = rendered(messages)
        assert prompt[: len(before)] == before and prompt[-1] == 4
        assert whole == [*prompt, *TOKENIZER(answer)["input_ids"], 2]


def test_the_template_marks_what_the_assistant_says():
    marked = TOKENIZER.apply_chat_template(
        [user("1+1="), assistant("2"), user("ok"), assistant("3")], return_assistant_tokens_mask=True, return_dict=True
    )
    said = [i for i, mark in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mark]
    assert TOKENIZER.decode(said) == "2<|eos|>3<|eos|>"


def test_the_folder_is_small_and_has_all_that_others_need():
    model = load_model("tiny")
    assert sum(parameter.numel() for parameter in model.parameters()) < 3_000_000
    assert (tiny.FOLDER / "model.safetensors").stat().st_size < 8_000_000
    config = json.loads((tiny.FOLDER / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == "bfloat16"
    assert config["vocab_size"] == len(TOKENIZER) == 248
    ids = {name: config[f"{name}_token_id"] for name in ("pad", "bos", "eos")}
    assert ids == {"pad": 0, "bos": 1, "eos": 2}


def test_lines_are_a_function_of_their_number():
    text = [tiny.lines(i) for i in range(300)]
    assert text == [tiny.lines(i) for i in reversed(range(300))][::-1]
    assert not any(tiny.is_held_out(prompt) for prompt, _ in text)
    assert len(set(text)) > 250


def test_lines_hold_every_task_in_its_share():
    """400 draws; the bound is four standard deviations."""
    marks = {"+": "add", "c": "copy", "r": "reverse", "s": "sort", "j": "json"}
    kinds = Counter(
        "add" if "+" in prompt else marks.get(prompt[0], "subtract") for prompt, _ in map(tiny.lines, range(400))
    )
    for name, share in tiny.SHARES.items():
        assert abs(kinds[name] - 400 * share) < 4 * (400 * share * (1 - share)) ** 0.5


def test_one_prompt_in_eight_is_held_out():
    held = sum(tiny.is_held_out(f"{a}+{b}=") for a in range(100) for b in range(100))
    assert abs(held - 1250) < 4 * (10_000 / 8 * 7 / 8) ** 0.5


def test_it_answers_some_and_not_all():
    """Greedy, 20 held-out prompts a task: what reinforcement learning starts from."""
    model, right = load_model("tiny"), Counter()
    for name in tiny.SHARES:
        examples = [task(name).example(i, held_out=True) for i in range(20)]
        prompts = [rendered(example["prompt"], opened=True) for example in examples]
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
        with torch.no_grad():
            out = model.generate(tokens, attention_mask=(tokens != 0).long(), do_sample=False, max_new_tokens=44)
        for row, example in zip(out[:, width:].tolist(), examples, strict=True):
            said = row[: row.index(2)] if 2 in row else row
            right[name] += TOKENIZER.decode(said) == example["answer"]
    assert 20 < right.total() < 115
    assert all(right[name] > 0 for name in tiny.SHARES)
