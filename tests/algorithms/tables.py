"""Tables of logits as policies: what is known exactly, asked for by the functions that samples go through."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advantage.control.distributions import Categorical
from advantage.tabular import MDP, policy_values, softmax_policy
from advantage.trajectory import Batch, Evaluation, Rollout


class Table(nn.Module):
    """π(a|s) = softmax of θ(s, ·), in float64; its critic says what it is given, or 0."""

    def __init__(self, logits: Any, values: Any = None) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(np.asarray(logits), dtype=torch.float64))
        given = np.zeros(len(self.logits)) if values is None else values
        self.register_buffer("values", torch.tensor(np.asarray(given), dtype=torch.float64))

    def evaluate(self, batch: Batch) -> Evaluation:
        distribution = Categorical.of_logits(self.logits[batch.context["observation"].flatten()], None)
        logp = distribution.logp(batch.actions.flatten()).view(batch.actions.shape)
        entropy = distribution.entropy().view(logp.shape)
        return Evaluation(logp, entropy, self.values[batch.context["observation"]], distribution)

    def actor_parameters(self) -> dict[str, nn.Parameter]:
        return {"logits": self.logits}

    @property
    def policy(self) -> np.ndarray:
        return np.asarray(softmax_policy(self.logits.detach().numpy()))


def advantages_of(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    values = policy_values(mdp, policy)
    return mdp.q(values) - values[:, None]


def episodes_of(mdp: MDP, behaviour: np.ndarray, count: int, seed: int, longest: int = 400) -> Rollout:
    """Whole episodes of a policy, one a stream, as a log has them: the row behind the last decision shows the end."""
    assert mdp.transition_rewards is not None
    rng = np.random.default_rng(seed)
    P, R = np.asarray(mdp.P), np.asarray(mdp.transition_rewards).reshape(mdp.P.shape)
    state = rng.choice(mdp.num_states, count, p=mdp.start)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("state", "action", "reward", "alive", "over")}
    while not mdp.terminal[state].all():
        assert len(columns["state"]) < longest
        alive = ~mdp.terminal[state]
        action = _drawn(behaviour[state], rng)
        row = P[action, state]
        row[~alive, 0] = 1.0
        after = np.where(alive, _drawn(row, rng), state)
        found = (state, action, np.where(alive, R[action, state, after], 0.0), alive, alive & mdp.terminal[after])
        for name, column in zip(columns, found, strict=True):
            columns[name].append(column)
        state = after
    columns["state"].append(state)
    for name, column in columns.items():
        if name != "state":
            column.append(np.zeros_like(column[-1]))
    stacked = {name: torch.from_numpy(np.stack(column, 1)) for name, column in columns.items()}
    logp = torch.from_numpy(np.log(behaviour))[stacked["state"], stacked["action"].long()]
    return Rollout(
        context={"observation": stacked["state"]},
        actions=stacked["action"].long(),
        mask=stacked["alive"].bool(),
        terminated=stacked["over"].bool(),
        truncated=torch.zeros_like(stacked["over"].bool()),
        rewards=stacked["reward"].double(),
        logp_sampler=logp,
    )


def _drawn(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of each row's entries, by its probabilities."""
    return np.minimum((rows.cumsum(-1) < rng.random((len(rows), 1))).sum(-1), rows.shape[-1] - 1)


def within(samples: Tensor, exact: Any, errors: float = 4.5) -> float:
    """The largest distance of the mean of samples (blocks, …) from what is exact, in standard errors; checked."""
    spread = samples.std(0) / len(samples) ** 0.5
    apart = (samples.mean(0) - torch.as_tensor(np.asarray(exact))).abs() / spread.clamp(min=1e-12)
    assert apart.max() < errors, f"{float(apart.max()):.1f} standard errors"
    return float(apart.max())
