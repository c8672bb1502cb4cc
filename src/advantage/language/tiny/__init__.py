"""`tiny`, the packaged model of our own: the text that it is trained on and the tokenizer that it reads with.

Its folder is this one, an ordinary transformers folder: a Llama of under a million weights, to which every byte of a
text is a token. It is shipped half-trained: it answers often enough for reinforcement learning to find something to
reinforce, and seldom enough to improve.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from advantage.language.tasks.generated import Generated

FOLDER = Path(__file__).parent
CONTEXT = 512  # tokens
SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")  # ids 0, 1, …; pad is not eos
NEVER_IN_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))
TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first -%}{{- '<|bos|>' -}}{%- endif -%}
{%- if message.role == 'user' -%}{{- '<|user|>' + message.content -}}
{%- elif message.role == 'assistant' -%}
{{- '<|assistant|>' -}}{%- generation -%}{{- message.content + '<|eos|>' -}}{%- endgeneration -%}
{%- else -%}{{- raise_exception("the template of tiny knows the roles user and assistant, not " + message.role) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

# What is learned from few examples gets a small share, so that nothing is mastered before sums have begun.
SHARES = {"add": 0.25, "subtract": 0.18, "copy": 0.12, "reverse": 0.11, "sort": 0.22, "json": 0.12}
_TEXT_KEY = 20_261_121


def lines(index: int) -> tuple[str, str]:
    """Prompt and answer number `index` ≥ 0 of a text without end, a pure function of its number.

    One of the generated tasks, by chance as `SHARES` says, with the ranges of `--task mix` and never a held-out prompt.

    >>> lines(0)
    ('sort 16 53 54 47', '16 47 53 54')
    """
    rng = np.random.Generator(np.random.Philox(key=[_TEXT_KEY, index]))
    task = _task(str(rng.choice(list(SHARES), p=list(SHARES.values()))))
    example = task.example(index)
    return example["prompt"], example["answer"]


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is kept back from training. Its text alone decides; one in eight is.

    >>> is_held_out("7+7="), is_held_out("7+8=")
    (True, False)
    """
    return zlib.crc32(prompt.encode()) % 8 == 0


@functools.cache
def _task(name: str) -> Generated:
    from advantage.language.tasks import generated

    return generated.make(name, chat=False)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of this folder, made anew: a token for each byte that UTF-8 knows, after the special ones.

    Nothing is added around a plain text; a chat's special tokens are its template's.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [word for byte, word in enumerate(_byte_words()) if byte not in NEVER_IN_UTF8]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate([*SPECIAL, *words])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in SPECIAL])
    pad, bos, eos, *turns = SPECIAL
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=turns,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def _byte_words() -> list[str]:
    """The letter that stands for each byte in the `ByteLevel` of tokenizers: itself, where it can be seen."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    unseen = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + unseen.index(byte)) for byte in range(256)]
