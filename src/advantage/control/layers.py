"""Hidden layers: linear, perhaps normalised, then a nonlinearity; and batch normalisation that a ratio survives.

In training mode batch normalisation scores a row by its minibatch: the policy that learns would not be the one that
acted, and no first ratio would be 1. Here the moments are constants of the network. What acts, what scores a rollout
and what learns from it, a minibatch or a micro-batch at a time, all normalise by the same ones; the moments of the
rollout are taken when it has been scored, and come into force when the next one begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from advantage.control.settings import Environments
from advantage.trajectory import Batch, Rollout

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class BatchNorm(nn.Module):
    """Features to mean 0 and variance 1 by running moments over rollouts, then scaled and shifted.

        g (x − μ)/√(σ² + ε) + b,   μ ← 0.9 μ + 0.1 mean of the rollout,   σ² likewise;   the first rollout counts whole

    No gradient flows through μ and σ², as in torch's evaluation mode. Both pairs of moments, those in force and those
    of the next rollout, are buffers: a checkpoint has them.

    Args:
        size: of the features (N, size).

    Source: Ioffe & Szegedy 2015, algorithm 2, whose inference form is used throughout.
    """

    MOMENTUM, EPS = 0.1, 1e-5
    mean: Tensor
    variance: Tensor
    next_mean: Tensor
    next_variance: Tensor
    rollouts: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        for name in ("", "next_"):
            self.register_buffer(f"{name}mean", torch.zeros(size))
            self.register_buffer(f"{name}variance", torch.ones(size))
        self.register_buffer("rollouts", torch.zeros((), dtype=torch.int64))
        self.watching = False

    def forward(self, features: Tensor) -> Tensor:
        """Rows normalised by the moments in force, whatever other rows stand beside them."""
        if self.watching:
            self._learn(features.detach())
        return (features - self.mean) * (self.variance + self.EPS).rsqrt() * self.weight + self.bias

    def settle(self) -> None:
        """Brings the moments of the rollouts so far into force; once more changes nothing."""
        self.mean.copy_(self.next_mean)
        self.variance.copy_(self.next_variance)

    def _learn(self, features: Tensor) -> None:
        share = self.MOMENTUM if self.rollouts else 1.0
        self.next_mean.lerp_(features.mean(0), share)
        self.next_variance.lerp_(features.var(0, correction=0), share)
        self.rollouts += 1


def settle_moments(policy: Any) -> None:
    """Before a rollout: its batch normalisation, where a network has any, takes up the moments of the last one."""
    for layer in _batch_norms(policy):
        layer.settle()


def learn_moments(policy: Any, rollout: Rollout) -> None:
    """After a rollout was scored: its moments are taken, over its decisions alone, and wait for the next one."""
    if layers := _batch_norms(policy):
        with torch.no_grad(), _watching(layers):
            policy.evaluate(Batch.of(rollout).single_steps())


class Trunk(nn.Sequential):
    """Layers in a row, called without the bookkeeping of hooks, which costs a small layer as much as its arithmetic."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, …) through all layers; hooks on this module are called, those on its layers are not."""
        for layer in self._modules.values():
            features = layer.forward(features)
        return features


def trunk(inputs: int, settings: Environments, batch_norm: bool = False) -> Trunk:
    """The hidden layers of these settings over so many inputs."""
    layers: list[nn.Module] = []
    for size in settings.network:
        layers.append(nn.Linear(inputs, size))
        if settings.layer_norm:
            layers.append(nn.LayerNorm(size))
        if batch_norm:
            layers.append(BatchNorm(size))
        layers.append(ACTIVATIONS[settings.activation]())
        inputs = size
    return Trunk(*layers)


_FOUND: WeakKeyDictionary[nn.Module, list[BatchNorm]] = WeakKeyDictionary()


def _batch_norms(policy: Any) -> list[BatchNorm]:
    """Those of a network, looked for once: walking through its modules costs A2C 4 % of its time."""
    if not isinstance(policy, nn.Module):
        return []
    if policy not in _FOUND:
        _FOUND[policy] = [layer for layer in policy.modules() if isinstance(layer, BatchNorm)]
    return _FOUND[policy]


@contextlib.contextmanager
def _watching(layers: list[BatchNorm]) -> Iterator[None]:
    for layer in layers:
        layer.watching = True
    try:
        yield
    finally:
        for layer in layers:
            layer.watching = False
