"""The definitions that the papers give, written out as sums over single numbers: what the core's fast forms must equal.

Each is another form than the core computes: sums where it recurs, telescoped values where it adds residuals, weighted
means where it runs backwards, exact fractions where it rounds. `Streams` draws what they are tried on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor


@dataclass(frozen=True)
class Streams:
    """Rewards and values over time with episodes that end and are cut, each step's following value the real one."""

    rewards: Tensor
    values: Tensor
    next_values: Tensor
    terminated: Tensor
    truncated: Tensor

    @property
    def cut(self) -> Tensor:
        return self.terminated | self.truncated


def streams(seed: int, shape: Sequence[int], ends: float = 0.3, dtype: torch.dtype = torch.float64) -> Streams:
    """Random streams. Inside one, V(s_{t+1}) is the next step's value; at a cut it is a number of its own."""
    rng = torch.Generator().manual_seed(seed)
    rewards, values, other = (torch.randn(*shape, generator=rng, dtype=dtype) for _ in range(3))
    terminated, truncated = (torch.rand(*shape, generator=rng) < ends / 2 for _ in range(2))
    truncated &= ~terminated
    inside = ~(terminated | truncated)
    inside[..., -1:] = False
    following = torch.cat([values[..., 1:], other[..., -1:]], -1)
    return Streams(rewards, values, torch.where(inside, following, other), terminated, truncated)


def each_row(rowwise: Callable[..., Sequence[float]], *tensors: Tensor) -> Tensor:
    """A definition for one stream of plain numbers, asked once for every stream of a batch."""
    first = tensors[0]
    rows = [rowwise(*row) for row in zip(*(t.reshape(-1, first.shape[-1]).tolist() for t in tensors), strict=True)]
    return torch.tensor(rows, dtype=first.dtype).reshape(first.shape)


def last_step(cut: Sequence[bool], t: int) -> int:
    """The step at which the stream that t belongs to ends."""
    return next((k for k in range(t, len(cut)) if cut[k]), len(cut) - 1)


def return_sum(
    rewards: Sequence[float], discounts: Sequence[float], cut: Sequence[bool], next_values: Sequence[float]
) -> list[float]:
    """Σ_k γ…γ r_{t+k} to the end of the stream, and what follows it at its price."""
    sums = []
    for t in range(len(rewards)):
        end = last_step(cut, t)
        paid = sum(math.prod(discounts[t:k]) * rewards[k] for k in range(t, end + 1))
        sums.append(paid + math.prod(discounts[t : end + 1]) * next_values[end])
    return sums


def n_step_sum(
    rewards: Sequence[float],
    values: Sequence[float],
    next_values: Sequence[float],
    discounts: Sequence[float],
    cut: Sequence[bool],
    n: int,
) -> list[float]:
    """r_t + … + γ^n V(s_{t+n}) − V(s_t), or fewer rewards where the stream ends before: the telescoped form."""
    advantages = []
    for t in range(len(rewards)):
        end = min(t + n - 1, last_step(cut, t))
        paid = sum(math.prod(discounts[t:k]) * rewards[k] for k in range(t, end + 1))
        advantages.append(paid + math.prod(discounts[t : end + 1]) * next_values[end] - values[t])
    return advantages


def gae_mean(
    rewards: Sequence[float],
    values: Sequence[float],
    next_values: Sequence[float],
    discounts: Sequence[float],
    cut: Sequence[bool],
    lam: float,
) -> list[float]:
    """(1 − λ) Σ_{n<N} λ^{n−1} Â^(n) + λ^{N−1} Â^(N), N steps being left to the cut: the weighted mean."""
    by_n = [n_step_sum(rewards, values, next_values, discounts, cut, n) for n in range(1, len(rewards) + 1)]
    advantages = []
    for t in range(len(rewards)):
        left = last_step(cut, t) - t + 1
        mean = sum((1 - lam) * lam ** (n - 1) * by_n[n - 1][t] for n in range(1, left))
        advantages.append(mean + lam ** (left - 1) * by_n[left - 1][t])
    return advantages


def mean_and_variance(numbers: Iterable[float], ddof: int) -> tuple[Fraction, Fraction]:
    """Exact, since a float is a fraction; the variance over a single number with ddof = 1 is 0."""
    exact = [Fraction(number) for number in numbers]
    mean = sum(exact, Fraction(0)) / len(exact)
    return mean, sum(((x - mean) ** 2 for x in exact), Fraction(0)) / max(len(exact) - ddof, 1)


def standard(numbers: Sequence[float], ddof: int, eps: float) -> list[float]:
    """(x − mean)/(std + ε) from exact moments; 0 without spread."""
    mean, variance = mean_and_variance(numbers, ddof)
    if variance == 0 or len(numbers) <= ddof:
        return [0.0] * len(numbers)
    return [float(Fraction(x) - mean) / (math.sqrt(variance) + eps) for x in numbers]


def members(group: Sequence[int], valid: Sequence[bool]) -> list[list[int]]:
    """For each completion the valid places of its group."""
    return [[j for j, other in enumerate(group) if other == own and valid[j]] for own in group]


def every(choices: int, times: int) -> Iterable[tuple[int, ...]]:
    """All that `times` draws from `choices` can give: an expectation is a sum over these."""
    return itertools.product(range(choices), repeat=times)
