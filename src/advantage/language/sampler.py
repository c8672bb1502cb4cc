"""Samplers: completions of prompts, token by token, each with random numbers of its own.

One loop serves two ways to compute logits: our decoding for the Llama family (`TorchSampler`) and the forward pass of
transformers for every other architecture (`GenerateSampler`). `sampler_for` chooses, and its notes say what it chose.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from advantage.errors import NonFinite, UserError
from advantage.language.decode import Decoder, filling
from advantage.language.draw import draw
from advantage.language.forward import ForwardDecoder, evaluating
from advantage.language.request import Request
from advantage.language.stop import StopStrings, TextStream
from advantage.language.types import Completion
from advantage.language.weights import Weights, unsupported
from advantage.runs.streams import Streams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 128  # completions under way at once


class Token(NamedTuple):
    """One sampled token of one completion.

    Attributes:
        row: of the completion, in the order of `Sampler.sample`.
        id: the token.
        logp: in the distribution that it was drawn from.
        finish: "stop" or "length" with a completion's last token, "" before.
    """

    row: int
    id: int
    logp: float
    finish: str


class Rows(Protocol):
    """Completions under way, however their logits are computed: see `Decoder`."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (prompts, vocabulary) of the first tokens."""
        ...

    def advance(self, tokens: Tensor) -> Tensor:
        """Logits (rows, vocabulary) after one more token (rows,) in each row."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; the rows not named are gone."""
        ...


