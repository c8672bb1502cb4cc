"""From TD residuals to advantages: n steps believed, or the exponentially weighted mean over all n, GAE.

Like the returns below them they run backwards over time, the last axis, and a factor of exactly 0 severs.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from advantage.core import checks
from advantage.core.returns import backwards, with_last


def n_step_advantage(
    delta: Float[Tensor, "*batch time"],
    discounts: Float[Tensor, "*batch time"],
    cut: Bool[Tensor, "*batch time"],
    n: int,
) -> Float[Tensor, "*batch time"]:
    """n-step advantage: n rewards are believed, then the critic is.

        Â_t^(n) = Σ_{k<n} (Π_{j<k} γ_{t+j}) δ_{t+k} = r_t + γ r_{t+1} + … + γ^n V(s_{t+n}) − V(s_t)

    Args:
        delta: TD residuals δ_t.
        discounts: γ_t = γ (1 − terminated_t), in [0, 1].
        cut: true where the stream ends after t; the sum stops there. The last step always counts as a cut.
        n: number of rewards, at least 1.

    Returns:
        Advantages in units of reward, same shape. n = 1 gives δ; n ≥ time gives return − value.

    Raises:
        ValueError: the shapes differ, or n < 1.

    Source: Schulman et al. 2016, equations 11–14.

    >>> n_step_advantage(torch.ones(3), torch.full((3,), 0.5), torch.zeros(3, dtype=torch.bool), n=2)
    tensor([1.5000, 1.5000, 1.0000])
    """
    checks.real(delta=delta, discounts=discounts)
    checks.time_axis(delta, "delta")
    checks.boolean(delta.shape, cut=cut)
    if n < 1:
        raise ValueError(f"n is {n}; an n-step advantage needs n of at least 1")
    decay = discounts.masked_fill(with_last(cut), 0.0)
    advantages = delta.clone()
    for _ in range(min(n, delta.shape[-1]) - 1):
        following = torch.cat([advantages[..., 1:], torch.zeros_like(advantages[..., :1])], dim=-1)
        advantages = delta + decay * following.masked_fill(decay == 0, 0.0)
    return advantages


def gae(
    delta: Float[Tensor, "*batch time"],
    discounts: Float[Tensor, "*batch time"],
    traces: Float[Tensor, "*batch time"],
) -> Float[Tensor, "*batch time"]:
    """Generalised advantage estimate, the exponentially weighted mean of all n-step advantages.

        Â_t = δ_t + γ_t λ_t Â_{t+1}

    Args:
        delta: TD residuals δ_t, in units of reward.
        discounts: γ_t = γ (1 − terminated_t), in [0, 1].
        traces: λ_t in [0, 1]; 0 wherever the stream is cut after t.

    Returns:
        Advantages, same shape. λ = 0 gives δ; λ = 1 gives return − value.

    Raises:
        ValueError: the shapes differ (nothing is broadcast) or a tensor is not floating point.

    Source: Schulman et al. 2016, equation 16.

    >>> gae(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
    tensor([1.5000, 1.0000])
    """
    checks.real(delta=delta, discounts=discounts, traces=traces)
    checks.time_axis(delta, "delta")
    return backwards(delta, discounts * traces)


def lambda_return(
    delta: Float[Tensor, "*batch time"],
    values: Float[Tensor, "*batch time"],
    discounts: Float[Tensor, "*batch time"],
    traces: Float[Tensor, "*batch time"],
) -> Float[Tensor, "*batch time"]:
    """λ-return, the critic's target: GAE on top of the value that it corrects.

        G_t^λ = Â_t + V(s_t)

    Args:
        delta, discounts, traces: as for `gae`.
        values: V(s_t) of the collecting critic. The target is a constant of the rollout, never of the live critic.

    Returns:
        Targets in units of reward, same shape. λ = 0 gives r + γV(s'); λ = 1 gives the return.

    Raises:
        ValueError: the shapes differ (nothing is broadcast) or a tensor is not floating point.

    Source: Sutton & Barto 2018, equation 12.2, in the form of Schulman et al. 2016.

    >>> lambda_return(torch.tensor([-2.0]), torch.tensor([30.0]), torch.tensor([1.0]), torch.tensor([0.0]))
    tensor([28.])
    """
    checks.real(delta=delta, values=values)
    return gae(delta, discounts, traces) + values
