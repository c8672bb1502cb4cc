"""Decoding of our own for the Llama family: keys and values are kept, a token costs one pass over the weights.

What pays on a CPU as on a GPU: a prompt is computed once for all of its completions, and its keys are multiplied once
with all of their queries; query heads that share keys are folded into one product; a completion's keys have their place
from the start; rows that are finished leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from advantage.language.weights import Weights

PREFILL = 8192  # prompt tokens that are computed at once
_ROOM = 128  # completion tokens that have a place at first; doubled where more come


class Decoder:
    """The completions of some prompts under way: a row a completion, all rows as far as each other.

    Rows come prompt after prompt. `keep` lets rows leave and gives the others new places.

    Args:
        weights: of the model.
        n: completions a prompt.
        max_tokens: the longest completion.
    """

    def __init__(self, weights: Weights, n: int, max_tokens: int) -> None:
        self._weights, self._n, self._max_tokens = weights, n, max_tokens
        self._step = 0

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (prompts, vocabulary) of the first tokens."""
        weights = self._weights
        lengths = [len(prompt) for prompt in prompts]
        self._cos, self._sin = weights.rotations(max(lengths) + self._max_tokens)
        shape = (len(weights.layers), 2, len(prompts), weights.kv_heads)
        self._given = self._zeros(*shape, max(lengths), weights.head_dim)
        rows = len(prompts) * self._n
        room = min(_ROOM, self._max_tokens)
        self._own = self._zeros(*shape[:2], rows, weights.kv_heads, room, weights.head_dim)
        self._lengths = torch.tensor(lengths, device=weights.device)
        self._group = [group for group in range(len(prompts)) for _ in range(self._n)]
        self._place()
        last = []
        with torch.autocast(weights.device.type, enabled=False):
            for start, stop in _chunks(lengths):
                last.append(self._read(prompts[start:stop], start))
            return weights.logits(torch.cat(last))

    def advance(self, tokens: Tensor) -> Tensor:
        """Logits (rows, vocabulary) after one more token (rows,) in each row."""
        weights = self._weights
        if self._step == (room := self._own.shape[-2]):
            self._own = pad(self._own[:, :, : len(tokens)], (0, 0, 0, min(room, self._max_tokens - room)))
        places = self._lengths[self._rows] + self._step
        with torch.autocast(weights.device.type, enabled=False):
            hidden = weights.hidden(tokens, self._cos[places], self._sin[places], self._attend)
            self._step += 1
            return weights.logits(hidden)

    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] ≥ i was; the rows not named are gone."""
        _move(self._own[:, :, :, :, : self._step], order)
        self._group = [self._group[row] for row in order]
        groups = filling(sorted(set(self._group)))
        if len(groups) < len(self._lengths):
            _move(self._given, groups)
            self._lengths = self._lengths[groups]
            new = {group: place for place, group in enumerate(groups)}
            self._group = [new[group] for group in self._group]
        self._place()

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self._weights.dtype, device=self._weights.device)

    def _place(self) -> None:
        """Each group's rows into a block of as many slots as the largest group has; empty slots hold row 0."""
        device = self._lengths.device
        members: list[list[int]] = [[] for _ in self._lengths]
        for row, group in enumerate(self._group):
            members[group].append(row)
        self._width = max(map(len, members))
        slots = [row for rows in members for row in rows + [0] * (self._width - len(rows))]
        self._rows = torch.tensor(self._group, device=device)
        self._slots = self._back = None
        if slots != list(range(len(self._group))):
            back = [group * self._width + place for group, rows in enumerate(members) for place in range(len(rows))]
            where = dict(zip([row for rows in members for row in rows], back, strict=True))
            self._slots = torch.tensor(slots, device=device)
            self._back = torch.tensor([where[row] for row in range(len(self._group))], device=device)
        self._longest = int(self._lengths.max())
        behind = torch.arange(self._longest, device=device) >= self._lengths[:, None]
        mask = torch.zeros(behind.shape, dtype=self._weights.dtype, device=device).masked_fill_(behind, -torch.inf)
        self._mask = mask.repeat_interleave(self._weights.kv_heads, 0)[:, None]

    def _read(self, prompts: Sequence[Sequence[int]], first: int) -> Tensor:
        """Last hidden states (prompts, d); the tokens of all prompts stand in one row, without padding."""
        weights = self._weights
        lengths = [len(prompt) for prompt in prompts]
        spans, group, row = [], first, 0
        for length, same in groupby(lengths):
            count = len(list(same))
            spans.append((slice(group, group + count), slice(row, row + count * length), length))
            group, row = group + count, row + count * length

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mixed = torch.empty(len(q), weights.heads * weights.head_dim, dtype=q.dtype, device=q.device)
            for groups, rows, length in spans:
                asks, keys, values = (x[rows].unflatten(0, (-1, length)).transpose(1, 2) for x in (q, k, v))
                self._given[layer, 0, groups, :, :length] = keys
                self._given[layer, 1, groups, :, :length] = values
                seen = scaled_dot_product_attention(
                    asks, keys, values, is_causal=True, scale=weights.scaling, enable_gqa=True
                )
                mixed[rows] = seen.transpose(1, 2).reshape(-1, mixed.shape[-1])
            return mixed

        ids = torch.tensor([token for prompt in prompts for token in prompt], device=weights.device)
        places = torch.cat([torch.arange(length, device=weights.device) for length in lengths])
        hidden = weights.hidden(ids, self._cos[places], self._sin[places], attend)
        return hidden[torch.tensor(lengths, device=weights.device).cumsum(0) - 1]

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One softmax over the group's prompt and the row's own tokens; scores are two products, and so is the sum."""
        weights, rows, upto = self._weights, len(q), self._step + 1
        heads, fold, size = weights.kv_heads, weights.heads // weights.kv_heads, weights.head_dim
        self._own[layer, 0, :rows, :, self._step], self._own[layer, 1, :rows, :, self._step] = k, v
        own = self._own[layer, :, :rows, :, :upto].flatten(1, 2)
        given = self._given[layer, :, : len(self._lengths), :, : self._longest].flatten(1, 2)
        q = q.reshape(rows, heads, fold, size)
        of_given = torch.baddbmm(self._mask, self._grouped(q), given[0].mT, alpha=weights.scaling)
        of_own = torch.bmm(q.flatten(0, 1), own[0].mT).mul_(weights.scaling)
        scores = torch.cat([self._ungrouped(of_given, fold), of_own.view(rows, heads, fold, upto)], -1)
        share = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(q.dtype)
        mixed = self._ungrouped(torch.bmm(self._grouped(share[..., : self._longest]), given[1]), fold)
        mixed = mixed + torch.bmm(share[..., self._longest :].reshape(-1, fold, upto), own[1]).view(mixed.shape)
        return mixed.reshape(rows, -1)

    def _grouped(self, x: Tensor) -> Tensor:
        """(rows, heads, fold, size) → (groups · heads, slots · fold, size)."""
        slots: Tensor = (x if self._slots is None else x[self._slots]).unflatten(0, (-1, self._width))
        return slots.transpose(1, 2).flatten(0, 1).flatten(1, 2)

    def _ungrouped(self, x: Tensor, fold: int) -> Tensor:
        """The way back of `_grouped`."""
        slots: Tensor = x.unflatten(0, (-1, self._weights.kv_heads)).unflatten(2, (-1, fold))
        slots = slots.transpose(1, 2).flatten(0, 1)
        return slots if self._back is None else slots[self._back]


def filling(alive: Sequence[int]) -> list[int]:
    """The first places filled by the `alive` ones: who stands in one already stays, the last fill the gaps.

    >>> filling([1, 3, 4])
    [4, 1, 3]
    """
    count, standing = len(alive), set(alive)
    spare = [place for place in alive if place >= count]
    return [place if place in standing else spare.pop() for place in range(count)]


def _chunks(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Prompts, from and to, that hold at most PREFILL tokens together, or one prompt."""
    chunks, start, tokens = [], 0, 0
    for place, length in enumerate(lengths):
        if place > start and tokens + length > PREFILL:
            chunks.append((start, place))
            start, tokens = place, 0
        tokens += length
    return [*chunks, (start, len(lengths))]


def _move(store: Tensor, order: Sequence[int]) -> None:
    """Along the third dimension, place i takes what stands at order[i] ≥ i; only what moves is copied."""
    for place, old in enumerate(order):
        if place != old:
            store[:, :, place] = store[:, :, old]
