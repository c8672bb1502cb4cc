"""Does the critic foresee what comes? Its values against the returns that followed, over the rollout a run keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advantage.runs.reader import RunReader
from advantage.views.curves import Array

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Values and returns of the steps of one rollout, in the reward's unit.

    Attributes:
        update, steps: when it was collected (updates and steps of the run).
        values: V(s_t) of the collecting critic, (n,).
        returns: G_t, discounted rewards to the end of the episode, or to where the rollout cuts it and V goes on, (n,).
        borrowed: the share γᵏ of V in the return where it was cut, mean over the steps, in [0, 1].
    """

    update: int
    steps: int
    values: Array
    returns: Array
    borrowed: float

    @property
    def explained_variance(self) -> float | None:
        """1 − Var(G − V) / Var(G): 1 is perfect, 0 no better than a constant. None where the returns are all equal."""
        spread = float(self.returns.var())
        return 1.0 - float((self.returns - self.values).var()) / spread if spread > 0 else None

    def bins(self) -> tuple[Array, Array, Array, Array]:
        """Equal numbers of steps, by value: mean value, mean return, the ends of its middle half; (bins,) each."""
        parts = tenths(self.values)
        values = np.array([self.values[part].mean() for part in parts])
        returns = np.array([self.returns[part].mean() for part in parts])
        low, high = np.array([np.quantile(self.returns[part], [0.25, 0.75]) for part in parts]).T
        return values, returns, low, high


def tenths(values: Array) -> list[NDArray[np.intp]]:
    """The places of ten parts, equal in number, of rising values; fewer where there are fewer values.

    >>> [part.tolist() for part in tenths(np.array([3.0, 1.0, 2.0]))]
    [[1], [2], [0]]
    """
    return [part for part in np.array_split(np.argsort(values, kind="stable"), BINS) if len(part)]


def calibration(reader: RunReader) -> Calibration | None:
    """The critic of a run over its last kept rollout; None where the run has no critic, or no finite step.

        G_t = r_t + γ_t G_{t+1},   at a cut   G_t = r_t + γ_t V(s_{t+1})

    The λ-returns that the critic is trained on contain its own values at every step and would flatter it.

    Raises:
        UserError: no rollout is kept yet.
    """
    fields, about = reader.rollout()
    if any(fields.get(name) is None for name in ("rewards", "values", "next_values")):
        return None
    returns, borrowed = _returns(fields, float(reader.config["settings"]["gamma"]))
    real = fields["mask"].numpy()
    values, returns, borrowed = fields["values"].double().numpy()[real], returns[real], borrowed[real]
    finite = np.isfinite(values) & np.isfinite(returns)
    if not finite.any():
        return None
    return Calibration(about["update"], about["steps"], values[finite], returns[finite], float(borrowed[finite].mean()))


def _returns(fields: dict[str, Any], gamma: float) -> tuple[Array, Array]:
    """Returns, and how much of each is the critic's own estimate at the cut, (streams, time) both."""
    import torch

    from advantage.core import discounted_return, discounts
    from advantage.trajectory import Rollout

    rollout = Rollout(**fields)
    rewards, next_values = fields["rewards"].double(), fields["next_values"].double()
    factors = discounts(rollout.terminated, gamma, rewards.dtype)
    returns = discounted_return(rewards, factors, rollout.cut, next_values)
    borrowed = discounted_return(torch.zeros_like(rewards), factors, rollout.cut, torch.ones_like(rewards))
    return returns.numpy(), borrowed.numpy()
