"""Text out of tokens as they come, and the strings that end a completion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_UNREADABLE = "\ufffd"  # what stands in decoded text for bytes that are no character, or not yet one
_HELD = 3  # unreadable marks at the end that may still become one character: its first bytes, without the last
_CONTEXT = 6  # tokens before the first that are decoded with it: a leading space shows only behind something
_PATIENCE = 16  # tokens that may go without a readable end before their text is let go


class TextStream:
    """Tokens in, text out: each character as soon as all of its bytes are there.

    Only the last tokens are decoded, together with those before them, so that a token costs the same anywhere.

    Args:
        tokenizer: of transformers.
        before: tokens that the text follows (the prompt); they are not given out.
        special: whether special tokens show.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = (), *, special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._window = list(before[-_CONTEXT:]) if before else []
        self._old = len(self._window)  # tokens of the window whose text is out
        self._given = len(self._decoded())  # characters of the window that are out

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is in the middle of its bytes."""
        self._window.append(token)
        text = self._decoded()
        readable = len(text) - min(_HELD, len(text) - len(text.rstrip(_UNREADABLE)))
        new = text[self._given : readable]
        self._given = max(self._given, readable)
        if readable == len(text) or len(self._window) - self._old > _PATIENCE:
            new += text[self._given :]
            self._window = self._window[self._old :]
            self._old, self._given = len(self._window), len(self._decoded())
        return new

    def rest(self) -> str:
        """What is still held at the end: the marks of an unfinished character."""
        text = self._decoded()
        held, self._given = text[self._given :], len(text)
        return held

    def _decoded(self) -> str:
        text: str = self._tokenizer.decode(
            self._window, skip_special_tokens=not self._special, clean_up_tokenization_spaces=False
        )
        return text


class StopStrings:
    """Whether a completion holds a stop string yet, asked token by token.

    A string may begin and end anywhere within tokens; it counts only as a whole inside the completion.

    Args:
        tokenizer: of transformers.
        stop: strings, none of them empty.
        prompt: the tokens before the completion.
    """

    def __init__(self, tokenizer: Any, stop: Iterable[str], prompt: Sequence[int] = ()) -> None:
        self._stop = tuple(stop)
        self._stream = TextStream(tokenizer, prompt, special=True)
        self._reach = max(map(len, self._stop)) - 1  # characters of earlier text that a string may begin in
        self._tail = ""

    def push(self, token: int) -> bool:
        """Whether a stop string becomes complete with this token."""
        text = self._tail + self._stream.push(token)
        self._tail = text[-self._reach :] if self._reach else ""
        return any(string in text for string in self._stop)
