"""What a call of a sampler asks for, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from advantage.errors import UserError


@dataclass(frozen=True)
class Request:
    """The arguments of `advantage.language.types.Sampler.sample`, which says what they mean."""

    prompts: Sequence[Sequence[int]]
    n: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_ids: Sequence[int] = ()
    stop: Sequence[str] = ()
    seed: int = 0
    step: int = 0
    indices: Sequence[int] | None = None

    def index(self, prompt: int) -> int:
        """Of a prompt in its data."""
        return prompt if self.indices is None else self.indices[prompt]

    def check(self, vocabulary: int, context: int | None, tokenizer: Any) -> None:
        """Raises UserError for the first thing that is wrong.

        Args:
            vocabulary: of the model; ids lie below it.
            context: tokens that the model bears, prompt and completion together; None where it does not say.
            tokenizer: the sampler's; None where it has none.
        """
        self._check_numbers()
        if isinstance(self.stop, str) or not all(isinstance(string, str) and string for string in self.stop):
            raise UserError(f"stop is {self.stop!r}; it is a list of strings, none of them empty")
        if self.stop and tokenizer is None:
            raise UserError(f"stop is {list(self.stop)!r}, but the sampler has no tokenizer to read text with; give it")
        if not all(isinstance(token, int) and token >= 0 for token in self.stop_ids):
            raise UserError(f"stop_ids is {list(self.stop_ids)!r}; they are token ids from 0")
        if self.indices is not None and len(self.indices) != len(self.prompts):
            raise UserError(f"indices has {len(self.indices)} numbers for {len(self.prompts)} prompts; give one each")
        for prompt, ids in enumerate(self.prompts):
            self._check_prompt(self.index(prompt), ids, vocabulary, context)

    def _check_numbers(self) -> None:
        if self.n < 1:
            raise UserError(f"n is {self.n}; a prompt needs at least 1 completion")
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; a completion has at least 1 token")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}; it must be finite and at least 0 (0 is greedy)")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must lie in (0, 1] (1 keeps all)")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; it must be at least 0 (0 keeps all)")
        if self.step < 0:
            raise UserError(f"step is {self.step}; it must be at least 0")

    def _check_prompt(self, index: int, ids: Sequence[int], vocabulary: int, context: int | None) -> None:
        if index < 0:
            raise UserError(f"a prompt's index is {index}; it must be at least 0")
        if len(ids) == 0:
            raise UserError(f"prompt {index} is empty; give it at least one token (a BOS token, say)")
        if context is not None and len(ids) + self.max_tokens > context:
            raise UserError(
                f"prompt {index} has {len(ids)} tokens, which with max_tokens={self.max_tokens} exceeds the model's"
                f" context of {context}; shorten the prompt to {max(context - self.max_tokens, 0)} or lower max_tokens"
            )
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            wrong = next(token for token in ids if not 0 <= token < vocabulary)
            raise UserError(
                f"prompt {index} holds token {wrong}, but the model's vocabulary is [0, {vocabulary});"
                " is the tokenizer another model's?"
            )
