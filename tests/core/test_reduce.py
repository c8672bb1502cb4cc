from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advantage.core import (
    clipped_surrogate,
    fixed_length_mean,
    kl_k3,
    likelihood_ratio,
    sequence_mean,
    token_mean,
    value_loss,
)
from tests.core.claims import refused, same, slope

Reduction = Callable[..., Tensor]


def per_length(x: Tensor, mask: Tensor | None = None, total: float | None = None) -> Tensor:
    return fixed_length_mean(x, mask, length=7, total=total)


REDUCTIONS: list[Reduction] = [token_mean, sequence_mean, per_length]
every_reduction = pytest.mark.parametrize("reduce", REDUCTIONS)
MASKS = given(
    rows=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6).filter(
        lambda rows: any(map(any, rows))
    ),
    seed=st.integers(0, 2**32 - 1),
)


def count(reduce: Reduction, mask: Tensor) -> float:
    """What `total` is for a whole batch."""
    counts = {token_mean: mask.sum(), sequence_mean: mask.any(-1).sum(), per_length: mask.shape[0]}
    return float(counts[reduce])


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_numbers_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    same(token_mean(x, mask), 3.0)
    same(sequence_mean(x, mask), 3.75)
    same(fixed_length_mean(x, mask, length=2), 1.5)
    same(fixed_length_mean(x, mask, length=1), 3.0)
    same(token_mean(x, mask, total=9), 1.0)
    same(sequence_mean(x, mask, total=5), 1.5)
    same(fixed_length_mean(x, mask, length=3, total=1), 3.0)


@MASKS
@settings(max_examples=40)
def test_sums_of_the_definition(rows: list[list[bool]], seed: int) -> None:
    mask = torch.tensor(rows)
    x = numbers(seed, *mask.shape)
    kept = [[v for v, keep in zip(vs, row, strict=True) if keep] for vs, row in zip(x.tolist(), rows, strict=True)]
    whole = math.fsum(v for row in kept for v in row)
    same(token_mean(x, mask), whole / sum(map(len, kept)))
    same(sequence_mean(x, mask), math.fsum(math.fsum(row) / len(row) for row in kept if row) / sum(map(bool, kept)))
    same(fixed_length_mean(x, mask, length=7), whole / (len(rows) * 7))


@every_reduction
def test_no_mask_is_a_mask_of_ones(reduce: Reduction) -> None:
    x = numbers(0, 3, 4)
    ones = torch.ones(3, 4, dtype=torch.bool)
    for total in (None, 5.0):
        same(reduce(x, None, total=total), reduce(x, ones, total=total))


def test_rows_of_one_length_weigh_the_same_everywhere() -> None:
    x = numbers(1, 4, 7)
    for reduce in REDUCTIONS:
        same(reduce(x), x.mean())


@every_reduction
def test_the_own_count_is_the_total(reduce: Reduction) -> None:
    x, mask = numbers(2, 4, 5), torch.arange(5) < torch.tensor([[5], [0], [2], [3]])
    same(reduce(x, mask, total=count(reduce, mask)), reduce(x, mask), 0)


@every_reduction
@MASKS
@settings(max_examples=25)
def test_any_split_into_micro_batches_sums_to_the_whole(reduce: Reduction, rows: list[list[bool]], seed: int) -> None:
    """Value and gradient, with parts in which no entry is true."""
    mask = torch.tensor(rows)
    x = numbers(seed, *mask.shape).requires_grad_()
    whole = reduce(x.square(), mask)
    for size in (1, 2, 4):
        parts = [
            reduce(part.square(), of, total=count(reduce, mask))
            for part, of in zip(x.split(size), mask.split(size), strict=True)
        ]
        same(sum(parts), whole)
        same(sum(slope(part, x)[0] for part in parts), slope(whole, x)[0])


