"""Decoding by a model's own forward pass, for architectures that ours does not know."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advantage.language.weights import inner_model

_SELECTABLE = ("DynamicLayer", "DynamicSlidingWindowLayer")  # layers of a cache that copy and drop rows as a whole


class ForwardDecoder:
    """The completions of prompts of one length: the same interface as `Decoder`.

    Keys and values are kept where the model's cache can copy and drop rows; every token is a pass over its whole row
    where it cannot (a recurrent state, an adapter with virtual tokens), which is slow and always right.

    Args:
        model: a causal model of transformers, or of peft around one.
        n: completions a prompt.
    """

    def __init__(self, model: nn.Module, n: int) -> None:
        self._model, self._n = model, n
        self._cache: Any = None
        inner = inner_model(model)
        self._device = inner.get_input_embeddings().weight.device
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
        self._virtual = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (prompts, vocabulary) of the first tokens."""
        self._ids = torch.tensor([list(prompt) for prompt in prompts], device=self._device)
        logits, cache = self._forward(self._ids, cached=not self._virtual)
        layers = getattr(cache, "layers", None)
        if layers and all(type(layer).__name__ in _SELECTABLE for layer in layers):
            self._cache = cache
            self._cache.batch_repeat_interleave(self._n)
        self._ids = self._ids.repeat_interleave(self._n, 0)
        return logits

    def advance(self, tokens: Tensor) -> Tensor:
        """Logits (rows, vocabulary) after one more token (rows,) in each row."""
        self._ids = torch.cat([self._ids, tokens[:, None]], -1)
        if self._cache is None:
            return self._forward(self._ids, cached=False)[0]
        logits, self._cache = self._forward(self._ids[:, -1:], cached=True, past_key_values=self._cache)
        return logits

    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; the rows not named are gone."""
        rows = torch.tensor(order, device=self._device)
        self._ids = self._ids[rows]
        if self._cache is not None:
            self._cache.batch_select_indices(rows)

    def _forward(self, ids: Tensor, *, cached: bool, **past: Any) -> tuple[Tensor, Any]:
        output = self._model(input_ids=ids, use_cache=cached, **past, **self._extra)
        logits: Tensor = output.logits[:, -1]
        precise = torch.float64 if logits.dtype == torch.float64 else torch.float32
        return logits.to(precise), getattr(output, "past_key_values", None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode inside, and in the mode of its own afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
