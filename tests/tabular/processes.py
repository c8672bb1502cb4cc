"""Random small MDPs."""

from __future__ import annotations

from typing import Any

import numpy as np

from advantage.tabular import MDP


def random_mdp(seed: int, gamma: float, states: int = 6, actions: int = 3, *, rewards: str = "transitions") -> MDP:
    """States of which the last ends an episode and is always reached; a third of the transitions cannot occur."""
    rng = np.random.default_rng(seed)
    P = rng.random((actions, states, states)) * (rng.random((actions, states, states)) > 1 / 3)
    P[:, :, -1] += 0.1
    P /= P.sum(-1, keepdims=True)
    R = rng.normal(size=(actions, states, states) if rewards == "transitions" else (states, actions))
    start = np.append(rng.dirichlet(np.ones(states - 1)), 0.0)
    return MDP(P, R, gamma, np.arange(states) == states - 1, start)


def random_logits(seed: int, mdp: MDP) -> Any:
    return np.random.default_rng([seed, 1]).normal(size=(mdp.num_states, mdp.num_actions))