@every_reduction
def test_an_objective_split_into_micro_batches(reduce: Reduction) -> None:
    """Clipped surrogate, value loss and KL through one network: the same parameters' gradient to 1e-12."""
    weight = numbers(3, 6, 2).requires_grad_()
    features, advantages = numbers(4, 8, 5, 6), numbers(5, 8, 5)
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 0, 2, 5, 4, 0]).unsqueeze(-1)

    def objective(rows: slice) -> Tensor:
        logp, values = (features[rows] @ weight).tanh().unbind(-1)
        term = clipped_surrogate(likelihood_ratio(logp, advantages[rows] / 9), advantages[rows], 0.2, 0.3)
        term = term - 0.5 * value_loss(values, advantages[rows]) - 0.1 * kl_k3(logp, values.detach())
        return reduce(term, mask[rows], total=count(reduce, mask))

    whole = objective(slice(0, 8))
    for bounds in ([0, 3, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 4, 5, 8]):
        parts = [objective(slice(start, end)) for start, end in pairwise(bounds)]
        same(sum(parts), whole)
        same(sum(slope(part, weight)[0] for part in parts), slope(whole, weight)[0])


def test_a_mean_of_means_is_another_number() -> None:
    """What gradient accumulation over uneven parts gives without the whole batch's count."""
    x, mask = torch.tensor([[1.0, 1.0, 1.0], [5.0, 0.0, 0.0]]), torch.tensor([[True] * 3, [True, False, False]])
    apart = (token_mean(x[:1], mask[:1]) + token_mean(x[1:], mask[1:])) / 2
    same(apart, 3.0)
    same(token_mean(x, mask), 2.0)


@every_reduction
@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_what_stands_behind_the_mask_does_not_exist(reduce: Reduction, poison: float) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    x = torch.where(mask, 2.0, poison).requires_grad_()
    clean = torch.where(mask, 2.0, 0.0).requires_grad_()
    for total in (None, 4.0):
        same(reduce(x, mask, total=total), reduce(clean, mask, total=total), 0)
        same(slope(reduce(x, mask, total=total), x)[0], slope(reduce(clean, mask, total=total), clean)[0], 0)
        assert (slope(reduce(x, mask, total=total), x)[0][~mask] == 0).all()


@every_reduction
def test_padding_changes_nothing(reduce: Reduction) -> None:
    x, mask = numbers(6, 3, 4), torch.arange(4) < torch.tensor([[4], [1], [2]])
    wider = torch.nn.functional.pad(x, (0, 5), value=nan), torch.nn.functional.pad(mask, (0, 5), value=False)
    left = torch.nn.functional.pad(x, (3, 0), value=nan), torch.nn.functional.pad(mask, (3, 0), value=False)
    for padded in (wider, left):
        same(reduce(*padded), reduce(x, mask))


def test_a_row_without_a_true_entry_is_no_sequence_but_a_row() -> None:
    x, mask = torch.ones(2, 3), torch.tensor([[True] * 3, [False] * 3])
    same(sequence_mean(x, mask), 1.0)
    same(fixed_length_mean(x, mask, length=3), 0.5)


@every_reduction
@pytest.mark.parametrize("shape", [(2, 3), (3,), (2, 0), (0, 3), (0,)])
def test_a_part_without_a_true_entry_is_zero_with_zero_gradient(reduce: Reduction, shape: tuple[int, ...]) -> None:
    x = torch.full(shape, nan, requires_grad=True)
    part = reduce(x, torch.zeros(shape, dtype=torch.bool), total=4.0)
    assert part.item() == 0
    assert (slope(part, x)[0] == 0).all()
    if 0 in shape:
        assert reduce(x, None, total=4.0).item() == 0


@every_reduction
@pytest.mark.parametrize("shape", [(2, 3), (3,), (2, 0), (0, 3), (0,)])
def test_a_batch_without_a_true_entry_is_refused(reduce: Reduction, shape: tuple[int, ...]) -> None:
    with refused("no true entry", "total="):
        reduce(torch.ones(shape), torch.zeros(shape, dtype=torch.bool))
    if 0 in shape:
        with refused("no true entry", "total="):
            reduce(torch.ones(shape))


@every_reduction
@pytest.mark.parametrize("total", [0, -1.0, nan, inf])
def test_totals_that_count_nothing_are_refused(reduce: Reduction, total: Any) -> None:
    with refused("total is", total):
        reduce(torch.ones(2, 3), None, total=total)


@pytest.mark.parametrize("length", [0, -1.0, nan, inf])
def test_lengths_that_divide_nothing_are_refused(length: Any) -> None:
    with refused("length is", length):
        fixed_length_mean(torch.ones(2, 3), None, length)


def test_a_scalar_has_no_time() -> None:
    with refused("x is a scalar"):
        fixed_length_mean(torch.tensor(1.0), None, length=1)
