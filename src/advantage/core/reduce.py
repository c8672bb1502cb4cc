"""From one number a step to one number a batch: the only place that divides by a count.

Every reduction takes `total`, the count of the whole batch, so that a batch split into micro-batches or over processes
gives the same gradient as an unsplit one: the parts then sum to the whole. Without it the count is that of the
arguments. What stands where the mask is false never matters, neither to the value nor to the gradient.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from advantage.core import checks


def token_mean(
    x: Float[Tensor, "*batch time"], mask: Bool[Tensor, "*batch time"] | None = None, total: float | None = None
) -> Float[Tensor, ""]:
    """Mean over all true steps of the batch: a long stream weighs more than a short one.

        Σ x / Σ m

    Args:
        x: one number a step.
        mask: which steps count; None for all.
        total: true steps of the whole batch, where `x` is a part of it.

    Raises:
        ValueError: shapes differ, `total` is not above 0, or without it no entry is true.

    Source: Yu et al. 2025 (DAPO), equation 12.

    >>> token_mean(torch.tensor([[1.0, 2.0], [6.0, 0.0]]), torch.tensor([[True, True], [True, False]]))
    tensor(3.)
    """
    kept = _kept(x, mask, total)
    if total is not None:
        return kept.sum() / total
    return kept.mean() if mask is None else kept.sum() / mask.sum()


def sequence_mean(
    x: Float[Tensor, "*batch time"], mask: Bool[Tensor, "*batch time"] | None = None, total: float | None = None
) -> Float[Tensor, ""]:
    """Mean over streams of each one's own mean: every stream weighs the same.

        mean_i (Σ_t x / Σ_t m)

    Args:
        x: one number a step; time is the last axis.
        mask: which steps count; None for all. A stream without any is not counted.
        total: streams of the whole batch that have a true step, where `x` is a part of it.

    Raises:
        ValueError: shapes differ, `total` is not above 0, or without it no entry is true.

    Source: Shao et al. 2024 (DeepSeekMath), equation 3.

    >>> sequence_mean(torch.tensor([[1.0, 2.0], [6.0, 0.0]]), torch.tensor([[True, True], [True, False]]))
    tensor(3.7500)
    """
    checks.time_axis(x, "x")
    kept = _kept(x, mask, total)
    if mask is None:
        means = kept.sum(-1) / max(x.shape[-1], 1)
        return means.sum() / (means.numel() if total is None else total)
    lengths = mask.sum(-1)
    means = kept.sum(-1) / lengths.clamp(min=1)
    return means.sum() / ((lengths > 0).sum() if total is None else total)


def fixed_length_mean(
    x: Float[Tensor, "*batch time"],
    mask: Bool[Tensor, "*batch time"] | None,
    length: float,
    total: float | None = None,
) -> Float[Tensor, ""]:
    """Sum over steps, mean over streams, with a constant in the place of each stream's own length.

        Σ x / (B L)

    No stream's length changes another's weight, and none can turn the sign of its own. L = 1 gives REINFORCE's mean
    over episodes of a sum over steps.

    Args:
        x: one number a step; time is the last axis.
        mask: which steps count; None for all.
        length: L > 0, the same for all streams.
        total: B, the streams of the whole batch, where `x` is a part of it; else all rows of `x`.

    Raises:
        ValueError: shapes differ, `length` or `total` is not above 0, or without `total` no entry is true.

    Source: Liu et al. 2025 (Dr. GRPO), section 3.2.

    >>> fixed_length_mean(torch.tensor([[1.0, 2.0], [6.0, 0.0]]), None, length=2)
    tensor(2.2500)
    """
    checks.time_axis(x, "x")
    checks.positive(length=length)
    kept = _kept(x, mask, total)
    rows = x.shape[:-1].numel() if total is None else total
    return kept.sum() / (rows * length)


def _kept(x: Tensor, mask: Tensor | None, total: float | None) -> Tensor:
    """`x` with 0 under the mask, after the checks that all reductions share."""
    checks.real(x=x)
    if total is not None:
        checks.positive(total=total)
    if mask is not None:
        checks.boolean(x.shape, mask=mask)
    if total is None and not (x.numel() if mask is None else mask.any()):
        raise ValueError("the mask has no true entry to average over; give total= for a part of a larger batch")
    return x if mask is None else x.masked_fill(~mask, 0.0)
