"""Adam over one flat vector; its numbers are those of `torch.optim.Adam`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from advantage.flat import FlatOptimizer

BETA_1, BETA_2 = 0.9, 0.999


class FlatAdam(FlatOptimizer):
    """Adam with bias correction.

        m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
        θ ← θ − α (m / (1 − β₁ᵏ)) / (√(v / (1 − β₂ᵏ)) + ε),   β₁ = 0.9, β₂ = 0.999

    Args:
        module, learning_rate, eps: as for `FlatOptimizer`.

    Source: Kingma & Ba 2015, algorithm 1.
    """

    def __init__(self, module: nn.Module | Mapping[str, nn.Parameter], learning_rate: float, eps: float) -> None:
        super().__init__(module, learning_rate, eps)
        self._first, self._second = torch.zeros_like(self._flat), torch.zeros_like(self._flat)
        self._moments = {"exp_avg": self._first, "exp_avg_sq": self._second}

    @torch.no_grad()
    def step(self) -> None:
        """One step down the gradients of the parameters."""
        self.steps += 1
        self._first.lerp_(self._gradient, 1.0 - BETA_1)
        self._second.mul_(BETA_2).addcmul_(self._gradient, self._gradient, value=1.0 - BETA_2)
        # √(v/(1 − β₂ᵏ)) + ε is (√v + ε √(1 − β₂ᵏ)) / √(1 − β₂ᵏ): the correction moves into two numbers.
        correction = math.sqrt(1.0 - BETA_2**self.steps)
        divisor = self._second.sqrt().add_(self._eps * correction)
        size = self.param_groups[0]["lr"] * correction / (1.0 - BETA_1**self.steps)
        self._flat.addcdiv_(self._first, divisor, value=-size)


class FusedAdam(FlatAdam):
    """The same by torch's fused kernel, in one pass over memory; its roundings are other ones.

    For what takes many small steps. It is the kernel of `torch.optim.Adam(fused=True)`, called without what surrounds
    it there, which costs a multiple of it.
    """

    @torch.no_grad()
    def step(self) -> None:
        """One step down the gradients of the parameters."""
        self.steps += 1
        torch._fused_adam_(
            [self._flat], [self._gradient], [self._first], [self._second], [], [torch.tensor(float(self.steps))],
            lr=self.param_groups[0]["lr"], beta1=BETA_1, beta2=BETA_2, weight_decay=0.0, eps=self._eps,
            amsgrad=False, maximize=False,
        )  # fmt: skip
