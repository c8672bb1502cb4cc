"""What Gymnasium's toy-text environments say of themselves in their table `P`, as the arguments of an MDP.

The environment is only looked at, so that Gymnasium itself is not imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sparse

from advantage.errors import UserError
from advantage.tabular.arrays import Bools, Floats, Ints

DENSE = 1024  # states up to which a full (A, S, S) table is kept: 34 MB an action, of rewards as well


class _Table:
    """The outcomes of all (state, action) as columns: probability, next state, reward, whether the episode ends."""

    def __init__(self, table: Any, states: int, actions: int, name: str) -> None:
        try:
            rows = [
                (s, a, float(p), int(following), float(reward), bool(terminated))
                for s in range(states)
                for a in range(actions)
                for p, following, reward, terminated in table[s][a]
                if p > 0
            ]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{name}: its P is not {{state: {{action: [(probability, next state, reward, terminated), …]}}}}"
            ) from error
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        self.state, self.action, self.p, self.following, self.reward, self.ended = columns


def arguments(env: Any) -> dict[str, Any]:
    """P, R, terminal and start of an environment, as `MDP` takes them.

    Raises:
        UserError: the environment does not tell them.
    """
    inner = getattr(env, "unwrapped", None)
    name = _name(env)
    if isinstance(env, str) or inner is None:
        raise UserError(f"{env!r} is no Gymnasium environment; give gymnasium.make({str(env)!r})")
    if not hasattr(inner, "P"):
        raise UserError(
            f"{name} has no table P of its transitions; planning needs one (FrozenLake-v1, Taxi-v4, CliffWalking-v1)"
        )
    if getattr(inner, "initial_state_distrib", None) is None:
        raise UserError(f"{name} has no initial_state_distrib; give P and start to MDP(…) yourself")
    states, actions = int(inner.observation_space.n), int(inner.action_space.n)
    table = _Table(inner.P, states, actions, name)
    start = np.asarray(inner.initial_state_distrib, np.float64)
    begun = _reached(table, start > 0)
    ends = np.zeros(states, np.bool_)
    ends[table.following[table.ended]] = True
    also_passed = begun & ends
    following = np.where(table.ended & also_passed[table.following], states, table.following)
    if also_passed.any():
        start, states = np.append(start, 0.0), states + 1
        ends = np.append(ends & ~also_passed, True)
    P, R = _filled(table, following, states, actions)
    return {"P": P, "R": R, "terminal": ends, "start": start / start.sum()}


def _name(env: Any) -> str:
    spec = getattr(env, "spec", None)
    return spec.id if spec is not None else type(getattr(env, "unwrapped", env)).__name__


def _reached(table: _Table, begun: Bools) -> Bools:
    """States in which an episode can still be under way: those of the start, and what follows without an end."""
    states = begun.size
    going = ~table.ended
    onward = sparse.csr_array(
        (np.ones(np.count_nonzero(going)), (table.state[going], table.following[going])), shape=(states, states)
    )
    while True:
        wider = begun | (onward.T @ begun.astype(np.float64) > 0)
        if (wider == begun).all():
            return begun
        begun = wider


def _filled(table: _Table, following: Ints, states: int, actions: int) -> tuple[Any, Any]:
    """Probabilities and mean rewards of the transitions, outcomes that lead to the same state taken together."""
    rows, shape = table.action * states + table.state, (actions * states, states)
    P = _summed(table.p, rows, following, shape)
    R = _summed(table.p * table.reward, rows, following, shape)
    R.data /= P.data
    parts = [(P[cut : cut + states], R[cut : cut + states]) for cut in range(0, shape[0], states)]
    if states > DENSE:
        return [p for p, _ in parts], [r for _, r in parts]
    return np.stack([p.toarray() for p, _ in parts]), np.stack([r.toarray() for _, r in parts])


def _summed(data: Floats, rows: Ints, columns: Ints, shape: tuple[int, int]) -> Any:
    found = sparse.csr_array(sparse.coo_array((data, (rows, columns)), shape=shape))
    found.sum_duplicates()  # keeps entries that are 0, so that both tables have the same places
    return found
