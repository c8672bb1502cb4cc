"""The actor-critic network: an encoder, a trunk for each role or one for both, a head over actions, a value."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from advantage.control.distributions import Distribution
from advantage.control.settings import Control, Environments
from advantage.control.spaces import encoder_for, head_for
from advantage.trajectory import Batch, Evaluation, Tree, tree_leaves, tree_map

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class ActorCritic(nn.Module):
    """A policy π(a|s) and a critic V(s) over any spaces of Gymnasium that numbers can describe.

    Contexts are dictionaries with "observation" and, where the environment says which actions are legal, "action_mask".
    """

    def __init__(self, observation: gym.Space[Any], action: gym.Space[Any], settings: Control) -> None:
        super().__init__()
        self.encoder = encoder_for(observation, torch.get_default_dtype())
        self.actor = trunk(self.encoder.size, settings)
        self.critic = self.actor if settings.share_trunk else trunk(self.encoder.size, settings)
        features = settings.network[-1] if settings.network else self.encoder.size
        self.head = head_for(action, features, settings.log_std_init, settings.state_dependent_std)
        self.value_head = nn.Linear(features, 1)
        if settings.orthogonal_init:
            self._orthogonal()

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Noise for `act`, (*shape, n), of the kind that the action's distribution is sampled by."""
        return torch.from_numpy(self.head.noise(rng, shape)).to(self.value_head.weight.dtype)

    def act(self, context: Tree, noise: Tensor | None) -> Tree:
        """Actions (E, …); the most probable ones where the noise is None."""
        distribution = self._distribution(context, self.encoder(context["observation"]))
        return distribution.mode() if noise is None else distribution.sample(noise)

    def value(self, context: Tree) -> Tensor:
        """V(s) of contexts (E, …), as (E,)."""
        values: Tensor = self.value_head(self.critic(self.encoder(context["observation"]))).squeeze(-1)
        return values

    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-probabilities, entropies and values of the batch's decisions, (rows, time)."""
        shape = next(tree_leaves(batch.actions)).shape[:2]
        context = tree_map(lambda leaf: leaf.flatten(0, 1), batch.context)
        inputs = self.encoder(context["observation"])
        features = self.actor(inputs)
        distribution = self.head(features, context.get("action_mask"))
        values = self.value_head(features if self.critic is self.actor else self.critic(inputs))
        return Evaluation(
            logp=distribution.logp(tree_map(lambda leaf: leaf.flatten(0, 1), batch.actions)).view(shape),
            entropy=distribution.entropy().view(shape),
            values=values.view(shape),
            distribution=distribution,
        )

    def _distribution(self, context: Tree, inputs: Tensor) -> Distribution:
        distribution: Distribution = self.head(self.actor(inputs), context.get("action_mask"))
        return distribution

    def _orthogonal(self) -> None:
        """√2 in hidden layers, 0.01 in the action head, 1 in the value head, biases 0 (Huang et al. 2022, detail 2)."""
        gains = {self.actor: 2**0.5, self.critic: 2**0.5, self.head: 0.01, self.value_head: 1.0}
        for part, gain in gains.items():
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.orthogonal_(layer.weight, gain)
                    nn.init.zeros_(layer.bias)


def make_policy(observation: gym.Space[Any], action: gym.Space[Any], settings: Control, seed: int) -> ActorCritic:
    """The network of these settings, its weights drawn under a seed of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the devices too, for good
        return ActorCritic(observation, action, settings)


def trunk(inputs: int, settings: Environments) -> nn.Sequential:
    """Hidden layers over that many inputs."""
    layers: list[nn.Module] = []
    for size in settings.network:
        layers.append(nn.Linear(inputs, size))
        if settings.layer_norm:
            layers.append(nn.LayerNorm(size))
        layers.append(ACTIVATIONS[settings.activation]())
        inputs = size
    return nn.Sequential(*layers)
