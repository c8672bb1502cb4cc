from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advantage.errors import UserError
from advantage.language.template import (
    Row,
    make_prompt,
    render_example,
    render_pair,
    render_prompt,
    render_steps,
)
from tests.language.hand_tokenizers import (
    ALTERNATES,
    ASSISTANT,
    CHATML,
    DEFAULT_SYSTEM,
    EOS,
    NO_END,
    OPENS_THINKING,
    STRIPS_THINKING,
    byte_tokenizer,
    chat,
)

TOKENIZER = byte_tokenizer()
EOS_ID = TOKENIZER.eos_token_id
LEARN = {"role": "assistant", "content": "4"}


def learnt(row: Row, tokenizer=TOKENIZER) -> str:
    """The learnt tokens as text, a bar where others stand between them."""
    spans, inside = [], False
    for token, mark in zip(row.ids, row.mask, strict=True):
        if mark:
            spans = [*spans[:-1], [*spans[-1], token]] if inside else [*spans, [token]]
        inside = mark
    return "|".join(tokenizer.decode(span) for span in spans)


def text(row: Row, tokenizer=TOKENIZER) -> str:
    return tokenizer.decode(list(row.ids))


# --- prompts ---


def test_a_plain_prompt_has_the_specials_that_the_tokenizer_adds_and_no_closing_eos() -> None:
    bare = [TOKENIZER.convert_tokens_to_ids(c) for c in "2+2"]
    assert render_prompt(TOKENIZER, "2+2") == (TOKENIZER.bos_token_id, *bare)
    assert render_prompt(byte_tokenizer(adds=""), "2+2") == tuple(bare)
    assert render_prompt(byte_tokenizer(adds="bos eos"), "2+2") == (TOKENIZER.bos_token_id, *bare)
    assert render_prompt(byte_tokenizer(adds=""), "2+2" + EOS)[-1] == EOS_ID  # the user's own stays


def test_a_chat_prompt_ends_where_the_answer_begins() -> None:
    ids = render_prompt(TOKENIZER, chat("2+2"))
    assert TOKENIZER.decode(list(ids)) == "<|user|>2+2<|eos|>\n<|assistant|>"
    assert all(type(i) is int for i in ids)


def test_a_chat_prompt_that_ends_in_an_answer_is_gone_on_with() -> None:
    assert TOKENIZER.decode(list(render_prompt(TOKENIZER, chat("2+2", "It is")))).endswith("<|assistant|>It is")


def test_options_reach_the_template() -> None:
    tokenizer = byte_tokenizer("{{ tools | length }}{{ mood }}" + CHATML)
    prompt = make_prompt(
        tokenizer, {"prompt": chat("a"), "tools": '[{"x": 1}]', "chat_template_kwargs": {"mood": "calm"}}, 3
    )
    assert tokenizer.decode(list(prompt.ids)).startswith("1calm<|user|>")


