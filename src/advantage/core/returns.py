"""From rewards to what they are worth: returns, TD residuals, and the backward recursion over time that all share.

Time is the last axis. Ends of streams are no special case: they are zeros in `discounts` (nothing follows a
termination) and in `traces` (credit stops at a cut). A factor of exactly 0 severs: what stands behind it may be NaN or
infinite and reaches neither the value nor the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from advantage.core import checks


def discounted_return(
    rewards: Float[Tensor, "*batch time"],
    discounts: Float[Tensor, "*batch time"],
    cut: Bool[Tensor, "*batch time"],
    next_values: Float[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Return G_t, the discounted sum of rewards to the end of the stream.

        G_t = r_t + γ_t G_{t+1},   at a cut   G_t = r_t + γ_t V(s_{t+1})

    Args:
        rewards: r_t, which follows the action at t.
        discounts: γ_t = γ (1 − terminated_t), in [0, 1].
        cut: true where the stream ends after t, for whatever reason; the last step always counts as a cut.
        next_values: V(s_{t+1}) of the state that really followed; without it 0 stands at a cut (whole episodes).

    Returns:
        Returns in units of reward, same shape. γ = 0 gives the rewards.

    Raises:
        ValueError: the shapes or dtypes differ from the above.

    Source: Sutton & Barto 2018, equation 3.9.

    >>> discounted_return(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([False, True]))
    tensor([1.5000, 1.0000])
    """
    checks.real(rewards=rewards, discounts=discounts)
    checks.time_axis(rewards, "rewards")
    checks.boolean(rewards.shape, cut=cut)
    cut = with_last(cut)
    bootstrapped = rewards
    if next_values is not None:
        checks.real(rewards=rewards, next_values=next_values)
        bootstrapped = rewards + discounts * next_values.masked_fill(~cut | (discounts == 0), 0.0)
    return backwards(bootstrapped, discounts.masked_fill(cut, 0.0))


def td_residual(
    rewards: Float[Tensor, "*batch time"],
    values: Float[Tensor, "*batch time"],
    next_values: Float[Tensor, "*batch time"],
    discounts: Float[Tensor, "*batch time"],
) -> Float[Tensor, "*batch time"]:
    """TD residual, the one-step surprise.

        δ_t = r_t + γ_t V(s_{t+1}) − V(s_t)

    Args:
        rewards: r_t.
        values: V(s_t).
        next_values: V(s_{t+1}) of the state that really followed, also across a truncation.
        discounts: γ_t = γ (1 − terminated_t), in [0, 1].

    Returns:
        Residuals in units of reward, same shape. With V = V^π their mean given (s, a) is the advantage A(s, a).

    Raises:
        ValueError: the shapes differ (nothing is broadcast) or a tensor is not floating point.

    Source: Sutton & Barto 2018, equation 6.5.

    A ride expected to take 30 minutes: after 10 the driver expects 18 more, so it goes 2 minutes better than thought.

    >>> td_residual(torch.tensor([10.0]), torch.tensor([30.0]), torch.tensor([18.0]), torch.tensor([1.0]))
    tensor([-2.])
    """
    checks.real(rewards=rewards, values=values, next_values=next_values, discounts=discounts)
    return rewards + discounts * next_values.masked_fill(discounts == 0, 0.0) - values


def with_last(cut: Bool[Tensor, "*batch time"]) -> Bool[Tensor, "*batch time"]:
    """The cuts, the last step among them: nothing collected follows it."""
    cut = cut.clone()
    cut[..., -1:] = True
    return cut


def backwards(
    increments: Float[Tensor, "*batch time"], decay: Float[Tensor, "*batch time"]
) -> Float[Tensor, "*batch time"]:
    """y_t = x_t + d_t y_{t+1}, from the last step to the first, all batch axes at once."""
    # Time first and contiguous: a step of the loop then reads whole rows, not one number of each.
    x, d = (tensor.movedim(-1, 0).contiguous().unbind(0)[::-1] for tensor in (increments, decay))
    if not x:
        return increments.clone()
    found = _recursion(x, d)
    if not torch.isfinite(found[..., 0]).all():  # what is not finite reaches the first step, also through a factor of 0
        found = _recursion(x, d, severed=True)
    return found


def _recursion(increments: Sequence[Tensor], decay: Sequence[Tensor], severed: bool = False) -> Tensor:
    """y, from rows that begin with the last step."""
    following = increments[0]
    outputs = [following]
    for increment, factor in zip(increments[1:], decay[1:], strict=True):
        behind = following.masked_fill(factor == 0, 0.0) if severed else following
        following = torch.addcmul(increment, factor, behind)
        outputs.append(following)
    return torch.stack(outputs[::-1], dim=-1)
