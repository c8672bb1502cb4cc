"""What a critic is trained on: losses for V, elementwise and to be minimised, and targets for Q."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advantage.core import checks


def value_loss(values: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Squared error of the critic.

        ½ (V(s) − target)²

    Args:
        values: V(s) of the live critic.
        targets: constants, in the same unit.

    Raises:
        ValueError: the shapes differ.

    Source: Sutton & Barto 2018, equation 9.1.

    >>> value_loss(torch.tensor([1.0]), torch.tensor([3.0]))
    tensor([2.])
    """
    checks.real(values=values, targets=targets)
    return 0.5 * (values - targets).square()


def clipped_value_loss(
    values: Float[Tensor, "*shape"],
    values_old: Float[Tensor, "*shape"],
    targets: Float[Tensor, "*shape"],
    eps: float,
) -> Float[Tensor, "*shape"]:
    """Squared error of a critic that gets no praise for moving further than ε from what it said at collection.

        ½ max((V − target)², (V_old + clip(V − V_old, ±ε) − target)²)

    Args:
        values: V(s) of the live critic.
        values_old: V(s) of the collecting critic.
        targets: constants, in the same unit.
        eps: ε ≥ 0, in units of value.

    Raises:
        ValueError: the shapes differ, or ε < 0.

    Source: the code of Schulman et al. 2017; Engstrom et al. 2020, appendix A.1.

    >>> clipped_value_loss(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([2.0]), eps=0.5)
    tensor([1.1250])
    """
    checks.real(values=values, values_old=values_old, targets=targets)
    checks.non_negative(eps=eps)
    near = values_old + (values - values_old).clamp(-eps, eps)
    return torch.maximum(value_loss(values, targets), value_loss(near, targets))


def sarsa_target(
    rewards: Float[Tensor, "*batch"],
    discounts: Float[Tensor, "*batch"],
    next_q: Float[Tensor, "*batch actions"],
    next_actions: Int64[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """Target of SARSA: the action that the policy takes next.

        r + γ_t Q(s', a')

    Args:
        rewards: r.
        discounts: γ (1 − terminated).
        next_q: Q(s', ·).
        next_actions: a', int64 indices.

    Raises:
        ValueError: the shapes do not fit.

    Source: Sutton & Barto 2018, equation 6.7.

    >>> sarsa_target(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([[2.0, 4.0]]), torch.tensor([0]))
    tensor([2.])
    """
    _check_next(rewards, discounts, next_q=next_q)
    if next_actions.dtype != torch.int64:
        raise ValueError(f"next_actions has dtype {next_actions.dtype}; give int64 indices")
    if next_actions.shape != rewards.shape:
        raise ValueError(
            f"next_actions has shape {tuple(next_actions.shape)} and rewards {tuple(rewards.shape)}; they must be equal"
        )
    return rewards + discounts * _reached(next_q, discounts).gather(-1, next_actions.unsqueeze(-1)).squeeze(-1)


def q_learning_target(
    rewards: Float[Tensor, "*batch"], discounts: Float[Tensor, "*batch"], next_q: Float[Tensor, "*batch actions"]
) -> Float[Tensor, "*batch"]:
    """Target of Q-learning: the best action next, whatever the policy takes.

        r + γ_t max_a' Q(s', a')

    Args and raises: as for `sarsa_target`.

    Source: Watkins 1989; Sutton & Barto 2018, equation 6.8.

    >>> q_learning_target(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([[2.0, 4.0]]))
    tensor([3.])
    """
    _check_next(rewards, discounts, next_q=next_q)
    return rewards + discounts * _reached(next_q, discounts).amax(-1)


def double_q_target(
    rewards: Float[Tensor, "*batch"],
    discounts: Float[Tensor, "*batch"],
    next_q_online: Float[Tensor, "*batch actions"],
    next_q_target: Float[Tensor, "*batch actions"],
) -> Float[Tensor, "*batch"]:
    """Target of double Q-learning: one table chooses the action, the other values it.

        r + γ_t Q_target(s', argmax_a' Q_online(s', a'))

    Args:
        rewards, discounts: as for `sarsa_target`.
        next_q_online: Q(s', ·) of the network that chooses.
        next_q_target: Q(s', ·) of the network that values.

    Raises:
        ValueError: the shapes do not fit.

    Source: van Hasselt et al. 2016, equation 4.

    >>> double_q_target(torch.zeros(1), torch.ones(1), torch.tensor([[1.0, 2.0]]), torch.tensor([[9.0, 5.0]]))
    tensor([5.])
    """
    _check_next(rewards, discounts, next_q_online=next_q_online, next_q_target=next_q_target)
    chosen = next_q_online.argmax(-1, keepdim=True)
    return rewards + discounts * _reached(next_q_target, discounts).gather(-1, chosen).squeeze(-1)


def _check_next(rewards: Tensor, discounts: Tensor, **tables: Tensor) -> None:
    checks.real(rewards=rewards, discounts=discounts)
    checks.real(**tables)
    name, next_q = next(iter(tables.items()))
    if next_q.shape[:-1] != rewards.shape:
        raise ValueError(
            f"{name} has shape {tuple(next_q.shape)}; it must be {tuple(rewards.shape)} and an axis of actions"
        )


def _reached(next_q: Tensor, discounts: Tensor) -> Tensor:
    """Q(s', ·), and 0 where nothing follows: before the maximum, whose slope in a row of NaN is NaN."""
    return next_q.masked_fill((discounts == 0).unsqueeze(-1), 0.0)
