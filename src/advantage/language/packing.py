"""Rows as a backbone reads them: one by one, or several completions of one prompt behind that prompt, read once.

A packed row is `[prompt | c₁ | … | c_k]`, each completion without its last token, which nothing is predicted from.
Places count on from the prompt's end in each completion, and a completion sees the prompt and itself alone:

    may see(q, k) = k ≤ q and (segment_k = segment_q or segment_k = prompt)

The numbers are those of one row a completion, to the rounding of another order of sums.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advantage.language.forward import evaluating
from advantage.language.weights import window

KNOWN = ("sdpa", "eager")  # attention that takes a mask of ours
WRONG = 1e-3  # relative: other orders of sums differ by 1e-5 in float32, a mask that is not heeded by 1e-1
_PROBE = torch.tensor([[7, 3, 5, 11, 2, 9], [7, 3, 5, 4, 8, 6], [7, 3, 5, 10, 1, 12]])
_PROBE_START, _PROBE_LENGTH = torch.tensor([3, 3, 3]), torch.tensor([6, 5, 6])


class Layout(NamedTuple):
    """Token rows as they go through a backbone, and where each place of the rows that were asked for stands in them.

    Attributes:
        tokens: (R, W) ids.
        positions: (R, W) places in the text; None where they are 0 … W − 1.
        mask: (R, 1, W, W) bool, what may be seen; None for all that stands before.
        row: (N,) which row of `tokens` holds each row that was asked for.
        start: (N,) where its completion begins, in its own places.
        shift: (N,) what is added to a completion's place in its own row.
    """

    tokens: Tensor
    positions: Tensor | None
    mask: Tensor | None
    row: Tensor
    start: Tensor
    shift: Tensor

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        return Layout(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]

    def pick(self, values: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """What stands in `values` (R, W, …) for the given places of the rows that were asked for."""
        behind = places >= self.start[rows]
        return values[self.row[rows], places + self.shift[rows] * behind]


class Packing:
    """How some backbones read the same rows: whether a prompt can be shared, and by how many rows it is best shared.

    Args:
        backbones: of causal models; a row costs what it costs the first.
    """

    def __init__(self, *backbones: nn.Module) -> None:
        self._backbones = backbones
        first: Any = backbones[0]
        layers = sum(weight.numel() for name, weight in first.named_parameters() if "embed" not in name)
        self._size, self._width = 2 * layers, 4 * first.config.hidden_size * first.config.num_hidden_layers

    @cached_property
    def possible(self) -> bool:
        """Whether every backbone heeds positions and masks of ours."""
        return all(map(can_pack, self._backbones))

    def layout(self, tokens: Tensor, start: Tensor, length: Tensor, unit: Tensor | None = None) -> Layout:
        """As `packed`, a row each where sharing is impossible."""
        if len(tokens) == 1 or not self.possible:
            return plain(tokens)
        return packed(tokens, start, length, unit, self._size, self._width)


def plain(tokens: Tensor) -> Layout:
    """A row each."""
    rows = torch.arange(len(tokens), device=tokens.device)
    zero = torch.zeros_like(rows)
    return Layout(tokens, None, None, rows, zero, zero)


def packed(tokens: Tensor, start: Tensor, length: Tensor, unit: Tensor | None, size: float, width: float) -> Layout:
    """Neighbours with the same prompt behind one copy of it, as many as make the whole cheapest.

    A row costs size·W + width·W²: what a token costs in the products, and what a pair of tokens costs in the attention.
    Many short completions are cheapest together, a few long ones apart. What is decided for a unit depends on its own
    rows alone, so that a split of the batch that leaves units whole changes no rounding.

    Args:
        tokens: (N, L) ids, padded on the right.
        start: (N,) where each row's completion begins, ≥ 1.
        length: (N,) tokens that are read of each row: those before its last action.
        unit: (N,) which rows belong together; rows of two units share nothing. None: all that have a prompt in common.
        size, width: the costs, of one measure.
    """
    end = length.clamp(min=1)
    start = torch.minimum(start, end)
    fresh = _first_of_a_prompt(tokens, start)
    if unit is not None:
        fresh[1:] |= unit[1:] != unit[:-1]
    together = _cheapest(fresh, start, end - start, size, width)
    if together.max() == 1:
        return plain(tokens)
    return _laid_out(tokens, start, end, _every(fresh, together))


def common(tokens: Tensor, length: Tensor, unit: Tensor) -> Tensor:
    """(N,) how many first tokens the rows of each unit, which stand together, have in common; at most a row's own.

    Args:
        tokens: (N, L) ids.
        length: (N,) tokens that are read of each row.
        unit: (N,) which unit each row is of.
    """
    _, unit = torch.unique_consecutive(unit, return_inverse=True)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    both = places < torch.minimum(length[1:], length[:-1])[:, None]
    alike = ((tokens[1:] == tokens[:-1]) & both).long().cumprod(-1).sum(-1)
    alike = torch.where(unit[1:] == unit[:-1], alike, length[1:])
    least = torch.full_like(length, tokens.shape[1]).scatter_reduce(0, unit[1:], alike, "amin")
    return torch.minimum(least[unit], length)


def can_pack(backbone: nn.Module) -> bool:
    """Whether a backbone heeds positions and masks of ours: a probe of three short completions, in float32."""
    config: Any = backbone.config
    if window(config) < getattr(config, "max_position_embeddings", 0) or config._attn_implementation not in KNOWN:
        return False
    if "position_ids" not in inspect.signature(backbone.forward).parameters or config.vocab_size <= int(_PROBE.max()):
        return False
    device = next(backbone.parameters()).device
    tokens, start, length = (given.to(device) for given in (_PROBE, _PROBE_START, _PROBE_LENGTH))
    rows, places = (torch.arange(tokens.shape[1], device=device) < length[:, None]).nonzero(as_tuple=True)
    each = plain(tokens)
    together = _laid_out(tokens, start, length, torch.tensor([True, False, False], device=device))
    with torch.no_grad(), evaluating(backbone), torch.autocast(device.type, enabled=False):
        one, other = (layout.pick(read(backbone, layout), rows, places) for layout in (each, together))
    return bool((one - other).abs().max() <= WRONG * one.abs().max())


def read(backbone: nn.Module, layout: Layout) -> Tensor:
    """The last hidden states (R, W, d)."""
    extra: dict[str, Any] = {}
    if layout.mask is not None:
        extra = {"attention_mask": _as_told(layout.mask, backbone), "position_ids": layout.positions}
    states: Tensor = backbone(input_ids=layout.tokens, use_cache=False, **extra).last_hidden_state
    return states


def _as_told(mask: Tensor, backbone: nn.Module) -> Tensor:
    """Eager attention adds its mask to the scores: a bool one would add 1 to what may be seen, silently."""
    config: Any = backbone.config
    if config._attn_implementation != "eager":
        return mask
    dtype = next(backbone.parameters()).dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _first_of_a_prompt(tokens: Tensor, start: Tensor) -> Tensor:
    """(N,) which rows have another prompt than the row before."""
    before = torch.arange(tokens.shape[1], device=tokens.device) < start[1:, None]
    same = (start[1:] == start[:-1]) & ((tokens[1:] == tokens[:-1]) | ~before).all(-1)
    return torch.cat([same.new_ones(1), ~same])


def _cheapest(fresh: Tensor, start: Tensor, extent: Tensor, size: float, width: float) -> Tensor:
    """(N,) how many completions of its prompt each row's packed row holds: a matter of that prompt's rows alone."""
    prompt = fresh.cumsum(0) - 1
    longest = torch.zeros_like(start[fresh]).scatter_reduce(0, prompt, extent, "amax")
    found = []
    for given, each, most in zip(start[fresh].tolist(), longest.tolist(), prompt.bincount().tolist(), strict=True):
        rows = {together: given + together * each for together in range(1, most + 1)}
        cost = {together: -(-most // together) * row * (size + width * row) for together, row in rows.items()}
        found.append(min(cost, key=cost.__getitem__))
    return torch.tensor(found, device=start.device)[prompt]


def _every(fresh: Tensor, together: Tensor) -> Tensor:
    """(N,) where a packed row begins: at a new prompt, and behind every so many completions of one."""
    index = torch.arange(len(fresh), device=fresh.device)
    since = index - torch.where(fresh, index, 0).cummax(0).values
    return since % together == 0


def _laid_out(tokens: Tensor, start: Tensor, end: Tensor, begins: Tensor) -> Layout:
    row = begins.cumsum(0) - 1
    extent = end - start
    upto = extent.cumsum(0)
    base = (upto - extent)[begins]
    shift = upto - extent - base[row]  # tokens of completions that stand before it in its packed row
    first = begins.nonzero().squeeze(-1)
    rows, places = int(row[-1]) + 1, torch.arange(tokens.shape[1], device=tokens.device)
    width = int((end + shift).max())
    laid = tokens.new_zeros(rows, width)
    positions, segment = torch.zeros_like(laid), torch.full_like(laid, -1)

    def put(which: Tensor, of: Tensor, places_of: Tensor, number: Tensor) -> None:
        at = (row[of], places_of + shift[of] * number.ne(0))
        laid[at], positions[at], segment[at] = tokens[of, places_of], places_of, number

    in_prompt = (places < start[:, None]) & begins[:, None]
    of, where = in_prompt.nonzero(as_tuple=True)
    put(in_prompt, of, where, torch.zeros_like(of))
    in_completion = (places >= start[:, None]) & (places < end[:, None])
    of, where = in_completion.nonzero(as_tuple=True)
    put(in_completion, of, where, of - first[row[of]] + 1)

    seen, sees = segment[:, None, None, :], segment[:, None, :, None]
    index = torch.arange(width, device=tokens.device)
    mask = (index <= index[:, None]) & ((seen == sees) | (seen == 0))
    return Layout(laid, positions, mask, row, start, shift)
