from __future__ import annotations

import math
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advantage.core import standardize
from tests.core.claims import peak_bytes, refused, same, slope
from tests.core.definitions import standard

RAGGED = given(
    numbers=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12),
    kept=st.lists(st.booleans(), min_size=12, max_size=12),
    ddof=st.sampled_from([0, 1]),
    eps=st.sampled_from([0.0, 1e-8, 0.5]),
)


def test_numbers_by_hand() -> None:
    x = torch.tensor([2.0, 4.0, 6.0])
    root = math.sqrt(1.5)
    same(standardize(x, eps=0.0), [-root, 0.0, root], 1e-6)
    same(standardize(x, ddof=1), [-1.0, 0.0, 1.0], 1e-6)
    same(standardize(x, ddof=1, eps=2.0), [-0.5, 0.0, 0.5], 1e-6)
    mask = torch.tensor([True, False, True])
    same(standardize(x, mask), [-1.0, 0.0, 1.0], 1e-6)


def test_defaults() -> None:
    """ddof 0, ε 1e-8 added to the standard deviation."""
    same(standardize(torch.tensor([0.0, 2e-8], dtype=torch.float64)), [-0.5, 0.5])


@RAGGED
@settings(max_examples=60)
def test_exact_moments_over_the_true_entries(numbers: list[float], kept: list[bool], ddof: int, eps: float) -> None:
    mask = torch.tensor(kept[: len(numbers)])
    if not mask.any():
        mask[0] = True
    x = torch.tensor(numbers, dtype=torch.float64)
    expected = torch.zeros_like(x)
    expected[mask] = torch.tensor(standard(x[mask].tolist(), ddof, eps), dtype=torch.float64)
    same(standardize(x, mask, ddof, eps), expected, 1e-9)
    same(standardize(x[mask], None, ddof, eps), expected[mask], 1e-9)


def test_mean_zero_and_spread_one() -> None:
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ddof in (0, 1):
        scaled = standardize(x, ddof=ddof, eps=0.0)
        same(scaled.mean(), 0.0)
        same(scaled.std(correction=ddof), 1.0)
        same(standardize(scaled, ddof=ddof, eps=0.0), scaled)
        same(standardize(3.0 * x - 7.0, ddof=ddof, eps=0.0), scaled, 1e-11)
        same(standardize(-x, ddof=ddof, eps=0.0), -scaled)


@pytest.mark.parametrize(
    ("number", "count"), [(0.1, 3), (1 / 3, 7), (0.7, 11), (1e8, 5), (-1e-30, 6), (3e38, 4), (0.5, 1)]
)
@pytest.mark.parametrize("ddof", [0, 1])
def test_equal_float32_numbers_give_exactly_zero(number: float, count: int, ddof: int) -> None:
    x = torch.full((count,), number, requires_grad=True)
    for eps in (0.0, 1e-46, 1e-8):  # the middle one is 0 in float32
        scaled = standardize(x, ddof=ddof, eps=eps)
        assert (scaled == 0).all()
        assert (slope(scaled, x)[0] == 0).all()
    mask = torch.arange(count + 2) < count
    assert (standardize(torch.nn.functional.pad(x, (0, 2), value=9.0), mask, ddof) == 0).all()


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float64, 1e8), (torch.float32, 1e6)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_a_large_offset_cancels(dtype: torch.dtype, offset: float, ddof: int) -> None:
    expected = torch.tensor(standard([0.0, 1.0, 2.0, 3.0], ddof, 0.0), dtype=dtype)
    tight = 1e-14 if dtype == torch.float64 else 1e-6
    same(standardize(offset + torch.arange(4, dtype=dtype), ddof=ddof, eps=0.0), expected, tight)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=16), st.sampled_from([0.1, 1.0, 1e4, 1e8]))
@settings(max_examples=40)
def test_nearly_equal_numbers_do_not_explode(ulps: list[int], about: float) -> None:
    spacing = torch.finfo(torch.float32).eps * 2.0 ** math.floor(math.log2(about))
    x = torch.tensor([about + n * spacing for n in ulps], dtype=torch.float32)
    scaled = standardize(x, eps=0.0)
    same(scaled, standard(x.tolist(), 0, 0.0), 1e-5)
    assert scaled.abs().max() <= math.sqrt(len(ulps) - 1) + 1e-5


@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_what_stands_behind_the_mask_does_not_exist(poison: float) -> None:
    x = torch.tensor([[1.0, 2.0, poison], [5.0, poison, poison]], dtype=torch.float64, requires_grad=True)
    mask = x.detach().isfinite()
    scaled = standardize(x, mask)
    same(scaled[mask], standardize(x[mask]), 0)
    assert (scaled[~mask] == 0).all()
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    gradient = slope(scaled * weights, x)[0]
    bare = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
    same(gradient[mask], slope(standardize(bare) * weights[mask], bare)[0])
    assert (gradient[~mask] == 0).all()


def test_a_non_finite_number_that_counts_is_seen() -> None:
    for bad in (nan, inf):
        for eps in (0.0, 1e-8):
            assert standardize(torch.tensor([1.0, bad]), eps=eps).isnan().any()
            assert standardize(torch.tensor([bad]), ddof=1, eps=eps).isnan().all()


def test_returns_of_one_episode_standardised_forget_how_good_it_was() -> None:
    """Fail after 20 steps, or go on for 500: the same mean and spread. A rung of its own, not plain REINFORCE."""
    for length in (20, 500):
        scaled = standardize(torch.arange(length, 0, -1, dtype=torch.float64))
        same(scaled.mean(), 0.0)
        same(scaled.std(correction=0), 1.0, 1e-8)


def test_memory_grows_with_the_input_alone() -> None:
    x = torch.arange(1e4)
    assert peak_bytes(lambda: standardize(x, x > 5)) <= 10 * x.nbytes


def test_refusals() -> None:
    x = torch.ones(3)
    with refused("no true entry"):
        standardize(x, torch.zeros(3, dtype=torch.bool))
    with refused("no true entry"):
        standardize(torch.zeros(0))
    with refused("mask", (2,)):
        standardize(x, torch.ones(2, dtype=torch.bool))
    for ddof in (2, -1):
        with refused("ddof is", ddof):
            standardize(x, ddof=ddof)
    for eps in (-1e-8, nan, inf):
        with refused("eps is", eps):
            standardize(x, eps=eps)