@pytest.mark.parametrize(
    ("wrong", "line"),
    [({"tools": "not json"}, "tools is 'not json'"), ({"chat_template_kwargs": [1]}, "chat_template_kwargs is")],
)
def test_options_that_are_none_are_named(wrong: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        make_prompt(byte_tokenizer(CHATML), {"prompt": chat("a"), **wrong}, 3)


def test_a_prompt_carries_its_other_columns_and_given_ids_are_not_encoded_again() -> None:
    prompt = make_prompt(TOKENIZER, {"prompt": "2+2", "answer": "4"}, 7)
    assert (prompt.shown, prompt.columns, prompt.index) == ("2+2", {"answer": "4"}, 7)
    given_ids = make_prompt(TOKENIZER, {"prompt_ids": [19, 11], "answer": "4"}, 0)
    assert given_ids.ids == (19, 11)
    assert given_ids.shown == TOKENIZER.decode([19, 11])
    assert given_ids.columns == {"answer": "4"}


def test_a_dict_or_a_list_from_the_template_are_the_same() -> None:
    class Older:
        chat_template = CHATML

        def apply_chat_template(self, messages, tokenize, **options):
            return TOKENIZER.apply_chat_template(messages, tokenize=tokenize, return_dict=False, **options)

    assert render_prompt(Older(), chat("2+2")) == render_prompt(TOKENIZER, chat("2+2"))


# --- answers ---


def test_a_plain_completion_gets_the_eos_once() -> None:
    for completion in ("4", "4" + EOS):
        row = render_example(TOKENIZER, {"prompt": "2+2=", "completion": completion})
        assert text(row) == "<|bos|>2+2=4<|eos|>"
        assert learnt(row) == "4<|eos|>"
        assert row.start == len(render_prompt(TOKENIZER, "2+2="))
    adds_eos = byte_tokenizer(adds="bos eos")
    assert render_example(adds_eos, {"prompt": "2+2=", "completion": "4"}) == row


def test_pad_that_is_eos_changes_nothing() -> None:
    same = byte_tokenizer(pad_token=EOS)
    for example in ({"prompt": "2+2=", "completion": "4"}, {"messages": chat("2+2", "4")}):
        assert render_example(same, example) == render_example(TOKENIZER, example)
        assert render_example(same, example).ids[-1] == same.pad_token_id


def test_a_chat_completion_is_learnt_up_to_its_end_token_and_the_row_ends_there() -> None:
    row = render_example(TOKENIZER, {"prompt": chat("2+2"), "completion": [LEARN]})
    assert text(row) == "<|user|>2+2<|eos|>\n<|assistant|>4<|eos|>"
    assert learnt(row) == "4<|eos|>"
    assert row.ids[: row.start] == render_prompt(TOKENIZER, chat("2+2"))


def test_all_turns_of_the_assistant_are_learnt_or_only_the_completion() -> None:
    turns = chat("2+2", "4", "3+3", "6", "thanks")
    row = render_example(TOKENIZER, {"messages": turns})
    assert learnt(row) == "4<|eos|>|6<|eos|>"
    assert row.ids[-1] == EOS_ID  # what follows the last answer is left off
    assert learnt(render_example(TOKENIZER, {"prompt": turns[:3], "completion": turns[3:4]})) == "6<|eos|>"


def test_two_answers_in_a_row_are_two_turns() -> None:
    row = render_example(TOKENIZER, {"messages": [*chat("2+2", "4"), LEARN]})
    assert learnt(row) == "4<|eos|>|4<|eos|>"


def test_a_template_without_an_end_token_teaches_what_it_writes() -> None:
    tokenizer = byte_tokenizer(NO_END)
    assert learnt(render_example(tokenizer, {"messages": chat("2+2", "4")}), tokenizer) == "4\n"


def test_of_a_text_everything_is_learnt_but_its_first_token() -> None:
    assert learnt(render_example(TOKENIZER, {"text": "abc"})) == "abc<|eos|>"
    assert learnt(render_example(byte_tokenizer(adds=""), {"text": "abc"})) == "bc<|eos|>"


def test_given_ids_are_trained_on_as_they_are() -> None:
    row = render_example(TOKENIZER, {"prompt_ids": [5, 6], "completion_ids": [7, 8], "prompt": "x", "completion": "y"})
    assert row == Row((5, 6, 7, 8), (False, False, True, True))
    pair = render_pair(TOKENIZER, {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7, 8]})
    assert [learned.ids for learned in pair] == [(5, 6), (5, 7, 8)]


# --- tokens across the border ---


def test_a_merge_across_the_border_does_not_change_the_prompt() -> None:
    merging = byte_tokenizer(merges=[("=", "4")])
    row = render_example(merging, {"prompt": "2+2=", "completion": "4"})
    assert row.ids[: row.start] == render_prompt(merging, "2+2=")
    assert text(row, merging) == "<|bos|>2+2=4<|eos|>"
    assert merging("2+2=4")["input_ids"] != list(row.ids[:-1])  # what encoding the whole would have given


def test_a_merge_across_the_border_of_a_chat_does_not_change_the_prompt() -> None:
    tokenizer = byte_tokenizer(
        CHATML.replace("'<|' + m.role + '|>'", "m.role + ':'").replace("<|assistant|>", "assistant:")
    )
    merging = byte_tokenizer(tokenizer.chat_template, merges=[(":", "4")])
    row = render_example(merging, {"messages": chat("2+2", "4", "3+3", "4")})
    assert learnt(row, merging) == "4<|eos|>|4<|eos|>"
    assert row.ids[: row.start] == render_prompt(merging, chat("2+2"))


def test_a_space_that_only_stands_between_is_refused() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {piece: i for i, piece in enumerate(["<|eos|>", "▁", "a", "b", "ab"])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|eos|>")
    with pytest.raises(UserError) as caught:
        render_example(tokenizer, {"prompt": "a", "completion": "b"})
    assert str(caught.value) == (
        "the tokenizer reads prompt and completion apart as 'a b' and together as 'ab'; "
        "move the space at the border to the other side"
    )


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12), st.text(min_size=1, max_size=12), st.sampled_from([[], [("a", "b"), ("=", "4")]]))
def test_a_row_is_the_prompt_and_the_text(prompt: str, completion: str, merges: list[tuple[str, str]]) -> None:
    tokenizer = byte_tokenizer(merges=merges)
    row = render_example(tokenizer, {"prompt": prompt, "completion": completion})
    assert row.ids[: row.start] == render_prompt(tokenizer, prompt)
    assert tokenizer.decode(list(row.ids[row.start :])) == completion + EOS
    assert len(row.mask) == len(row.ids)
    assert all(row.mask[row.start :])


# --- pairs and steps ---


