"""What is plotted of learning action values, computed once an update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advantage.trajectory import Rollout


class Step(NamedTuple):
    """One optimiser step: Q(s, a) before it and the targets, (rows,) each, the loss, the gradient's norm."""

    q: Tensor
    y: Tensor
    loss: Tensor
    gradient_norm: float


def q_statistics(rollout: Rollout, steps: Sequence[Step], largest_reward: float, now: Any) -> dict[str, float]:
    """Of the steps that were collected and of the optimiser steps that were taken, none of the latter before learning.

    Args:
        rollout: of this update, with the network's values.
        steps: in their order.
        largest_reward: |r| of the largest reward so far: no return can be larger than it over 1 − γ.
        now: settings of this moment.
    """
    assert rollout.rewards is not None and rollout.values is not None
    paid, values = rollout.rewards[rollout.mask], rollout.values[rollout.mask]
    found = {
        "rollout/reward_mean": float(paid.mean()),
        "rollout/reward_std": float(paid.std(correction=0)),
        "train/learning_rate": now.learning_rate,
        "train/value_mean": float(values.mean()),
        "train/minibatches": float(len(steps)),
    }
    if now.gamma < 1:
        found["train/value_size"] = float(values.abs().max())
        found["train/value_bound"] = largest_reward / (1.0 - now.gamma)
    if not steps:
        return found
    norms = [step.gradient_norm for step in steps]
    q, y = (torch.stack([getattr(step, name) for step in steps]) for name in ("q", "y"))
    return found | {
        "train/loss": float(torch.stack([step.loss for step in steps]).mean()),
        "train/gradient_norm": sum(norms) / len(norms),
        "train/gradient_norm_max": max(norms),
        "train/td_error": float((y - q).abs().mean()),
        "train/return_mean": float(y.mean()),
    }
