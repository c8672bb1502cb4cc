"""RMSprop over one flat vector; its numbers are those of `torch.optim.RMSprop`, or of TensorFlow's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from advantage.adam import FlatAdam
from advantage.flat import FlatOptimizer


class FlatRMSprop(FlatOptimizer):
    """RMSprop without momentum.

        v ← α v + (1 − α) g²,   θ ← θ − η g / (√v + ε)

    Args:
        module, learning_rate, eps: as for `FlatOptimizer`.
        alpha: α in [0, 1), decay of the mean square.
        inside: TensorFlow's form: ε under the root, and a mean square that begins at 1 instead of 0, so that the first
            steps are smaller.

    Source: Tieleman & Hinton 2012, lecture 6e; Mnih et al. 2016, equation 8, for ε under the root.
    """

    def __init__(
        self, module: nn.Module, learning_rate: float, eps: float, alpha: float = 0.99, inside: bool = False
    ) -> None:
        super().__init__(module, learning_rate, eps)
        self._alpha, self._inside = alpha, inside
        self._square = torch.full_like(self._flat, float(inside))
        self._moments = {"square_avg": self._square}

    @torch.no_grad()
    def step(self) -> None:
        """One step down the gradients of the parameters."""
        self.steps += 1
        self._square.mul_(self._alpha).addcmul_(self._gradient, self._gradient, value=1.0 - self._alpha)
        root = (self._square + self._eps).sqrt_() if self._inside else self._square.sqrt().add_(self._eps)
        self._flat.addcdiv_(self._gradient, root, value=-self.param_groups[0]["lr"])


Maker = Callable[[nn.Module, float, float, float], FlatOptimizer]
OPTIMIZERS: dict[str, Maker] = {
    "rmsprop": FlatRMSprop,
    "rmsprop_tf": partial(FlatRMSprop, inside=True),
    "adam": lambda module, learning_rate, eps, _: FlatAdam(module, learning_rate, eps),
}
"""By name, of (module, learning rate, ε, α)."""
