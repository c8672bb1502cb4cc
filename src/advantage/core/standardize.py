"""Numbers of mean 0 and spread 1, in two passes after one entry has been subtracted, so that an offset cancels."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from advantage.core import checks


def standardize(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"] | None = None, ddof: int = 0, eps: float = 1e-8
) -> Float[Tensor, "*shape"]:
    """Mean 0 and standard deviation 1 over the true entries, 0 elsewhere.

        (x − mean(x)) / (std(x) + ε)

    Args:
        x: any shape and unit.
        mask: which entries count; None for all. What stands elsewhere may be NaN.
        ddof: 0 for the population's standard deviation, 1 for the sample's.
        eps: ε ≥ 0 in the unit of x, added to the standard deviation.

    Returns:
        Same shape, no unit. Without spread, and for a single entry, exactly 0.

    Raises:
        ValueError: no true entry, shapes differ, ddof other than 0 and 1, ε < 0.

    Source: Engstrom et al. 2020, appendix A.1, for advantages in a minibatch.

    >>> standardize(torch.tensor([1.0, 3.0]))
    tensor([-1.,  1.])
    """
    checks.real(x=x)
    checks.non_negative(eps=eps)
    check_ddof(ddof)
    if mask is not None:
        checks.boolean(x.shape, mask=mask)
    entries = x.reshape(-1) if mask is None else x[mask]
    if entries.numel() == 0:
        raise ValueError("standardize got no true entry; give at least one")
    shifted = entries - entries[0]
    if entries.numel() <= ddof:
        standard = shifted
    else:
        std, mean = torch.std_mean(shifted, correction=ddof)
        standard = divide_by_spread(shifted - mean, std, eps)
    return standard.reshape(x.shape) if mask is None else torch.zeros_like(x).masked_scatter(mask, standard)


def divide_by_spread(centred: Tensor, std: Tensor, eps: float) -> Tensor:
    """(x − mean) / (std + ε), exactly 0 where there is no spread."""
    if eps > torch.finfo(std.dtype).tiny:  # else it vanishes beside a std of 0
        return centred / (std + eps)  # without spread the numerators are exactly 0
    # Equal to 0, not "not above 0": a NaN must stay one. The divisor is filled too, so that no 0/0 enters the gradient.
    flat = std == 0
    return (centred / (std.masked_fill(flat, 1.0) + eps)).masked_fill(flat, 0.0)


def check_ddof(ddof: int) -> None:
    """Refuses a ddof that is neither the population's (0) nor the sample's (1)."""
    if ddof not in (0, 1):
        raise ValueError(f"ddof is {ddof}; it must be 0 or 1")
