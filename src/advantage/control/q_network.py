"""The network of action values: an encoder, a trunk, and a number for every action."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from advantage.control.layers import trunk
from advantage.control.settings import ValueBased
from advantage.control.spaces import encoder_for
from advantage.errors import UnfitActions
from advantage.trajectory import Batch, Evaluation, Tree, tree_map


class QNetwork(nn.Module):
    """Q(s, ·) over the actions of a Discrete space, and the ε-greedy policy that acts by it.

    Contexts are dictionaries with "observation" and, where the environment says which actions are legal, "action_mask":
    the value of an illegal one is −∞, so that no maximum and no greedy action is ever one.

        Q(s, a) = head(trunk(s))_a;   dueling: V(s) + A(s, a) − mean_a' A(s, a')

    Attributes:
        epsilon: the share of random actions where nothing else is said: that of a policy which has learnt.

    Source: Mnih et al. 2015; Wang et al. 2016, equation 9.
    """

    def __init__(self, observation: gym.Space[Any], action: gym.spaces.Discrete, settings: ValueBased) -> None:
        super().__init__()
        self.encoder = encoder_for(observation, torch.get_default_dtype())
        self.trunk = trunk(self.encoder.size, settings)
        features = settings.network[-1] if settings.network else self.encoder.size
        self.actions, self.epsilon = int(action.n), settings.epsilon_end
        self.head = nn.Linear(features, self.actions)
        self.value_head = nn.Linear(features, 1) if settings.dueling else None

    def forward(self, context: Tree) -> Tensor:
        """Q(s, ·) of contexts (N, …), as (N, actions)."""
        features = self.trunk(self.encoder(context["observation"]))
        q: Tensor = self.head(features)
        if self.value_head is not None:
            q = self.value_head(features) + q - q.mean(-1, keepdim=True)
        mask = context.get("action_mask")
        return q if mask is None else q.masked_fill(~mask, -torch.inf)

    def noise(
        self, rng: np.random.Generator, shape: tuple[int, ...], epsilon: np.ndarray[Any, Any] | float | None = None
    ) -> Tensor:
        """Noise for `act`, (*shape, 2): a coin, below 0 where the action is to be random, and which one that is.

        Args:
            rng: what it is drawn from; every environment has a coin of its own.
            shape: of the actions.
            epsilon: the share of random actions, of a shape that broadcasts to `shape`; None for the network's own.
        """
        drawn = rng.random((*shape, 2))  # in float64: rounded to float32 a number below 1 may be 1
        drawn[..., 0] -= self.epsilon if epsilon is None else epsilon
        return torch.from_numpy(drawn)

    def act(self, context: Tree, noise: Tensor | None) -> Tensor:
        """Actions (E,): argmax_a Q(s, a), or a random legal one where the noise (E, 2) says so."""
        if noise is None:
            return self._greedy(context)
        explores = noise[:, 0] < 0
        random = self._random(context.get("action_mask"), noise[:, 1])
        return random if explores.all() else torch.where(explores, random, self._greedy(context))

    def value(self, context: Tree) -> Tensor:
        """V(s) = max_a Q(s, a) of contexts (N, …), as (N,)."""
        values: Tensor = self(context).amax(-1)
        return values

    def evaluate(self, batch: Batch) -> Evaluation:
        """max_a Q(s, a) of the batch's contexts, as values (rows, time)."""
        flat = tree_map(lambda leaf: leaf.flatten(0, 1), batch.context)
        return Evaluation(values=self.value(flat).view(batch.actions.shape[:2]))

    def _greedy(self, context: Tree) -> Tensor:
        chosen: Tensor = self(context).argmax(-1)
        return chosen

    def _random(self, mask: Tensor | None, pick: Tensor) -> Tensor:
        """The action at this share (E,) in [0, 1) of the legal ones."""
        if mask is None:
            return (pick * self.actions).long()
        place = (pick * mask.sum(-1)).long()
        return (mask.cumsum(-1) <= place[:, None]).sum(-1)


@torch.no_grad()
def follow(target: QNetwork, network: QNetwork, tau: float, times: int) -> None:
    """Moves the target network toward the network, as many times as were due while this one stood still.

        θ̄ ← (1 − τ) θ̄ + τ θ,   k times over: the rest between them shrinks by (1 − τ)ᵏ

    At τ = 1 it is copied, bit for bit: a target that had become NaN is cured.
    """
    if times == 0:
        return
    rest = (1.0 - tau) ** times
    for own, other in zip(target.parameters(), network.parameters(), strict=True):
        if rest == 0.0:
            own.copy_(other)
        else:
            own.lerp_(other, 1.0 - rest)


def make_q_network(observation: gym.Space[Any], action: gym.Space[Any], settings: ValueBased, seed: int) -> QNetwork:
    """The network of these settings, its weights drawn under a seed of their own.

    Raises:
        UnfitActions: actions of another space, over which no maximum can be listed.
    """
    if not isinstance(action, gym.spaces.Discrete):
        raise UnfitActions(f"needs Discrete actions, those of this environment are {action}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the devices too, for good
        return QNetwork(observation, action, settings)