def test_a_pair_is_the_same_in_every_form() -> None:
    better, worse = [LEARN], [{"role": "assistant", "content": "5"}]
    forms = [
        {"prompt": chat("2+2"), "chosen": better, "rejected": worse},
        {"prompt": chat("2+2"), "chosen": chat("2+2", "4"), "rejected": chat("2+2", "5")},
        {"chosen": chat("2+2", "4"), "rejected": chat("2+2", "5")},
        {"prompt": "2+2", "chosen": chat("2+2", "4"), "rejected": chat("2+2", "5")},
    ]
    pairs = [render_pair(TOKENIZER, form) for form in forms]
    assert len(set(pairs)) == 1
    assert [learnt(row) for row in pairs[0]] == ["4<|eos|>", "5<|eos|>"]


def test_a_plain_pair_has_its_eos_once_each_and_needs_no_prompt() -> None:
    chosen, rejected = render_pair(TOKENIZER, {"prompt": "2+2=", "chosen": "4", "rejected": "5" + EOS})
    assert (text(chosen), text(rejected)) == ("<|bos|>2+2=4<|eos|>", "<|bos|>2+2=5<|eos|>")
    assert learnt(render_pair(TOKENIZER, {"chosen": "good", "rejected": "bad"})[0]) == "good<|eos|>"


def test_equal_conversations_keep_their_last_message_as_the_answer() -> None:
    same = chat("2+2", "4")
    assert [learnt(row) for row in render_pair(TOKENIZER, {"chosen": same, "rejected": same})] == ["4<|eos|>"] * 2


def test_steps_end_where_their_labels_belong() -> None:
    row, ends = render_steps(TOKENIZER, {"prompt": "2+2*3", "completions": ["2*3=6", "2+6=8"], "labels": [True, False]})
    assert learnt(row) == "2*3=6\n2+6=8"
    assert [TOKENIZER.decode([row.ids[end]]) for end in ends] == ["\n", "8"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("template", "messages", "line"),
    [
        (
            STRIPS_THINKING,
            chat("2+2", "hm</think>4", "3+3", "6"),
            "the chat template is not prefix-preserving: the conversation up to message 2 has 'hm</' at token 6, the "
            "whole conversation has '4<|eos|><|user|>3'; train one answer a line (prompt, completion), or with a "
            "template that writes both alike",
        ),
        (
            DEFAULT_SYSTEM,
            chat("2+2", "4"),
            "the chat template is not prefix-preserving: the prompt up to message 1 has '<|user|>2+2' at token 0, the "
            "whole conversation has 'Be k'; train one answer a line (prompt, completion), or with a template that "
            "writes both alike",
        ),
        (
            OPENS_THINKING,
            chat("2+2", "4"),
            "the chat template is not prefix-preserving: the prompt up to message 1 has '<thi' at token 7, the whole "
            "conversation has '4<|eos|>\\n'; train one answer a line (prompt, completion), or with a template that "
            "writes both alike",
        ),
        (
            None,
            chat("2+2", "4"),
            "the tokenizer has no chat template, which messages need; give plain text, or take a model with one",
        ),
        (
            ALTERNATES,
            [{"role": "system", "content": "s"}, *chat("2+2", "4")],
            "the chat template refuses the messages: no system here",
        ),
    ],
)
def test_a_template_that_does_not_do_is_named(template: str | None, messages: list[dict[str, str]], line: str) -> None:
    with pytest.raises(UserError) as caught:
        render_example(byte_tokenizer(template), {"messages": messages})
    assert str(caught.value) == line


def test_a_template_that_strips_thinking_still_trains_one_answer_a_line() -> None:
    tokenizer = byte_tokenizer(STRIPS_THINKING)
    turns = chat("2+2", "hm</think>4", "3+3", "so</think>6")
    row = render_example(tokenizer, {"prompt": turns[:3], "completion": turns[3:]})
    assert (
        text(row, tokenizer)
        == "<|user|>2+2<|eos|><|assistant|>4<|eos|><|user|>3+3<|eos|><|assistant|>so</think>6<|eos|>"
    )
    assert learnt(row, tokenizer) == "so</think>6<|eos|>"


def test_errors_name_the_tokenizer_s_model() -> None:
    tokenizer = byte_tokenizer(None)
    tokenizer.name_or_path = "some/model"
    with pytest.raises(UserError, match=r"^the tokenizer of some/model has no chat template"):
        render_prompt(tokenizer, chat("2+2"))


def test_a_plain_completion_needs_an_eos() -> None:
    with pytest.raises(UserError) as caught:
        render_example(byte_tokenizer(eos_token=None), {"prompt": "a", "completion": "b"})
    assert str(caught.value) == "the tokenizer has no EOS token to end a completion with; set its eos_token"


def test_forms_are_not_mixed() -> None:
    with pytest.raises(UserError, match="must both be text"):
        render_example(TOKENIZER, {"prompt": chat("a"), "completion": "b"})


def test_the_generation_prompt_is_part_of_the_prompt() -> None:
    assert render_prompt(TOKENIZER, chat("a"))[-1] == TOKENIZER.convert_tokens_to_ids(ASSISTANT)
