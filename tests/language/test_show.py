from __future__ import annotations

import pytest

from advantage.errors import UserError
from advantage.language.show import show, token_text
from tests.language.hand_tokenizers import EOS, NO_END, byte_tokenizer, chat

TOKENIZER = byte_tokenizer()


def test_an_example_is_shown_token_by_token() -> None:
    assert show([{"prompt": "2+", "completion": "\n é"}], TOKENIZER) == (
        "data: 1 example of kind sft\n"
        "\n"
        "example 1: 8 tokens, 5 learnt\n"
        "place   id     token\n"
        "    0  256  ·  <|bos|>  BOS\n"
        "    1   17  ·  2\n"
        "    2   10  ·  +\n"
        "    3  198  ●  \\n\n"
        "    4  220  ●  ␣\n"
        "    5  127  ●  Ã\n"
        "    6  102  ●  ©\n"
        "    7  257  ●  <|eos|>  EOS\n"
        "\n"
        "● learnt   · given\n"
    )


def test_prompts_pairs_and_steps_are_shown() -> None:
    prompt = show([{"prompt": chat("a")}], TOKENIZER)
    assert "example 1: 5 tokens, the answer begins behind <|assistant|>" in prompt
    assert "●" not in prompt.split("●")[0]
    pair = show([{"prompt": "a", "chosen": "b", "rejected": "cc"}], TOKENIZER)
    assert "example 1, chosen: 4 tokens, 2 learnt" in pair
    assert "example 1, rejected: 5 tokens, 3 learnt" in pair
    steps = show([{"prompt": "a", "completions": ["b", "c"], "labels": [1, 0]}], TOKENIZER)
    assert "example 1: 5 tokens, 2 steps judged" in steps
    assert "◆ judged" in steps


def test_as_many_rows_as_asked_and_there_are() -> None:
    data = [{"prompt": str(i), "completion": "x"} for i in range(3)]
    assert show(data, TOKENIZER, rows=2).count("\nexample ") == 2
    assert show(data, TOKENIZER, rows=9).count("\nexample ") == 3


def test_a_missing_end_and_pad_that_is_eos_are_marked() -> None:
    out = show([{"messages": chat("a", "b")}], byte_tokenizer(NO_END))
    assert "no end token is learnt: the model is not taught to stop" in out
    assert "EOS = PAD" in show([{"prompt": "a", "completion": "b"}], byte_tokenizer(pad_token=EOS))


def test_notes_are_shown_and_errors_are_training_s_own() -> None:
    same = [{"prompt": "a", "chosen": "b", "rejected": "b"}]
    assert "note: data: 1 of 1 pairs have chosen = rejected: they teach nothing\n" in show(same, TOKENIZER)
    with pytest.raises(UserError, match=r'^data\[0\]: "completion" is empty'):
        show([{"prompt": "a", "completion": ""}], TOKENIZER)
    with pytest.raises(UserError, match="has no chat template"):
        show([{"messages": chat("a", "b")}], byte_tokenizer(None))


def test_text_is_never_taken_for_markup_or_a_terminal_s_commands() -> None:
    tokenizer = byte_tokenizer(merges=[("[", "b"), ("[b", "]")])
    out = show([{"prompt": "[b]\x1b[2J", "completion": "x"}], tokenizer)
    assert "[b]" in out
    assert "\x1b" not in out


def test_colour_is_asked_for() -> None:
    assert "\x1b[" in show([{"prompt": "a", "completion": "b"}], TOKENIZER, color=True)


def test_spaces_of_sentencepiece_are_kept() -> None:
    class Pieces:
        def convert_ids_to_tokens(self, token: int) -> str:
            return ("▁word", "<0x0A>")[token]

        def decode(self, ids: list[int]) -> str:
            return ("word", "\n")[ids[0]]

    assert [token_text(Pieces(), i) for i in (0, 1)] == ["␣word", "\\n"]
