"""Distributions over actions, as plain tensors: sampled by noise that was drawn outside, scored, compared.

They differ from `torch.distributions` in three ways that collection and trust regions want: the randomness is an
argument, log-probabilities and entropies are summed over the parts of an action, and construction checks nothing.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advantage.trajectory import Tree

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class Distribution(Protocol):
    """Over actions (…, action shape); every number that comes back is summed to (…)."""

    def sample(self, noise: Tensor) -> Tree:
        """Actions from noise of the head's own kind, (…, n)."""
        ...

    def mode(self) -> Tree:
        """The most probable actions."""
        ...

    def logp(self, actions: Tree) -> Tensor:
        """Log-probabilities (or log-densities) in nats."""
        ...

    def entropy(self) -> Tensor:
        """Entropies in nats."""
        ...

    def kl(self, other: Any) -> Tensor:
        """KL(self‖other) in nats, exact."""
        ...


@dataclass(frozen=True)
class Categorical:
    """One of n, from log-probabilities (…, n). A masked action has a log-probability so low that its share is 0."""

    log_probs: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor, mask: Tensor | None) -> Categorical:
        """Logits (…, n); actions where the mask is false can be neither sampled nor scored above 0."""
        if mask is not None:  # not −∞ nor near it: in the entropy's gradient its share, 0, meets multiples of it
            logits = logits.masked_fill(~mask, -math.sqrt(torch.finfo(logits.dtype).max))
        return cls(torch.log_softmax(logits, -1))

    def sample(self, noise: Tensor) -> Tensor:
        """Gumbel noise (…, n): the argmax of log-probability plus noise is a sample."""
        return (self.log_probs + noise).argmax(-1)

    def mode(self) -> Tensor:
        """The most probable action, the first of equals."""
        return self.log_probs.argmax(-1)

    def logp(self, actions: Tensor) -> Tensor:
        """Of int64 actions (…)."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """−Σ p log p."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        """Σ p (log p − log q)."""
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)


@dataclass(frozen=True)
class Gaussian:
    """Independent normals: mean (…, *shape), log of the standard deviation in that shape."""

    mean: Tensor
    log_std: Tensor
    event_dims: int

    def sample(self, noise: Tensor) -> Tensor:
        """Standard normal noise (…, n)."""
        return self.mean + self.log_std.exp() * noise.view_as(self.mean)

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def logp(self, actions: Tensor) -> Tensor:
        """Log-density of raw actions, summed over the action's entries."""
        scaled = (actions - self.mean) * (-self.log_std).exp()
        return _sum(self.event_dims, -0.5 * scaled.square() - self.log_std - _HALF_LOG_TAU)

    def entropy(self) -> Tensor:
        """Σ (½ + ½ log 2π + log σ)."""
        return _sum(self.event_dims, (self.log_std + (0.5 + _HALF_LOG_TAU)).expand_as(self.mean))

    def kl(self, other: Gaussian) -> Tensor:
        """Σ (log σ_q/σ_p + (σ_p² + (μ_p − μ_q)²) / 2σ_q² − ½)."""
        variance = (2.0 * self.log_std).exp() + (self.mean - other.mean).square()
        return _sum(self.event_dims, other.log_std - self.log_std + 0.5 * variance * (-2.0 * other.log_std).exp() - 0.5)


@dataclass(frozen=True)
class CorrelatedGaussian:
    """One normal over all entries of an action, with covariance L Lᵀ,   L = diag(σ) (I + U).

    Mean and log σ are flat, (N, n) and (n,) or (N, n); U (n, n) lies strictly below the diagonal and has no unit: at
    U = 0 this is `Gaussian`, number for number. `shape` is the action's. Log-densities cost a triangular solve.
    """

    mean: Tensor
    log_std: Tensor
    lower: Tensor
    shape: tuple[int, ...]

    def sample(self, noise: Tensor) -> Tensor:
        """Standard normal noise (N, n): μ + L ε."""
        return self._shaped(self.mean + self.log_std.exp() * (noise + noise @ self.lower.mT))

    def mode(self) -> Tensor:
        """The mean."""
        return self._shaped(self.mean)

    def logp(self, actions: Tensor) -> Tensor:
        """−½ ‖L⁻¹(a − μ)‖² − Σ log σ − ½ n log 2π."""
        white = self._whitened(actions.reshape(self.mean.shape) - self.mean)
        return (-0.5 * white.square() - self.log_std - _HALF_LOG_TAU).sum(-1)

    def entropy(self) -> Tensor:
        """Σ (½ + ½ log 2π + log σ): U turns and shears, and changes no volume."""
        return (self.log_std + (0.5 + _HALF_LOG_TAU)).expand_as(self.mean).sum(-1)

    def kl(self, other: CorrelatedGaussian) -> Tensor:
        """½ (‖L_q⁻¹ L_p‖² + ‖L_q⁻¹(μ_p − μ_q)‖² − n) + Σ log σ_q/σ_p, the norm being Frobenius'."""
        n = self.mean.shape[-1]
        own = torch.eye(n, dtype=self.lower.dtype, device=self.lower.device) + self.lower
        scale = (self.log_std - other.log_std).exp().expand_as(self.mean)  # D_q⁻¹ D_p
        seen = other._unsheared((scale.unsqueeze(-1) * own).mT.reshape(-1, n))  # rows are the columns of L_q⁻¹ L_p
        spread = seen.square().sum(-1).view(-1, n).sum(-1).view(self.mean.shape[:-1])
        apart = other._whitened(self.mean - other.mean).square().sum(-1)
        return 0.5 * (spread + apart - n) + (other.log_std - self.log_std).expand_as(self.mean).sum(-1)

    def _whitened(self, rows: Tensor) -> Tensor:
        """L⁻¹ of each row (N, n)."""
        return self._unsheared(rows * (-self.log_std).exp())

    def _unsheared(self, rows: Tensor) -> Tensor:
        """(I + U)⁻¹ of each row (N, n)."""
        solved: Tensor = torch.linalg.solve_triangular(self.lower, rows.mT, upper=False, unitriangular=True)
        return solved.mT

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.reshape((*flat.shape[:-1], *self.shape))


