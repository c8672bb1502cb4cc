"""The actor-critic network: an encoder, a trunk for each role or one for both, a head over actions, a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from advantage.control.distributions import Distribution
from advantage.control.layers import ACTIVATIONS, trunk
from advantage.control.settings import Control
from advantage.control.spaces import encoder_for, head_for
from advantage.errors import UserError
from advantage.trajectory import Batch, Evaluation, Tree, tree_leaves, tree_map

__all__ = ["ACTIVATIONS", "ActorCritic", "make_policy"]


class ActorCritic(nn.Module):
    """A policy π(a|s) and a critic V(s) over any spaces of Gymnasium that numbers can describe.

    Contexts are dictionaries with "observation" and, where the environment says which actions are legal, "action_mask".
    Of several critics V is the mean or the least; each has weights of its own and, unless it is shared, a trunk.
    """

    def __init__(self, observation: gym.Space[Any], action: gym.Space[Any], settings: Control) -> None:
        super().__init__()
        self.encoder = encoder_for(observation, torch.get_default_dtype())
        self.actor = trunk(self.encoder.size, settings, settings.batch_norm)
        self.critic = self.actor if settings.share_trunk else trunk(self.encoder.size, settings, settings.batch_norm)
        features = settings.network[-1] if settings.network else self.encoder.size
        self.head = head_for(
            action, features, settings.log_std_init, settings.state_dependent_std, settings.full_covariance
        )
        self.value_head = nn.Linear(features, 1)
        if settings.orthogonal_init:
            gains = {self.actor: 2**0.5, self.critic: 2**0.5, self.head: 0.01, self.value_head: 1.0}
            _orthogonal(gains)
        self.least = settings.critics_value == "least"
        others = range(settings.critics - 1)
        self.other_critics = nn.ModuleList(
            [
                nn.Sequential() if settings.share_trunk else trunk(self.encoder.size, settings, settings.batch_norm)
                for _ in others
            ]
        )
        self.other_value_heads = nn.ModuleList([nn.Linear(features, 1) for _ in others])
        if settings.orthogonal_init:
            _orthogonal({self.other_critics: 2**0.5, self.other_value_heads: 1.0})

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Noise for `act`, (*shape, n), of the kind that the action's distribution is sampled by."""
        return torch.from_numpy(self.head.noise(rng, shape)).to(self.value_head.weight.dtype)

    def act(self, context: Tree, noise: Tensor | None) -> Tree:
        """Actions (E, …); the most probable ones where the noise is None."""
        distribution = self._distribution(context, self.encoder(context["observation"]))
        return distribution.mode() if noise is None else distribution.sample(noise)

    def value(self, context: Tree) -> Tensor:
        """V(s) of contexts (E, …), as (E,)."""
        inputs = self.encoder(context["observation"])
        return self._combined(self._values(inputs, self.critic(inputs)))

    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-probabilities, entropies and values of the batch's decisions, (rows, time)."""
        shape = next(tree_leaves(batch.actions)).shape[:2]
        context = tree_map(lambda leaf: leaf.flatten(0, 1), batch.context)
        inputs = self.encoder(context["observation"])
        features = self.actor(inputs)
        distribution = self.head(features, context.get("action_mask"))
        values = self._values(inputs, features if self.critic is self.actor else self.critic(inputs))
        return Evaluation(
            logp=distribution.logp(tree_map(lambda leaf: leaf.flatten(0, 1), batch.actions)).view(shape),
            entropy=distribution.entropy().view(shape),
            values=self._combined(values).view(shape),
            distribution=distribution,
            ensemble=None if len(values) == 1 else torch.stack(values, -1).view(*shape, len(values)),
        )

    def actor_parameters(self) -> dict[str, nn.Parameter]:
        """Those that the policy depends on, by name: its trunk, also where the critic shares it, and its head."""
        return {name: each for name, each in self.named_parameters() if name.startswith(("actor.", "head."))}

    def critic_parameters(self) -> dict[str, nn.Parameter]:
        """Those that the values alone depend on, by name; of a shared trunk only what stands on it."""
        return {name: each for name, each in self.named_parameters() if not name.startswith(("actor.", "head."))}

    def _distribution(self, context: Tree, inputs: Tensor) -> Distribution:
        distribution: Distribution = self.head(self.actor(inputs), context.get("action_mask"))
        return distribution

    def _values(self, inputs: Tensor, features: Tensor) -> list[Tensor]:
        """Each critic's values (N,), from its own trunk or from the shared one's features."""
        values = [self.value_head(features).squeeze(-1)]
        for critic, head in zip(self.other_critics, self.other_value_heads, strict=True):
            own = features if self.critic is self.actor else critic(inputs)
            values.append(head(own).squeeze(-1))
        return values

    def _combined(self, values: list[Tensor]) -> Tensor:
        if len(values) == 1:
            return values[0]
        stacked = torch.stack(values)
        return stacked.amin(0) if self.least else stacked.mean(0)


def make_policy(observation: gym.Space[Any], action: gym.Space[Any], settings: Control, seed: int) -> ActorCritic:
    """The network of these settings, its weights drawn under a seed of their own.

    Raises:
        UserError: both kinds of normalisation at once; spaces that no network here is made for.
    """
    if settings.layer_norm and settings.batch_norm:
        raise UserError("layer_norm and batch_norm are both true; a layer is normalised once, choose one of them")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the devices too, for good
        if getattr(settings, "critic", "v") != "v":
            from advantage.control.action_values import ActionCritic

            return ActionCritic(observation, action, settings)
        return ActorCritic(observation, action, settings)


def _orthogonal(gains: Mapping[nn.Module, float]) -> None:
    """√2 in hidden layers, 0.01 in the action head, 1 in the value head, biases 0 (Huang et al. 2022, detail 2)."""
    for part, gain in gains.items():
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, gain)
                nn.init.zeros_(layer.bias)
