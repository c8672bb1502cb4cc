"""A reward model as something to train, and as a reward: a number read at tokens of a text."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advantage.language.models import device_of, load_tokenizer
from advantage.language.packing import Packing, common, read
from advantage.language.policy import Trained, computing
from advantage.language.rows import columns, ragged
from advantage.language.scalar import last_scores, load_scalar, save_scalar, score_body, score_head
from advantage.language.template import end_tokens, render_example
from advantage.language.types import Shown
from advantage.trajectory import Batch, Evaluation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = 16  # texts that a reward model scores at once


class Scorer(Trained):
    """A body and a head of one number; what it says of a batch stands in `values`, one at each of a row's places.

    Args:
        model: compatible with AutoModelForSequenceClassification.
        tokenizer: saved beside it.
        compute: dtype of matrix products; None for that of the weights.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, compute: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.compute = model, tokenizer, compute

    def evaluate(self, batch: Batch) -> Evaluation:
        """Scores after the token at each place, (rows, time), 0 under the mask."""
        assert batch.mask is not None and batch.length is not None
        tokens = batch.context["tokens"][:, : int(batch.length.max())]
        rows, steps = batch.mask.nonzero(as_tuple=True)
        start = batch.length if batch.unit is None else common(tokens, batch.length, batch.unit)
        head: Any = score_head(self.model)
        device = head.weight.device
        layout = self.packing.layout(tokens, start, batch.length, batch.unit).to(device)
        with computing(self.compute, device):
            states = read(score_body(self.model), layout)
        states = layout.pick(states, rows.to(device), batch.context["positions"][rows, steps].to(device))
        scores = head(states.to(head.weight.dtype)).squeeze(-1).to(batch.mask.device)
        return Evaluation(values=scores.new_zeros(batch.mask.shape).masked_scatter(batch.mask, scores))

    @cached_property
    def packing(self) -> Packing:
        """How a batch's rows are read: what the texts of a pair have in common, once."""
        return Packing(score_body(self.model))

    def save(self, folder: Path) -> None:
        """Writes a folder that anyone's AutoModelForSequenceClassification loads; peft's, of adapters."""
        save_scalar(self.model, self.tokenizer, folder)


def batch_of_places(ids: Sequence[Sequence[int]], places: Sequence[Sequence[int]], **fields: Any) -> Batch:
    """Texts that are scored after the tokens at some of their places."""
    context, actions, mask = columns(ids, places)
    length = torch.tensor([row[-1] + 1 for row in places])
    return Batch.of_rows(context, actions, mask).replace(length=length, **fields)


def policy_folder(path: str) -> str:
    """Where the model of a run lies; any other folder, or name, is that of the model itself."""
    return os.path.join(path, "policy") if os.path.exists(os.path.join(path, "config.toml")) else path


def scorer(path: str, device: str = "auto") -> Callable[..., list[float]]:
    """The reward model of a folder or a run, as a function of prompts, completions and whether each was cut.

    A text ends in the token that ends it, after which it is scored as in training; one that was cut has none.
    """
    folder, place = policy_folder(path), device_of(device)
    model, tokenizer = load_scalar(folder).to(place), load_tokenizer(folder)  # type: ignore[arg-type]
    model.requires_grad_(False)

    @torch.inference_mode()
    def score(prompts: Sequence[Shown], completions: Sequence[Shown], cut: Sequence[bool] = ()) -> list[float]:
        rows = [
            _row(tokenizer, prompt, completion, short)
            for prompt, completion, short in zip(prompts, completions, cut or [False] * len(prompts), strict=True)
        ]
        found: list[float] = []
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            lengths = torch.tensor([len(row) for row in part])
            tokens: Tensor = ragged(part, int(lengths.max()), dtype=torch.long)
            found += last_scores(model, tokens.to(place), lengths.to(place)).tolist()
        return found

    return score


def _row(tokenizer: PreTrainedTokenizerBase, prompt: Shown, completion: Shown, cut: bool) -> Sequence[int]:
    ids = render_example(tokenizer, {"prompt": prompt, "completion": completion}).ids
    return ids[:-1] if cut and ids[-1] in end_tokens(tokenizer) else ids
