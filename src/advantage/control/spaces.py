"""What a space means for a network: the encoder of an observation and the head of an action. One place chooses each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import one_hot

from advantage.control.distributions import Bernoulli, Categorical, Distribution, Gaussian, Joint, MultiCategorical
from advantage.errors import UserError
from advantage.trajectory import Tree


class Encoder(nn.Module):
    """Observations (N, …) as flat features (N, size)."""

    size: int

    def forward(self, observation: Tree) -> Tensor:
        """Features of a batch of observations."""
        raise TypeError("an encoder is made by encoder_for")


def encoder_for(space: spaces.Space[Any], dtype: torch.dtype) -> Encoder:
    """The encoder of an observation space; images would be one case more.

    Raises:
        UserError: a space that cannot be flattened to numbers.
    """
    if isinstance(space, spaces.Box):
        return _Flat(math.prod(space.shape), dtype)
    if isinstance(space, spaces.Discrete):
        return _OneHot((int(space.n),), (int(space.start),), dtype)
    if isinstance(space, spaces.MultiDiscrete):
        starts = tuple(int(start) for start in space.start.reshape(-1))
        return _OneHot(tuple(int(n) for n in space.nvec.reshape(-1)), starts, dtype)
    if isinstance(space, spaces.MultiBinary):
        return _Flat(math.prod(space.shape), dtype)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return _Parts(space, dtype)
    raise UserError(
        f"observation space {space} has no encoder; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"
    )


class _Flat(Encoder):
    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.size, self.dtype = size, dtype

    def forward(self, observation: Tensor) -> Tensor:
        if observation.dim() == 2 and observation.dtype == self.dtype:
            return observation
        return observation.reshape(len(observation), self.size).to(self.dtype)


class _OneHot(Encoder):
    def __init__(self, counts: tuple[int, ...], starts: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.size, self.counts, self.starts, self.dtype = sum(counts), counts, starts, dtype

    def forward(self, observation: Tensor) -> Tensor:
        columns = observation.reshape(observation.shape[0], len(self.counts)).unbind(-1)
        parts = [_hot(*each) for each in zip(columns, self.starts, self.counts, strict=True)]
        return torch.cat(parts, -1).to(self.dtype)


def _hot(column: Tensor, start: int, count: int) -> Tensor:
    try:
        return one_hot(column.long() - start, count)
    except RuntimeError:
        if (stray := column[(column < start) | (column >= start + count)]).numel() == 0:
            raise
        last = start + count - 1
        raise UserError(f"a discrete observation is {stray[0]}; its space has {start} … {last}") from None


class _Parts(Encoder):
    def __init__(self, space: spaces.Dict | spaces.Tuple[Any], dtype: torch.dtype) -> None:
        super().__init__()
        items = _items(space)
        self.keys = [key for key, _ in items]
        self.parts = nn.ModuleList([encoder_for(part, dtype) for _, part in items])
        self.size = sum(part.size for part in self.parts)  # type: ignore[misc]

    def forward(self, observation: Tree) -> Tensor:
        return torch.cat([part(observation[key]) for key, part in zip(self.keys, self.parts, strict=True)], -1)


class Head(nn.Module):
    """Features (…, size) as a distribution over actions, and the noise that its samples are made of."""

    noise_size: int

    def forward(self, features: Tensor, mask: Tensor | None) -> Distribution:
        """The distribution of each row; `mask` (…, n) for discrete actions."""
        raise TypeError("a head is made by head_for")

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Noise of the distribution's own kind, (*shape, noise_size), float64."""
        raise TypeError("a head is made by head_for")


def head_for(space: spaces.Space[Any], features: int, log_std_init: float, state_dependent_std: bool) -> Head:
    """The head of an action space.

    Raises:
        UserError: a space whose actions have no distribution here.
    """
    if isinstance(space, spaces.Discrete):
        return _Discrete(features, (int(space.n),), single=True)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return _Discrete(features, tuple(int(n) for n in space.nvec), single=False)
    if isinstance(space, spaces.MultiBinary):
        return _Bits(features, space.shape)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return _Normal(features, space.shape, log_std_init, state_dependent_std)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return _Several(space, features, log_std_init, state_dependent_std)
    raise UserError(
        f"action space {space} has no head; use Discrete, MultiDiscrete, MultiBinary, a real Box, Dict or Tuple"
    )


class _Discrete(Head):
    def __init__(self, features: int, sizes: tuple[int, ...], single: bool) -> None:
        super().__init__()
        self.sizes, self.single, self.noise_size = sizes, single, sum(sizes)
        self.logits = nn.Linear(features, self.noise_size)

    def forward(self, features: Tensor, mask: Tensor | None) -> Categorical | MultiCategorical:
        logits = self.logits(features)
        if self.single:
            return Categorical.of_logits(logits, mask)
        masks = [None] * len(self.sizes) if mask is None else mask.split(self.sizes, -1)
        blocks = zip(logits.split(self.sizes, -1), masks, strict=True)
        return MultiCategorical(tuple(Categorical.of_logits(block, its) for block, its in blocks), self.sizes)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return rng.gumbel(size=(*shape, self.noise_size))


class _Bits(Head):
    def __init__(self, features: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.noise_size = shape, math.prod(shape)
        self.logits = nn.Linear(features, self.noise_size)

    def forward(self, features: Tensor, mask: Tensor | None) -> Bernoulli:
        return Bernoulli(self.logits(features).unflatten(-1, self.shape), len(self.shape))

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return rng.logistic(size=(*shape, self.noise_size))


class _Normal(Head):
    def __init__(self, features: int, shape: tuple[int, ...], log_std_init: float, state_dependent_std: bool) -> None:
        super().__init__()
        self.shape, self.noise_size = shape, math.prod(shape)
        self.mean = nn.Linear(features, self.noise_size)
        self.spread = nn.Linear(features, self.noise_size) if state_dependent_std else None
        self.log_std = nn.Parameter(torch.full((self.noise_size,), log_std_init))

    def forward(self, features: Tensor, mask: Tensor | None) -> Gaussian:
        log_std = self.log_std if self.spread is None else self.log_std + self.spread(features)
        return Gaussian(self._shaped(self.mean(features)), self._shaped(log_std), len(self.shape))

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat if len(self.shape) == 1 else flat.reshape((*flat.shape[:-1], *self.shape))

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return rng.standard_normal(size=(*shape, self.noise_size))


class _Several(Head):
    def __init__(self, space: spaces.Dict | spaces.Tuple[Any], features: int, log_std_init: float, wide: bool) -> None:
        super().__init__()
        items = _items(space)
        self.kind = dict if isinstance(space, spaces.Dict) else tuple
        self.keys = [key for key, _ in items]
        self.parts = nn.ModuleList([head_for(part, features, log_std_init, wide) for _, part in items])
        self.sizes = tuple(int(part.noise_size) for part in self.parts)  # type: ignore[arg-type]
        self.noise_size = sum(self.sizes)

    def forward(self, features: Tensor, mask: Tensor | None) -> Joint:
        parts = {key: head(features, None) for key, head in zip(self.keys, self.parts, strict=True)}
        return Joint(parts, self.sizes, self.kind)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.concatenate([head.noise(rng, shape) for head in self.parts], axis=-1)  # type: ignore[operator]


def _items(space: spaces.Dict | spaces.Tuple[Any]) -> list[tuple[Any, spaces.Space[Any]]]:
    return list(space.spaces.items()) if isinstance(space, spaces.Dict) else list(enumerate(space.spaces))
