"""Optimisers over one flat vector: a small network's step costs its arithmetic, not a call for every parameter.

The trainable parameters of the module become views of one vector and their gradients views of another, so that the
norm, the clip and the step are a handful of operations in all. State is still named by parameter. An optimiser is made
after the module has its final dtype and device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class FlatOptimizer:
    """What all of them share; a subclass fills `_moments`, by the names that torch gives them, and has `step`.

    Args:
        module: whose parameters are trained, or those parameters by name; all of one dtype and device.
        learning_rate: ≥ 0, changed by `param_groups[0]["lr"]` as in torch.
        eps: ε > 0 of the divisor.

    Attributes:
        steps: how many it has made.
    """

    def __init__(self, module: nn.Module | Mapping[str, nn.Parameter], learning_rate: float, eps: float) -> None:
        every = dict(module.named_parameters()) if isinstance(module, nn.Module) else module
        named = {name: parameter for name, parameter in every.items() if parameter.requires_grad}
        self._sizes = {name: parameter.numel() for name, parameter in named.items()}
        self._flat = torch.cat([parameter.detach().reshape(-1) for parameter in named.values()])
        self._flat.grad = torch.zeros_like(self._flat)
        views = zip(named.values(), self._split(self._flat), self._split(self._flat.grad), strict=True)
        for parameter, value, gradient in views:
            parameter.data = value.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)
        self._moments: dict[str, Tensor] = {}
        self.steps = 0
        self._eps = eps
        self.param_groups: list[dict[str, Any]] = [{"params": [self._flat], "lr": learning_rate}]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Sets the gradients to 0. They stay views of the one vector, whatever `set_to_none` says."""
        self._gradient.zero_()

    def step(self) -> None:
        """One step down the gradients of the parameters."""
        raise TypeError("a FlatOptimizer is FlatAdam or FlatRMSprop")

    def state(self) -> dict[str, Any]:
        """The moments by parameter name, the count of steps and the learning rate."""
        state: dict[str, Any] = {"steps": self.steps, "learning_rate": self.param_groups[0]["lr"]}
        for kind, moments in self._moments.items():
            state |= {f"{name}/{kind}": part for name, part in zip(self._sizes, self._split(moments), strict=True)}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        self.steps = int(state["steps"])
        self.param_groups[0]["lr"] = float(state["learning_rate"])
        for kind, moments in self._moments.items():
            moments.copy_(torch.cat([torch.as_tensor(state[f"{name}/{kind}"]).reshape(-1) for name in self._sizes]))

    @property
    def _gradient(self) -> Tensor:
        assert self._flat.grad is not None
        return self._flat.grad

    def _split(self, flat: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = flat.split(list(self._sizes.values()))
        return parts
