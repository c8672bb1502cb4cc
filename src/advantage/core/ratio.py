"""How far a policy has moved, by the actions that another one took: likelihood ratios and estimates of the KL."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from advantage.core import checks

_SERIES_BELOW = 0.1  # expm1(x) − x loses 2/|x| of its relative precision; ten terms of the series are exact below this


def likelihood_ratio(
    logp: Float[Tensor, "*shape"], logp_old: Float[Tensor, "*shape"], clamp: float | None = None
) -> Float[Tensor, "*shape"]:
    """Importance ratio of an action between the policy that learns and the one that acted.

        ρ = π_θ(a|s) / π_old(a|s) = exp(log π_θ − log π_old)

    Args:
        logp, logp_old: log-probabilities of the taken actions, in nats.
        clamp: bound on |log ρ|, > 0; None for none. Beyond it the gradient is 0.

    Returns:
        Ratios ≥ 0, same shape; 1 where the policies agree.

    Raises:
        ValueError: the shapes differ, or the bound is not above 0.

    Source: Schulman et al. 2017, section 3.

    An action of probability 0.01 that became one of 0.9 counts ninety times:

    >>> likelihood_ratio(torch.tensor([0.9]).log(), torch.tensor([0.01]).log())
    tensor([90.0000])
    """
    checks.real(logp=logp, logp_old=logp_old)
    log_ratio = logp - logp_old
    if clamp is not None:
        checks.positive(clamp=clamp)
        log_ratio = log_ratio.clamp(-clamp, clamp)
    return log_ratio.exp()


def sequence_ratio(
    logp: Float[Tensor, "*batch time"], logp_old: Float[Tensor, "*batch time"], mask: Bool[Tensor, "*batch time"]
) -> Float[Tensor, "*batch time"]:
    """Importance ratio of a whole sequence, as the geometric mean of its tokens' ratios.

        s = exp((1/|o|) Σ_t (log π_θ − log π_old)),   constant along the row

    Args:
        logp, logp_old: log-probabilities of the taken tokens, in nats.
        mask: true on the tokens that were sampled. What stands elsewhere may be NaN.

    Returns:
        Ratios, same shape, so that they meet token advantages; 1 on a row without true entries.

    Raises:
        ValueError: the shapes differ.

    Source: Zheng et al. 2025 (GSPO), equation 7.

    >>> sequence_ratio(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2), torch.tensor([[True, True]])).log()
    tensor([[2., 2.]])
    """
    checks.real(logp=logp, logp_old=logp_old)
    checks.boolean(logp.shape, mask=mask)
    log_ratio = logp.masked_fill(~mask, 0.0) - logp_old.masked_fill(~mask, 0.0)
    mean = log_ratio.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return mean.exp().expand(logp.shape)


def truncated_importance(
    logp_old: Float[Tensor, "*shape"], logp_sampler: Float[Tensor, "*shape"], cap: float
) -> Float[Tensor, "*shape"]:
    """Weight that corrects for an engine that samples from slightly other numbers than the learner computes.

        min(π_old(a|s) / π_sampler(a|s), C),   without gradient

    Args:
        logp_old: log-probabilities by the learner at the start of the update, in nats.
        logp_sampler: as the sampling engine reported them.
        cap: C > 0.

    Raises:
        ValueError: the shapes differ, or the cap is not above 0.

    Source: Ionides 2008; Yao et al. 2025 for language models.

    >>> truncated_importance(torch.tensor([0.5, 0.1]).log(), torch.tensor([0.1, 0.1]).log(), cap=2.0)
    tensor([2., 1.])
    """
    checks.real(logp_old=logp_old, logp_sampler=logp_sampler)
    checks.positive(cap=cap)
    return (logp_old.detach() - logp_sampler.detach()).exp().clamp(max=cap)


def kl_k1(logp: Float[Tensor, "*shape"], logp_ref: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Estimate of KL(π‖π_ref) from samples of π: unbiased, of either sign, of high variance.

        k1 = −x,   x = log π_ref − log π

    Args:
        logp, logp_ref: log-probabilities of the taken actions in nats, under π (which took them) and π_ref.

    Raises:
        ValueError: the shapes differ.

    Source: Schulman 2020, "Approximating KL divergence".

    >>> kl_k1(torch.tensor([-1.0]), torch.tensor([-2.0]))
    tensor([1.])
    """
    checks.real(logp=logp, logp_ref=logp_ref)
    return logp - logp_ref


def kl_k2(logp: Float[Tensor, "*shape"], logp_ref: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Estimate of KL(π‖π_ref) from samples of π: never negative, biased, exact to second order.

        k2 = ½ x²,   x = log π_ref − log π

    Args, raises and source: as for `kl_k1`.

    >>> kl_k2(torch.tensor([-1.0]), torch.tensor([-3.0]))
    tensor([2.])
    """
    checks.real(logp=logp, logp_ref=logp_ref)
    return 0.5 * (logp_ref - logp).square()


def kl_k3(logp: Float[Tensor, "*shape"], logp_ref: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Estimate of KL(π‖π_ref) from samples of π: unbiased and never negative.

        k3 = eˣ − 1 − x,   x = log π_ref − log π

    Unbiased for samples of π alone; its *gradient* on such samples is that of KL(π_ref‖π), not of KL(π‖π_ref).

    Args, raises and source: as for `kl_k1`.

    >>> kl_k3(torch.tensor([0.0], dtype=torch.float64), torch.tensor([1e-9], dtype=torch.float64)).item()
    5.000000001666667e-19
    """
    checks.real(logp=logp, logp_ref=logp_ref)
    x = logp_ref - logp
    small = x.abs() < _SERIES_BELOW
    near = x.masked_fill(~small, 0.0)  # else the unused series could put an overflow into the gradient
    series = torch.ones_like(near)
    for k in range(11, 2, -1):  # ½x² (1 + x/3 (1 + x/4 (1 + …)))
        series = 1.0 + near / k * series
    return torch.where(small, 0.5 * near.square() * series, x.expm1() - x)
