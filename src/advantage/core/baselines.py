"""What is taken off a reward before it praises or blames: the mean of a group, or of the others in it.

A group statistic is the critic of algorithms that have none: with γ = λ = 1 and the group mean in the place of V, GAE
is the group advantage. All moments are taken in two passes after one member has been subtracted, so a large common
offset cancels before anything is summed, and equal numbers differ from their mean by exactly 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from advantage.core import checks
from advantage.core.standardize import check_ddof, divide_by_spread


def group_mean(
    rewards: Float[Tensor, "*batch"], group: Integer[Tensor, "*batch"], valid: Bool[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch"]:
    """Mean reward of each completion's own group, the baseline of GRPO.

        b_i = (1/G) Σ_{j in group of i} r_j

    Args:
        rewards: one number a completion.
        group: integer ids, in any order; equal ids share a baseline wherever they stand in the batch.
        valid: false for excluded completions, which are in no statistic and get 0. Their reward may be NaN.

    Raises:
        ValueError: shapes differ, rewards are integers, ids are not.

    Source: Shao et al. 2024 (DeepSeekMath), section 4.1.

    >>> group_mean(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([0, 7, 0]))
    tensor([2., 5., 2.])
    """
    of = _grouped(rewards, group, valid)
    baseline = of.reference + of.sums / of.counts.clamp(min=1)
    return _spread_back(baseline[of.member_of], of.valid, rewards)


def leave_one_out(
    rewards: Float[Tensor, "*batch"], group: Integer[Tensor, "*batch"], valid: Bool[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch"]:
    """Mean reward of the *other* members of each completion's group, an unbiased baseline.

        b_i = (1/(G − 1)) Σ_{j ≠ i in group of i} r_j

    Args:
        rewards, group, valid: as for `group_mean`. A group of one is its own baseline.

    Raises:
        ValueError: shapes differ, rewards are integers, ids are not.

    Source: Ahmadian et al. 2024 (RLOO), equation 7.

    >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 0]))
    tensor([4.0000, 3.5000, 1.5000])
    """
    of = _grouped(rewards, group, valid)
    others = (of.sums[of.member_of] - of.shifted) / (of.counts[of.member_of] - 1).clamp(min=1)
    alone = of.counts[of.member_of] == 1
    baseline = of.reference[of.member_of] + torch.where(alone, of.shifted, others)
    return _spread_back(baseline, of.valid, rewards)


def group_advantages(
    rewards: Float[Tensor, "*batch"],
    group: Integer[Tensor, "*batch"],
    scale: str | None = "std",
    ddof: int = 1,
    eps: float = 1e-6,
    valid: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Advantage of a completion over its group.

        A_i = (r_i − mean(r)) / (std(r) + ε),   without scale   A_i = r_i − mean(r)

    Args:
        rewards, group, valid: as for `group_mean`.
        scale: "std" divides by the group's standard deviation; None does not (Dr. GRPO).
        ddof: 1 for the sample's standard deviation, 0 for the population's.
        eps: ε ≥ 0 in units of reward, added to the standard deviation.

    Returns:
        Advantages, same shape. A group of one, and one without spread, give exactly 0.

    Raises:
        ValueError: shapes differ, unknown scale, ddof other than 0 and 1, ε < 0.

    Source: Shao et al. 2024 (DeepSeekMath), section 4.1.2; Liu et al. 2025 (Dr. GRPO) for `scale=None`.

    >>> group_advantages(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 0, 0]), eps=0.0)
    tensor([-1.,  0.,  1.])
    """
    if scale not in ("std", None):
        raise ValueError(f"scale is {scale!r}; it must be 'std' or None")
    checks.non_negative(eps=eps)
    check_ddof(ddof)
    of = _grouped(rewards, group, valid)
    centred = (of.shifted - (of.sums / of.counts.clamp(min=1))[of.member_of]).masked_fill(~of.valid, 0.0)
    if scale is None:
        return _spread_back(centred, of.valid, rewards)
    squares = torch.zeros_like(of.sums).index_add(0, of.member_of, centred.square())
    variance = squares / (of.counts - ddof).clamp(min=1)
    flat = variance == 0  # the root has no slope there
    std = variance.masked_fill(flat, 1.0).sqrt().masked_fill(flat, 0.0)
    return _spread_back(divide_by_spread(centred, std[of.member_of], eps), of.valid, rewards)


class _Grouped(NamedTuple):
    """A flat batch by group: each group's counts, sums and reference, each member's reward less that reference."""

    member_of: Tensor
    valid: Tensor
    counts: Tensor
    reference: Tensor
    shifted: Tensor
    sums: Tensor


def _grouped(rewards: Tensor, group: Tensor, valid: Tensor | None) -> _Grouped:
    checks.real(rewards=rewards)
    if group.is_floating_point() or group.dtype == torch.bool:
        raise ValueError(f"group has dtype {group.dtype}; give integer ids")
    if group.shape != rewards.shape:
        raise ValueError(f"group has shape {tuple(group.shape)} and rewards {tuple(rewards.shape)}; they must be equal")
    if valid is not None:
        checks.boolean(rewards.shape, valid=valid)
    ids, index = torch.unique(group.reshape(-1), return_inverse=True)
    kept = torch.ones_like(index, dtype=torch.bool) if valid is None else valid.reshape(-1)
    flat = rewards.reshape(-1)
    empty = flat.new_full(ids.shape, torch.inf)
    least = empty.scatter_reduce(0, index, flat.detach().masked_fill(~kept, torch.inf), "amin")
    reference = least.masked_fill(least == torch.inf, 0.0)  # a group with no valid member has none
    shifted = (flat - reference[index]).masked_fill(~kept, 0.0)
    counts = torch.zeros_like(reference).index_add(0, index, kept.to(flat.dtype))
    return _Grouped(index, kept, counts, reference, shifted, torch.zeros_like(reference).index_add(0, index, shifted))


def _spread_back(flat: Tensor, valid: Tensor, like: Tensor) -> Tensor:
    return flat.masked_fill(~valid, 0.0).reshape(like.shape)
