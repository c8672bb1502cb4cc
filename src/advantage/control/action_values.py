"""The actor-critic network whose critic values actions: Q(s, a) for every action, and V(s) as their mean under π."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from torch import Tensor, nn

from advantage.control.distributions import Categorical
from advantage.control.policy import ActorCritic
from advantage.control.settings import Control
from advantage.errors import UserError
from advantage.trajectory import Batch, Evaluation, Tree, tree_map


class ActionCritic(ActorCritic):
    """A policy over Discrete actions and a critic Q(s, a), from which V(s) = Σ_a π(a|s) Q(s, a).

    Raises:
        UserError: actions that cannot be counted off.
    """

    def __init__(self, observation: gym.Space[Any], action: gym.Space[Any], settings: Control) -> None:
        if not isinstance(action, gym.spaces.Discrete):
            raise UserError(f"a critic of Q(s, a) has an output for each of Discrete actions, not for {action}; use V")
        super().__init__(observation, action, settings)
        self.value_head = nn.Linear(self.value_head.in_features, int(action.n))
        if settings.orthogonal_init:
            nn.init.orthogonal_(self.value_head.weight, 1.0)
            nn.init.zeros_(self.value_head.bias)

    def value(self, context: Tree) -> Tensor:
        """V(s) of contexts (E, …), as (E,)."""
        return _mean(*self._both(context))

    def evaluate(self, batch: Batch) -> Evaluation:
        """As `ActorCritic.evaluate`, with Q(s, a) of the batch's actions beside V(s)."""
        shape, actions = batch.actions.shape[:2], batch.actions.flatten(0, 1)
        distribution, q = self._both(tree_map(lambda leaf: leaf.flatten(0, 1), batch.context))
        return Evaluation(
            logp=distribution.logp(actions).view(shape),
            entropy=distribution.entropy().view(shape),
            values=_mean(distribution, q).view(shape),
            distribution=distribution,
            action_values=q.gather(-1, actions.unsqueeze(-1)).view(shape),
        )

    def _both(self, context: Tree) -> tuple[Categorical, Tensor]:
        """π(·|s) and Q(s, ·)."""
        inputs = self.encoder(context["observation"])
        features = self.actor(inputs)
        distribution: Categorical = self.head(features, context.get("action_mask"))
        return distribution, self.value_head(features if self.critic is self.actor else self.critic(inputs))


def _mean(distribution: Categorical, q: Tensor) -> Tensor:
    return (distribution.log_probs.exp() * q).sum(-1)
