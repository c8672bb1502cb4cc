"""Adam over one flat vector: a small network's step costs its arithmetic, not a call for every parameter.

The trainable parameters of the module become views of one vector and their gradients views of another, so that the
norm, the clip and the step are a handful of operations in all, and the numbers are those of `torch.optim.Adam`. Its
state is still named by parameter. It is made after the module has its final dtype and device.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

BETA_1, BETA_2 = 0.9, 0.999


class FlatAdam:
    """Adam with bias correction.

        m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
        θ ← θ − α (m / (1 − β₁ᵏ)) / (√(v / (1 − β₂ᵏ)) + ε),   β₁ = 0.9, β₂ = 0.999

    Args:
        module: whose parameters are trained; all of one dtype and device.
        learning_rate: α ≥ 0, changed by `param_groups[0]["lr"]` as in torch.
        eps: ε > 0.

    Attributes:
        steps: how many it has made.

    Source: Kingma & Ba 2015, algorithm 1.
    """

    def __init__(self, module: nn.Module, learning_rate: float, eps: float) -> None:
        named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self._sizes = {name: parameter.numel() for name, parameter in named.items()}
        self._flat = torch.cat([parameter.detach().reshape(-1) for parameter in named.values()])
        self._flat.grad = torch.zeros_like(self._flat)
        views = zip(named.values(), self._split(self._flat), self._split(self._flat.grad), strict=True)
        for parameter, value, gradient in views:
            parameter.data = value.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)
        self._first, self._second = torch.zeros_like(self._flat), torch.zeros_like(self._flat)
        self.steps = 0
        self._eps = eps
        self.param_groups: list[dict[str, Any]] = [{"params": [self._flat], "lr": learning_rate}]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Sets the gradients to 0. They stay views of the one vector, whatever `set_to_none` says."""
        self._gradient.zero_()

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

    def state(self) -> dict[str, Any]:
        """Both moments by parameter name, the count of steps and the learning rate."""
        state: dict[str, Any] = {"steps": self.steps, "learning_rate": self.param_groups[0]["lr"]}
        for kind, moments in (("exp_avg", self._first), ("exp_avg_sq", self._second)):
            state |= {f"{name}/{kind}": part for name, part in zip(self._sizes, self._split(moments), strict=True)}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.steps = int(state["steps"])
        self.param_groups[0]["lr"] = float(state["learning_rate"])
        for kind, moments in (("exp_avg", self._first), ("exp_avg_sq", self._second)):
            moments.copy_(torch.cat([torch.as_tensor(state[f"{name}/{kind}"]).reshape(-1) for name in self._sizes]))

    @property
    def _gradient(self) -> Tensor:
        assert self._flat.grad is not None
        return self._flat.grad

    def _split(self, flat: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = flat.split(list(self._sizes.values()))
        return parts


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
