"""What a tripwire needs to see of texts and is no measure of learning: one number an update each."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from advantage.errors import UserError
from advantage.language.template import end_tokens, render_prompt
from advantage.trajectory import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "What is 2 + 3?"  # rendered as any prompt would be


def template_print(tokenizer: PreTrainedTokenizerBase) -> float:
    """A fingerprint of how prompts are rendered: another number where template, tokenizer or a date in them changed."""
    template = getattr(tokenizer, "chat_template", None)
    chat: Any = [{"role": "user", "content": PROBE}] if template else PROBE
    try:
        seen = str(render_prompt(tokenizer, chat))
    except UserError:  # a template that wants other messages than a lone user's
        seen = str(template)
    return float(zlib.crc32(seen.encode()))


def of_examples(data: Batch, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Of given answers: how many end in a token that ends a turn, and how their prompts are rendered.

    Args:
        data: rows of texts with the tokens to learn as actions.
        tokenizer: that rendered them.
    """
    assert data.mask is not None
    last = data.actions.gather(1, data.mask.sum(-1, keepdim=True).clamp(min=1) - 1).squeeze(-1)
    ends = end_tokens(tokenizer)
    return {
        "examples/ended": sum(token in ends for token in last.tolist()) / len(last),
        "examples/template": template_print(tokenizer),
    }


def identical(data: Batch) -> float:
    """Share of preference pairs, two neighbouring rows each, whose chosen and rejected texts are the same tokens."""
    assert data.length is not None
    tokens, length = data.context["tokens"], data.length
    same = (tokens[0::2] == tokens[1::2]).all(-1) & (length[0::2] == length[1::2])
    return float(same.float().mean())
