"""Tokenizers made by hand: one token a byte, a few merges, and the chat templates that matter."""

from __future__ import annotations

from typing import Any

BOS, EOS, PAD, USER, ASSISTANT = "<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>"

CHATML = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|eos|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Prefix-preserving, with a newline behind the end token."""

STRIPS_THINKING = (
    "{% for m in messages %}{% set c = m.content %}"
    "{% if m.role == 'assistant' and not loop.last %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ '<|' + m.role + '|>' + c + '<|eos|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Drops the thinking of all answers but the last."""

DEFAULT_SYSTEM = (
    "{% if messages[-1].role == 'assistant' and messages[0].role != 'system' %}{{ 'Be kind. ' }}{% endif %}" + CHATML
)
"""Writes a system prompt only once there is an answer."""

OPENS_THINKING = CHATML.replace("{{ '<|assistant|>' }}", "{{ '<|assistant|><think>' }}")
"""Begins the answer with what the answer itself does not have."""

NO_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""Ends no turn with a token of its own."""

ALTERNATES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system\nhere') }}{% endif %}" + CHATML


def byte_tokenizer(
    template: str | None = CHATML,
    *,
    merges: list[tuple[str, str]] | None = None,
    adds: str = "bos",
    **specials: Any,
) -> Any:
    """A byte-level tokenizer of 256 bytes, the merges and five specials.

    Args:
        template: of chats; None for none.
        merges: pairs of pieces that become one token.
        adds: "bos", "bos eos" or "": what it puts around a text on its own.
        specials: `eos_token`, … other than usual.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in merges or []]
    inner = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges or []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([BOS, EOS, PAD, USER, ASSISTANT])
    if adds:
        ids = [(token, inner.token_to_id(token)) for token in (BOS, EOS)]
        single = f"{BOS} $A {EOS}" if "eos" in adds else f"{BOS} $A"
        inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, **specials}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **named)
    tokenizer.chat_template = template
    return tokenizer


def chat(*turns: str) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
