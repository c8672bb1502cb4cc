"""Ragged token rows as tensors: what a rollout and a batch of language are made of.

The context of a row is the whole text, `tokens` (rows, L) padded on the right, and the place of each action in it,
`positions` (rows, T). Actions, mask and everything that is one number a token are (rows, T), with the action tokens
alone, in a row: a prompt, a tool's answer or padding is no step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from advantage.language.types import Completion, Prompt
from advantage.trajectory import Batch, Rollout

PAD = 0  # what stands behind a row's end: nothing looks at it


def rollout_of(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Rollout:
    """Completions of prompts, each prompt's after another, as streams of action tokens.

    A completion ends its stream either way, by itself or cut: its last step is terminated. `finish_reason` says which.

    Args:
        prompts: P of them.
        completions: n a prompt, P·n in all, prompt after prompt; none is empty.
    """
    n = len(completions) // len(prompts)
    ids = [(*prompts[i // n].ids, *completion.ids) for i, completion in enumerate(completions)]
    starts = [len(prompts[i // n].ids) for i in range(len(completions))]
    context, actions, mask = columns(ids, [range(start, len(row)) for start, row in zip(starts, ids, strict=True)])
    last = mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True))
    sampled = ragged([completion.logps for completion in completions], mask.shape[1])
    return Rollout(
        context=context,
        actions=actions,
        mask=mask,
        terminated=last,
        truncated=torch.zeros_like(last),
        logp_sampler=sampled,
        group=torch.arange(len(prompts)).repeat_interleave(n),
        finish_reason=tuple(completion.finish_reason for completion in completions),
    )


def batch_of(rollout: Rollout, advantages: Tensor | None = None, returns: Tensor | None = None) -> Batch:
    """A rollout as one batch whose micro-batches are cut by tokens, and never through a prompt's completions."""
    data = Batch.of(rollout, advantages, returns)
    return data.replace(length=lengths(rollout.context, rollout.mask), unit=data.group)


def batch_of_rows(ids: Sequence[Sequence[int]], marks: Sequence[Sequence[bool]], **fields: Any) -> Batch:
    """Given texts as one batch; `marks` say which of a text's tokens are to be learnt (a first token never is)."""
    places = [[place for place, mark in enumerate(row) if mark and place] for row in marks]
    context, actions, mask = columns(ids, places)
    data = Batch.of_rows(context, actions, mask)
    return data.replace(length=lengths(context, mask), **fields)


def columns(ids: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Context, actions and mask of texts whose actions stand at `places`, each ≥ 1 and rising."""
    width = max(1, *(len(row) for row in places))
    tokens = ragged(ids, max(len(row) for row in ids), PAD, torch.long)
    positions = ragged(places, width, 1, torch.long)
    mask = torch.arange(width) < torch.tensor([len(row) for row in places])[:, None]
    actions = tokens.gather(1, positions).masked_fill(~mask, PAD)
    return {"tokens": tokens, "positions": positions}, actions, mask


def lengths(context: dict[str, Tensor], mask: Tensor) -> Tensor:
    """How many tokens of each row are read: those before its last action."""
    return context["positions"].masked_fill(~mask, 1).amax(-1)


def ragged(
    rows: Sequence[Sequence[float]], width: int, fill: float = 0.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Rows of unequal length as one tensor (rows, width), filled on the right."""
    padded = torch.full((len(rows), width), fill, dtype=dtype)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = torch.as_tensor(list(values), dtype=dtype)
    return padded
