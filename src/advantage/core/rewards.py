"""The reward seam and the factors γ_t and λ_t: what a stream pays, and where it ends."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from advantage.core import checks
from advantage.core.ratio import kl_k1, kl_k2, kl_k3

ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def discounts(
    terminated: Bool[Tensor, "*batch time"], gamma: float, dtype: torch.dtype | None = None
) -> Float[Tensor, "*batch time"]:
    """Discount of what follows each step; nothing follows a termination.

        γ_t = γ (1 − terminated_t)

    Args:
        terminated: true where the episode ended by itself. A truncation is none: its next state has a value.
        gamma: γ in [0, 1].
        dtype: of the result; torch's default floating-point dtype unless given.

    Raises:
        ValueError: γ outside [0, 1], or `terminated` is not boolean.

    Source: per-step discounts in place of an end flag, as in White 2017.

    >>> discounts(torch.tensor([False, True]), gamma=0.5)
    tensor([0.5000, 0.0000])
    """
    checks.unit_interval(gamma=gamma)
    return _factor(terminated, "terminated", gamma, dtype)


def traces(
    cut: Bool[Tensor, "*batch time"], lam: float, dtype: torch.dtype | None = None
) -> Float[Tensor, "*batch time"]:
    """Trace factor: how much of the next step's advantage is credited to this one; none across a cut.

        λ_t = λ (1 − cut_t),   0 on the last step

    Args:
        cut: terminated, truncated or masked out.
        lam: λ in [0, 1].
        dtype: of the result; torch's default floating-point dtype unless given.

    Raises:
        ValueError: λ outside [0, 1], or `cut` is not boolean.

    Source: Schulman et al. 2016, section 3.

    >>> traces(torch.tensor([False, True, False]), lam=0.5)
    tensor([0.5000, 0.0000, 0.0000])
    """
    checks.unit_interval(lam=lam)
    checks.time_axis(cut, "cut")
    factor = _factor(cut, "cut", lam, dtype)
    factor[..., -1:] = 0.0
    return factor


def terminal_reward(score: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch time"]) -> Float[Tensor, "*batch time"]:
    """Reward of a stream that is judged once, at its end: the score stands on the last true step, 0 elsewhere.

    Args:
        score: one number a stream, in units of reward.
        mask: true on the steps that were decisions. A row without any gets no reward.

    Raises:
        ValueError: `score` is not of the mask's leading shape.

    Source: Ouyang et al. 2022, section 3.5.

    >>> terminal_reward(torch.tensor([2.0]), torch.tensor([[True, True, False]]))
    tensor([[0., 2., 0.]])
    """
    checks.real(score=score)
    checks.time_axis(mask, "mask")
    checks.boolean(torch.Size((*score.shape, mask.shape[-1])), mask=mask)
    steps_from_here = mask.flip(-1).cumsum(-1).flip(-1)
    last = mask & (steps_from_here == 1)
    return torch.where(last, score.unsqueeze(-1), torch.zeros_like(score).unsqueeze(-1))


def kl_reward(
    logp: Float[Tensor, "*batch time"],
    logp_ref: Float[Tensor, "*batch time"],
    beta: float,
    mask: Bool[Tensor, "*batch time"],
    estimator: str = "k1",
) -> Float[Tensor, "*batch time"]:
    """Price of leaving the reference model, paid at each step.

        −β k_t,   k_t an estimate of KL(π‖π_ref) from the action taken

    Args:
        logp, logp_ref: log-probabilities of the taken actions in nats, under the acting policy and the reference.
        beta: β ≥ 0, reward per nat.
        mask: true on the steps that were decisions; 0 elsewhere.
        estimator: "k1", "k2" or "k3".

    Raises:
        ValueError: shapes differ, β < 0, or the estimator is unknown.

    Source: Ziegler et al. 2019, equation 2; the estimators by Schulman 2020.

    >>> kl_reward(torch.tensor([-1.0]), torch.tensor([-3.0]), 0.5, torch.tensor([True]))
    tensor([-1.])
    """
    checks.real(logp=logp, logp_ref=logp_ref)
    checks.boolean(logp.shape, mask=mask)
    checks.non_negative(beta=beta)
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; it must be one of {', '.join(ESTIMATORS)}")
    kl = ESTIMATORS[estimator](logp.masked_fill(~mask, 0.0), logp_ref.masked_fill(~mask, 0.0))
    return (-beta * kl).masked_fill(~mask, 0.0)


def overlong_penalty(lengths: Integer[Tensor, "*batch"], max_length: int, cache: int) -> Float[Tensor, "*batch"]:
    """Soft punishment of completions that come near the length cap.

        0 up to L_max − L_cache, then linear to −1 at L_max, and −1 beyond

    Args:
        lengths: tokens of each completion.
        max_length: L_max ≥ 1 tokens.
        cache: L_cache in 0 … L_max tokens, the width of the slope; 0 makes it a step behind L_max.

    Raises:
        ValueError: a cap below 1, or a cache outside 0 … L_max.

    Source: Yu et al. 2025 (DAPO), equation 13.

    >>> overlong_penalty(torch.tensor([80, 90, 100, 120]), max_length=100, cache=20)
    tensor([ 0.0000, -0.5000, -1.0000, -1.0000])
    """
    checks.positive(max_length=max_length)
    if not 0 <= cache <= max_length:
        raise ValueError(f"cache is {cache}; it must lie in 0 … max_length ({max_length})")
    room = (max_length - cache - lengths).to(torch.get_default_dtype())
    return (room / max(cache, 1)).clamp(-1.0, 0.0)


def _factor(flag: Bool[Tensor, "*batch time"], name: str, value: float, dtype: torch.dtype | None) -> Tensor:
    checks.boolean(flag.shape, **{name: flag})
    factor = torch.full(flag.shape, value, dtype=dtype or torch.get_default_dtype(), device=flag.device)
    return factor.masked_fill_(flag, 0.0)
