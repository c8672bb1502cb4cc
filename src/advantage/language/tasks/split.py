"""Which examples are held out, and how example `index` of either side is drawn.

The prompt's text alone decides, by the rule that also keeps prompts out of the text of `tiny`: so the two sides share
no prompt, whatever the task, its ranges or the index; what is held out in one task is held out in all, "mix" included,
and `tiny` was never shown it. Example `index` is the first candidate of its side in the random stream of (name, side,
index); two indices may meet the same prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from advantage.errors import UserError
from advantage.language.tiny import is_held_out
from advantage.runs.streams import Streams

_TRIES = 1000  # one prompt in eight is held out; 1000 of a large space miss them all with probability 1e-58

T = TypeVar("T")


def draw(
    name: str, index: int, held_out: bool, candidate: Callable[[np.random.Generator], T], text: Callable[[T], str]
) -> T:
    """The first candidate of the wanted side in the random stream of (name, side, index).

    Args:
        name: of the task.
        index: of the example, ≥ 0.
        held_out: the side.
        candidate: makes one from a generator.
        text: the prompt of a candidate, which decides its side.

    Raises:
        UserError: a negative index, or so few prompts that none of 1000 candidates is of that side.
    """
    if index < 0:
        raise UserError(f"example {index} of task {name!r}: the index must be at least 0")
    rng = Streams(0).rng(f"task/{name}", int(held_out), index)
    for _ in range(_TRIES):
        if is_held_out(text(found := candidate(rng))) == held_out:
            return found
    side = "hold out" if held_out else "train on"
    raise UserError(f"task {name!r} has no example to {side} with these ranges; widen them")


def as_prompt(text: str, chat: bool) -> str | list[dict[str, Any]]:
    """A prompt as a user's message, or plain."""
    return [{"role": "user", "content": text}] if chat else text


def text_of(shown: str | list[dict[str, Any]]) -> str:
    """The text of a completion in either form.

    >>> text_of("4"), text_of([{"role": "assistant", "content": "4"}])
    ('4', '4')
    """
    return shown if isinstance(shown, str) else "".join(str(message.get("content") or "") for message in shown[-1:])