@dataclass(frozen=True)
class Bernoulli:
    """Independent bits from logits (…, *shape)."""

    logits: Tensor
    event_dims: int

    def sample(self, noise: Tensor) -> Tensor:
        """Logistic noise (…, n): a bit is 1 where logit plus noise is positive."""
        return (self.logits + noise.view_as(self.logits) > 0).to(torch.int8)

    def mode(self) -> Tensor:
        """The more probable value of each bit."""
        return (self.logits > 0).to(torch.int8)

    def logp(self, actions: Tensor) -> Tensor:
        """Of bits 0 and 1, summed over the bits."""
        return _sum(self.event_dims, logsigmoid(torch.where(actions > 0, self.logits, -self.logits)))

    def entropy(self) -> Tensor:
        """Σ −p log p − (1 − p) log(1 − p)."""
        ones = torch.sigmoid(self.logits) * logsigmoid(self.logits)
        zeros = torch.sigmoid(-self.logits) * logsigmoid(-self.logits)
        return _sum(self.event_dims, -ones - zeros)

    def kl(self, other: Bernoulli) -> Tensor:
        """Σ over both values of p (log p − log q)."""
        ones = torch.sigmoid(self.logits) * (logsigmoid(self.logits) - logsigmoid(other.logits))
        zeros = torch.sigmoid(-self.logits) * (logsigmoid(-self.logits) - logsigmoid(-other.logits))
        return _sum(self.event_dims, ones + zeros)


@dataclass(frozen=True)
class Joint:
    """Independent parts: a tuple or dict of distributions for an action that is one of actions."""

    parts: dict[Any, Distribution]
    sizes: tuple[int, ...]
    kind: type

    def sample(self, noise: Tensor) -> Tree:
        """The parts' noise side by side."""
        pieces = noise.split(self.sizes, -1)
        return self._as_tree([part.sample(piece) for part, piece in zip(self.parts.values(), pieces, strict=True)])

    def mode(self) -> Tree:
        """Each part's own."""
        return self._as_tree([part.mode() for part in self.parts.values()])

    def logp(self, actions: Tree) -> Tensor:
        """Σ over parts: they are independent given the state."""
        return torch.stack([part.logp(actions[key]) for key, part in self.parts.items()]).sum(0)

    def entropy(self) -> Tensor:
        """Σ over parts."""
        return torch.stack([part.entropy() for part in self.parts.values()]).sum(0)

    def kl(self, other: Joint) -> Tensor:
        """Σ over parts."""
        return torch.stack([part.kl(other.parts[key]) for key, part in self.parts.items()]).sum(0)

    def _as_tree(self, leaves: list[Tree]) -> Tree:
        return dict(zip(self.parts, leaves, strict=True)) if self.kind is dict else tuple(leaves)


@dataclass(frozen=True)
class MultiCategorical:
    """Several independent choices, one logits block each; actions int64 (…, number of choices)."""

    choices: tuple[Categorical, ...]
    sizes: tuple[int, ...]

    def sample(self, noise: Tensor) -> Tensor:
        """Gumbel noise, the choices' blocks side by side."""
        blocks = noise.split(self.sizes, -1)
        return torch.stack([one.sample(block) for one, block in zip(self.choices, blocks, strict=True)], -1)

    def mode(self) -> Tensor:
        """Each choice's own."""
        return torch.stack([one.mode() for one in self.choices], -1)

    def logp(self, actions: Tensor) -> Tensor:
        """Σ over choices."""
        columns = actions.unbind(-1)
        return torch.stack([one.logp(column) for one, column in zip(self.choices, columns, strict=True)]).sum(0)

    def entropy(self) -> Tensor:
        """Σ over choices."""
        return torch.stack([one.entropy() for one in self.choices]).sum(0)

    def kl(self, other: MultiCategorical) -> Tensor:
        """Σ over choices."""
        pairs = zip(self.choices, other.choices, strict=True)
        return torch.stack([one.kl(its) for one, its in pairs]).sum(0)


def constant(distribution: Any) -> Any:
    """A copy that nothing moves: a Gaussian's log-std may be the very parameter that the next step changes."""
    if isinstance(distribution, Tensor):
        return distribution.detach().clone()
    if isinstance(distribution, tuple):
        return tuple(map(constant, distribution))
    if isinstance(distribution, dict):
        return {key: constant(part) for key, part in distribution.items()}
    if dataclasses.is_dataclass(distribution) and not isinstance(distribution, type):
        fields = {field.name: constant(getattr(distribution, field.name)) for field in dataclasses.fields(distribution)}
        return dataclasses.replace(distribution, **fields)
    return distribution


def _sum(event_dims: int, x: Tensor) -> Tensor:
    """Over the entries of an action, the last axes; an action that is one number has none."""
    return x.flatten(-event_dims).sum(-1) if event_dims else x