@dataclass
class _Sampler(ABC):
    """The loop that both samplers share.

    Attributes:
        model: a causal model of transformers, or of peft around one; its weights are read anew at every call.
        tokenizer: its tokenizer, for stop strings.
        rows: completions under way at once, ≥ 1; more are sampled in turns.
        notes: what there is to say about how it samples, a line each.
    """

    model: PreTrainedModel
    tokenizer: Any = None
    rows: int = ROWS
    notes: list[str] = field(default_factory=list)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop_ids: Sequence[int] = (),
        stop: Sequence[str] = (),
        seed: int = 0,
        step: int = 0,
        indices: Sequence[int] | None = None,
    ) -> list[Completion]:
        """As `advantage.language.types.Sampler` has it. The n of a prompt at temperature 0 are computed once.

        Raises:
            UserError: an argument is out of its range, or a prompt leaves no room for `max_tokens`.
            NonFinite: the model's logits are NaN or infinite.
        """
        copies = n if temperature == 0 and n > 1 else 1
        request = Request(
            prompts, n // copies, max_tokens, temperature, top_p, top_k, stop_ids, stop, seed, step, indices
        )
        kept: list[list[Token]] = [[] for _ in range(len(prompts) * request.n)]
        for token in self.tokens(request):
            kept[token.row].append(token)
        each = (Completion(tuple(t.id for t in row), tuple(t.logp for t in row), row[-1].finish) for row in kept)
        return [completion for completion in each for _ in range(copies)]

    def tokens(self, request: Request) -> Iterator[Token]:
        """The tokens as they are drawn. The request is checked here, before the first is asked for."""
        embedding: Any = self.model.get_input_embeddings()
        context = getattr(self.model.config, "max_position_embeddings", None)
        request.check(embedding.weight.shape[0], context, self.tokenizer)
        return self._drawn(request)

    @torch.inference_mode()
    def _drawn(self, request: Request) -> Iterator[Token]:
        with evaluating(self.model):
            start = self._decoder(request)
            order = sorted(range(len(request.prompts)), key=lambda prompt: len(request.prompts[prompt]))
            size = max(1, self.rows // request.n)
            for first in range(0, len(order), size):  # of like length: the shorter are kept in places of the longest
                for prompts in self._together(request, order[first : first + size]):
                    yield from _completions(start(), request, prompts, self.tokenizer)

    @abstractmethod
    def _decoder(self, request: Request) -> Callable[[], Rows]:
        """What makes a decoder for some of the prompts."""

    def _together(self, request: Request, prompts: list[int]) -> Iterable[list[int]]:
        """Prompts, shortest first, in parts that one decoder takes."""
        return [prompts]


@dataclass
class TorchSampler(_Sampler):
    """Our own decoding: see `decode.py`; Llama, Mistral, Qwen2 and Qwen3, LoRA on them included.

    Attributes:
        dtype: to compute in; None for that of the model, under autocast for autocast's.

    Raises:
        UserError: the model is of another kind.
    """

    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        self._refuse()

    def _refuse(self) -> None:
        if (why := unsupported(self.model)) is not None:
            raise UserError(f"TorchSampler does not know this model: {why}; use sampler_for or GenerateSampler")

    def _decoder(self, request: Request) -> Callable[[], Rows]:
        self._refuse()  # adapters come and go
        weights = Weights(self.model, self.dtype)
        return lambda: Decoder(weights, request.n, request.max_tokens)


@dataclass
class GenerateSampler(_Sampler):
    """The forward pass of transformers, for any causal model: see `forward.py`. Prompts of one length go together."""

    def _decoder(self, request: Request) -> Callable[[], Rows]:
        return lambda: ForwardDecoder(self.model, request.n)

    def _together(self, request: Request, prompts: list[int]) -> Iterable[list[int]]:
        lengths = [len(request.prompts[prompt]) for prompt in prompts]
        return [
            [prompt for prompt, its in zip(prompts, lengths, strict=True) if its == length]
            for length in sorted(set(lengths))
        ]


def sampler_for(
    model: PreTrainedModel, tokenizer: Any = None, *, dtype: torch.dtype | None = None
) -> TorchSampler | GenerateSampler:
    """The fastest sampler that knows the model; its `notes` say why it is none of the fast ones.

    Args:
        model: a causal model of transformers, or of peft around one.
        tokenizer: its tokenizer, for stop strings.
        dtype: that our decoding computes in; None for the model's.
    """
    why = unsupported(model)
    if why is None:
        return TorchSampler(model, tokenizer, dtype=dtype)
    return GenerateSampler(model, tokenizer, notes=[f"by the model's own forward pass, slower: {why}"])


def stream(
    model: PreTrainedModel,
    tokenizer: Any,
    ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop_ids: Sequence[int] = (),
    stop: Sequence[str] = (),
    seed: int = 0,
    step: int = 0,
    index: int = 0,
) -> Iterator[str]:
    """One completion of one prompt as text, piece by piece; a character comes when all of its bytes are there.

    The pieces joined are the text of the first completion that `sample` draws with the same arguments, without special
    tokens. Errors are those of `sample`; what is wrong with the arguments is said at the call.
    """
    request = Request([ids], 1, max_tokens, temperature, top_p, top_k, stop_ids, stop, seed, step, [index])
    return _text(sampler_for(model, tokenizer).tokens(request), TextStream(tokenizer, ids))


def _text(tokens: Iterator[Token], text: TextStream) -> Iterator[str]:
    for token in tokens:
        if piece := text.push(token.id):
            yield piece
    if piece := text.rest():
        yield piece


class _Row:
    """A completion under way. Its numbers: the stream "completions/<sample>" at (step, prompt index), one a token."""

    def __init__(self, request: Request, prompt: int, sample: int, tokenizer: Any) -> None:
        self.number = prompt * request.n + sample
        self.index = request.index(prompt)
        rng = Streams(request.seed).rng(f"completions/{sample}", request.step, self.index)
        self.uniform: np.ndarray = rng.random(request.max_tokens)
        self._stop_ids = set(request.stop_ids)
        self._strings = StopStrings(tokenizer, request.stop, request.prompts[prompt]) if request.stop else None

    def finish(self, token: int, place: int) -> str:
        """Why the completion ends with this token; "" where it goes on."""
        complete = self._strings is not None and self._strings.push(token)
        if complete or token in self._stop_ids:
            return "stop"
        return "length" if place + 1 == len(self.uniform) else ""


def _completions(decoder: Rows, request: Request, prompts: Sequence[int], tokenizer: Any) -> Iterator[Token]:
    """All completions of some prompts."""
    rows = [_Row(request, prompt, sample, tokenizer) for prompt in prompts for sample in range(request.n)]
    logits = decoder.prefill([request.prompts[prompt] for prompt in prompts]).repeat_interleave(request.n, 0)
    for place in range(request.max_tokens):
        _check_finite(logits, rows, request.step, place)
        uniform = torch.tensor([row.uniform[place] for row in rows], dtype=torch.float64, device=logits.device)
        drawn, logps = draw(logits, uniform, request.temperature, request.top_p, request.top_k)
        tokens = [
            Token(row.number, token, logp, row.finish(token, place))
            for row, token, logp in zip(rows, drawn.tolist(), logps.tolist(), strict=True)
        ]
        yield from tokens
        order = filling([row for row, token in enumerate(tokens) if not token.finish])
        if not order:
            return
        if len(order) < len(rows):
            decoder.keep(order)
            rows, drawn = [rows[row] for row in order], drawn[order]
        logits = decoder.advance(drawn)


def _check_finite(logits: Tensor, rows: Sequence[_Row], step: int, place: int) -> None:
    """The greatest logit is NaN where any is, and infinite where any is +∞ or all are −∞."""
    wrong = ~logits.amax(-1).isfinite()
    if bool(wrong.any()):
        row = rows[int(wrong.nonzero()[0])]
        raise NonFinite(
            f"the logits at token {place} of a completion of prompt {row.index} (step {step}) are not finite;"
            " the model's weights are broken: go back to an earlier checkpoint with a lower learning_rate"
        )
