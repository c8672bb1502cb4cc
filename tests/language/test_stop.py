"""Text out of tokens, and strings that end a completion wherever the tokens' borders are."""

from __future__ import annotations

from typing import Any

import pytest

from advantage.language.stop import StopStrings, TextStream
from tests.language.hand_tokenizers import byte_tokenizer

TEXTS = ["plain words", "naïve café", "漢字 and 🙂👩‍👩‍👧", "tabs\t\n\n end ", "", "a\ufffdb"]


def metaspace() -> Any:
    """Words that carry their space in front, which decoding drops at the very beginning (as Llama 2's)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<unk>": 0, "▁so": 1, "▁it": 2, "▁is": 3, ".": 4}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def pieces(tokenizer: Any, ids: list[int], before: list[int] | None = None, special: bool = False) -> list[str]:
    stream = TextStream(tokenizer, before or [], special=special)
    return [stream.push(token) for token in ids] + [stream.rest()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_joined_are_the_text(text: str) -> None:
    tokenizer = byte_tokenizer(adds="")
    ids = tokenizer.encode(text)
    found = pieces(tokenizer, ids)
    assert "".join(found) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in found)
        assert found[-1] == ""
    assert "".join(pieces(tokenizer, ids, before=tokenizer.encode("vor 🙂"))) == text


def test_characters_come_whole_and_at_once() -> None:
    tokenizer = byte_tokenizer(adds="")
    assert pieces(tokenizer, tokenizer.encode("é🙂a")) == ["", "é", "", "", "", "🙂", "a", ""]


def test_merges_that_end_within_a_character() -> None:
    """A token may hold the end of one character and the beginning of the next."""
    first, second = (byte_tokenizer(adds="").convert_ids_to_tokens(byte_tokenizer(adds="").encode(c)) for c in "é🙂")
    tokenizer = byte_tokenizer(adds="", merges=[(first[1], second[0])])
    ids = tokenizer.encode("é🙂!")
    assert len(ids) == 6
    assert pieces(tokenizer, ids) == ["", "é", "", "", "🙂", "!", ""]


def test_bytes_that_are_no_text_are_let_go() -> None:
    tokenizer = byte_tokenizer(adds="")
    lone = tokenizer.encode("é")[0]
    found = pieces(tokenizer, [lone] * 40)
    assert "".join(found) == "\ufffd" * 40
    assert max(map(len, found)) < 40
    assert pieces(tokenizer, [lone]) == ["", "\ufffd"]


def test_special_tokens_show_where_asked() -> None:
    tokenizer = byte_tokenizer(adds="")
    ids = [*tokenizer.encode("yes"), tokenizer.eos_token_id]
    assert "".join(pieces(tokenizer, ids)) == "yes"
    assert "".join(pieces(tokenizer, ids, special=True)) == "yes<|eos|>"


def test_a_leading_space_behind_the_prompt() -> None:
    tokenizer = metaspace()
    assert tokenizer.decode([2, 3]) == "it is"
    assert pieces(tokenizer, [2, 3, 4], before=[1]) == [" it", " is", ".", ""]
    assert [StopStrings(tokenizer, [" it"], [1]).push(token) for token in (2,)] == [True]


@pytest.mark.parametrize("special", [False, True])
def test_a_long_text_is_decoded_in_windows(special: bool) -> None:
    tokenizer = byte_tokenizer(adds="")
    longest = []
    decode = tokenizer.decode
    tokenizer.decode = lambda ids, **how: longest.append(len(ids)) or decode(ids, **how)
    text = "all of it, 🙂 " * 50
    assert "".join(pieces(tokenizer, tokenizer.encode(text), special=special)) == text
    assert max(longest) < 16


@pytest.mark.parametrize(
    ("text", "stop", "at"),
    [
        ("so it ends. Never read", ["ends."], 10),  # over many tokens
        ("so it ends. Never read", ["zzz", "Never", "it"], 4),  # the first that comes
        ("aab", ["ab"], 2),
        ("ababac", ["abac"], 5),  # a false start
        ("é🙂é", ["🙂"], 5),
        ("é🙂é", ["é"], 1),
        ("x", ["x"], 0),
        ("nothing", ["!"], None),
        ("no<|eos|>", ["<|eos|>"], 2),  # special tokens count as text
    ],
)
def test_the_token_that_completes_a_string(text: str, stop: list[str], at: int | None) -> None:
    tokenizer = byte_tokenizer(adds="")
    strings = StopStrings(tokenizer, stop)
    found = [strings.push(token) for token in tokenizer.encode(text)]
    assert (found.index(True) if True in found else None) == at


def test_a_string_inside_a_token_and_over_a_border() -> None:
    tokenizer = byte_tokenizer(adds="", merges=[("a", "b"), ("c", "d"), ("cd", "e")])
    ids = tokenizer.encode("ababcdeab")
    assert tokenizer.convert_ids_to_tokens(ids) == ["ab", "ab", "cde", "ab"]
    for stop, at in (("bc", 2), ("d", 2), ("babcd", 2), ("ea", 3), ("b", 0)):
        strings = StopStrings(tokenizer, [stop])
        assert [strings.push(token) for token in ids].index(True) == at, stop


def test_the_prompt_is_no_part_of_it() -> None:
    tokenizer = byte_tokenizer(adds="")
    strings = StopStrings(tokenizer, ["stop"], tokenizer.encode("sto"))
    assert not any(strings.push(token) for token in tokenizer.encode("p sto"))
    assert strings.push(tokenizer.encode("p")[0])
