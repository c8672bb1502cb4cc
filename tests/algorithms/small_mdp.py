"""A small MDP known in full: as an environment, as exact sums, and as the list of everything that can happen in it.

Three states and an end, left upward only, so that an episode has one to three steps and all of them can be enumerated
with their probabilities: an estimator's mean and variance are then finite sums, and no sample is needed. The policy is
the library's own network without a hidden layer, on one-hot states: a softmax table, and a table for the critic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from advantage.control.policy import ActorCritic, make_policy
from advantage.control.settings import Control
from advantage.trajectory import Rollout

STATES, ACTIONS, END = 3, 2, 3
START = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
P = torch.tensor(  # action, state, next state; the last column is the end
    [
        [[0.0, 0.5, 0.2, 0.3], [0.0, 0.0, 0.7, 0.3], [0.0, 0.0, 0.0, 1.0]],
        [[0.0, 0.1, 0.6, 0.3], [0.0, 0.0, 0.1, 0.9], [0.0, 0.0, 0.0, 1.0]],
    ],
    dtype=torch.float64,
)
R = torch.tensor([[1.0, -0.5], [0.3, 1.2], [2.0, -1.0]], dtype=torch.float64)  # state, action
LOGITS = torch.tensor([[0.4, -0.2], [-0.3, 0.5], [0.1, 0.3]], dtype=torch.float64)
WRONG = torch.tensor([0.7, -1.1, 1.9], dtype=torch.float64)  # a critic that is not V


class SmallMDP(gym.Env[Any, Any]):
    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Discrete(STATES), spaces.Discrete(ACTIONS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(STATES, p=START.numpy()))
        return self.state, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(R[self.state, action])
        after = int(self.np_random.choice(STATES + 1, p=P[action, self.state].numpy()))
        self.state = after if after != END else self.state
        return self.state, reward, after == END, False, {}


def policy_of(settings: Control, values: Tensor = WRONG, action_values: Tensor | None = None) -> ActorCritic:
    """The network with these logits and this critic, in float64; `settings.network` has to be ()."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        policy = make_policy(spaces.Discrete(STATES), spaces.Discrete(ACTIONS), settings, 0)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        policy.head.logits.weight.copy_(LOGITS.T)
        policy.value_head.weight.copy_(values[None] if action_values is None else action_values.T)
    return policy


def chances() -> Tensor:
    """π(a|s), (states, actions)."""
    return LOGITS.softmax(-1)


# --- exact sums ---


def q_of(values: Tensor, gamma: float, logits: Tensor = LOGITS) -> Tensor:
    """Q(s, a) = r + γ Σ P V(s'), (states, actions)."""
    return R + gamma * torch.einsum("ast,t->sa", P[..., :STATES], values)


def values_of(gamma: float, logits: Tensor = LOGITS) -> Tensor:
    """V of the policy, by the linear system, differentiable in its logits."""
    pi = logits.softmax(-1)
    moves = torch.einsum("sa,ast->st", pi, P[..., :STATES])
    return torch.linalg.solve(torch.eye(STATES, dtype=torch.float64) - gamma * moves, (pi * R).sum(-1))


def exact_gradient(gamma: float) -> Tensor:
    """∇J of J = Σ start V in the logits, (states, actions), by differentiating the linear system."""
    logits = LOGITS.clone().requires_grad_()
    (START @ values_of(gamma, logits)).backward()
    assert logits.grad is not None
    return logits.grad


def visits(gamma: float = 1.0) -> Tensor:
    """Σ_t γ^t P(s_t = s), (states,)."""
    moves = torch.einsum("sa,ast->st", chances(), P[..., :STATES])
    return torch.linalg.solve(torch.eye(STATES, dtype=torch.float64) - gamma * moves.T, START)


def weighted_gradient(weights: Tensor, gamma: float = 1.0) -> Tensor:
    """Σ_s visits(s) Σ_a ∇π(a|s) weights(s, a), (states, actions): E[Σ_t Ψ_t ∇log π] where E[Ψ|s, a] = weights."""
    pi = chances()
    centred = weights - (pi * weights).sum(-1, keepdim=True)
    return visits(gamma)[:, None] * pi * centred


# --- everything that can happen ---


@dataclass(frozen=True)
class Path:
    chance: float
    states: tuple[int, ...]
    actions: tuple[int, ...]


def paths() -> Iterator[Path]:
    """Every episode with its probability."""
    pi = chances()

    def grow(path: Path, state: int) -> Iterator[Path]:
        for action in range(ACTIONS):
            chance = path.chance * float(pi[state, action])
            longer = Path(chance, (*path.states, state), (*path.actions, action))
            for after in P[action, state].nonzero().flatten().tolist():
                reached = Path(chance * float(P[action, state, after]), longer.states, longer.actions)
                yield from [reached] if after == END else grow(reached, after)

    for state in START.nonzero().flatten().tolist():
        yield from grow(Path(float(START[state]), (), ()), state)


def everything(values: Tensor | None = None, action_values: Tensor | None = None) -> tuple[Rollout, Tensor]:
    """All episodes as one rollout, a stream each, and their probabilities; with what a critic says of them."""
    found = list(paths())
    longest = max(len(path.states) for path in found)

    def column(rows: list[tuple[int, ...]]) -> Tensor:
        return torch.tensor([row + (row[0],) * (longest - len(row)) for row in rows])

    lengths = torch.tensor([len(path.states) for path in found])[:, None]
    time = torch.arange(longest)
    mask, terminated = time < lengths, time == lengths - 1
    states, actions = column([path.states for path in found]), column([path.actions for path in found])
    rewards = R[states, actions].masked_fill(~mask, 0.0)
    rollout = Rollout({"observation": states}, actions, mask, terminated, torch.zeros_like(mask), rewards=rewards)
    logp = LOGITS.log_softmax(-1)[states, actions].masked_fill(~mask, 0.0)
    rollout = rollout.replace(logp_old=logp)
    if values is not None:
        here = values[states].masked_fill(~mask, 0.0)
        after = torch.cat([here[:, 1:], torch.zeros_like(here[:, :1])], 1)
        rollout = rollout.replace(values=here, next_values=after)
    if action_values is not None:
        rollout = rollout.replace(action_values=action_values[states, actions].masked_fill(~mask, 0.0))
    return rollout, torch.tensor([path.chance for path in found], dtype=torch.float64)


def seeded(index: int) -> np.random.Generator:
    return np.random.default_rng(index)
