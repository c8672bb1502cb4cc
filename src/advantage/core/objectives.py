"""The policy's part of an objective, elementwise and to be maximised; reductions stand in reduce.py."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from advantage.core import checks


def policy_gradient(logp: Float[Tensor, "*shape"], advantages: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """REINFORCE's term, whose gradient is the policy gradient.

        Ψ_t log π_θ(a_t|s_t)

    Args:
        logp: log-probabilities of the taken actions, in nats.
        advantages: Ψ_t, constants: returns, returns less a baseline, or advantages.

    Raises:
        ValueError: the shapes differ.

    Source: Williams 1992; Sutton & Barto 2018, equation 13.8.

    >>> policy_gradient(torch.tensor([-0.5]), torch.tensor([2.0]))
    tensor([-1.])
    """
    checks.real(logp=logp, advantages=advantages)
    return logp * advantages


def surrogate(ratio: Float[Tensor, "*shape"], advantages: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Importance-weighted advantage.

        ρ_t Â_t

    At θ = θ_old its gradient is the policy gradient; its value is the mean advantage there, not the return.

    Args:
        ratio: ρ_t ≥ 0.
        advantages: Â_t, constants.

    Raises:
        ValueError: the shapes differ.

    Source: Schulman et al. 2015, equation 14.

    >>> surrogate(torch.tensor([1.5]), torch.tensor([-2.0]))
    tensor([-3.])
    """
    checks.real(ratio=ratio, advantages=advantages)
    return ratio * advantages


def clipped_surrogate(
    ratio: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    eps_low: float,
    eps_high: float,
    dual_clip: float | None = None,
) -> Float[Tensor, "*shape"]:
    """PPO's surrogate: no reward for moving an action's probability further than the band, in the direction it praises.

        min(ρ_t Â_t, clip(ρ_t, 1 − ε_low, 1 + ε_high) Â_t),   with a dual clip   max(that, c Â_t) where Â_t < 0

    The gradient is 0 only for Â > 0 above the band and Â < 0 below it; the other two quadrants keep all of it. Nothing
    bounds the ratio itself.

    Args:
        ratio: ρ_t ≥ 0.
        advantages: Â_t, constants.
        eps_low, eps_high: ε ≥ 0, half-widths of the band around 1.
        dual_clip: c > 1, a floor for very large ratios of bad actions; None for none.

    Raises:
        ValueError: the shapes differ, ε < 0, or c ≤ 1.

    Source: Schulman et al. 2017, equation 7; Ye et al. 2020, equation 5 (dual clip); Yu et al. 2025 (two ε).

    Ratio 1.5 and 0.5 against an advantage of +1 and −1, in a band of ±0.2:

    >>> clipped_surrogate(torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2, 0.2)
    tensor([ 1.2000,  0.5000, -1.5000, -0.8000])

    With ε = 0.2 a token of probability 0.01 is praised up to 0.012; one of 0.9 would be up to 1.08, which a probability
    never reaches, so that it never meets the clip: its ratio ends at 1/0.9.

    >>> torch.tensor([0.01, 0.9]) * clipped_surrogate(torch.tensor([9.0, 9.0]), torch.ones(2), 0.2, 0.2)
    tensor([0.0120, 1.0800])
    >>> clipped_surrogate(torch.tensor([1 / 0.9]), torch.ones(1), 0.2, 0.2)
    tensor([1.1111])
    """
    checks.real(ratio=ratio, advantages=advantages)
    checks.non_negative(eps_low=eps_low, eps_high=eps_high)
    if dual_clip is not None and not 1.0 < dual_clip < float("inf"):
        raise ValueError(f"dual_clip is {dual_clip}; it must be above 1 and finite")
    # min and max over products with Â are bounds on ρ alone: above where Â praises, below (and at c) where it blames.
    blamed = advantages < 0
    ceiling = torch.full_like(advantages, 1.0 + eps_high).masked_fill(blamed, dual_clip or torch.inf)
    floor = torch.full_like(advantages, 1.0 - eps_low).masked_fill(~blamed, -torch.inf)
    return ratio.clamp(floor, ceiling) * advantages


def cispo(
    logp: Float[Tensor, "*shape"],
    ratio: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    eps_high: float,
) -> Float[Tensor, "*shape"]:
    """Clipped importance weight on the policy gradient: every token keeps a gradient, none a large weight.

        stop_grad(min(ρ_t, 1 + ε_high)) Â_t log π_θ(a_t|s_t)

    Args:
        logp: log-probabilities of the taken actions, in nats.
        ratio: ρ_t ≥ 0; no gradient flows through it.
        advantages: Â_t, constants.
        eps_high: ε_high ≥ 0.

    Raises:
        ValueError: the shapes differ, or ε_high < 0.

    Source: MiniMax 2025 (MiniMax-M1), equation 4.

    >>> cispo(torch.tensor([-1.0]), torch.tensor([9.0]), torch.tensor([1.0]), eps_high=1.0)
    tensor([-2.])
    """
    checks.real(logp=logp, ratio=ratio, advantages=advantages)
    checks.non_negative(eps_high=eps_high)
    return ratio.detach().clamp(max=1.0 + eps_high) * advantages * logp
