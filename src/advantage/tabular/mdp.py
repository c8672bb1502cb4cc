"""A finite Markov decision process whose numbers are all known: transition probabilities, rewards, ends, discount."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch

from advantage.errors import UserError, nearest
from advantage.tabular import gymnasium_model
from advantage.tabular.arrays import SUM_TOLERANCE, Bools, Floats, distributions, numbers, plain, real

REPLACED = ("R", "gamma", "terminal", "start")


class MDP:
    """A Markov decision process (S, A, P, R, γ) with terminal states.

        Q(s, a) = Σ_s' P(s'|s, a) [R(s, a, s') + γ V(s')],   V = 0 where s is terminal

    The reward belongs to the transition and is paid on entering s'. It does not change once it is made; `replace` makes
    another one.

    Args:
        P: (A, S, S) probabilities P(s'|s, a), or a list of A SciPy sparse (S, S). Entries ≥ 0, rows sum to 1; those of
            terminal states are ignored.
        R: (S, A) mean rewards, or (A, S, S) rewards of the transitions (a list of A sparse (S, S) where P is one).
            Finite; what stands at terminal states, or at transitions of probability 0, is ignored.
        gamma: discount γ in [0, 1].
        terminal: bool (S,), the states in which an episode ends.
        start: (S,) probabilities of an episode's first state; unless given, uniform over the states that do not end it.

    Attributes:
        num_states, num_actions: S and A.
        gamma, terminal, start: as above.
        R: (S, A) mean rewards, 0 in terminal states.
        is_sparse: whether P was given as sparse tables.
        transitions: (A·S, S), the row of (s, a) is a·S + s; an array or one CSR array. Rows of terminal states are 0.
        transition_rewards: rewards in the shape of `transitions` (of a sparse one: of its data); None where means were
            given.

    Raises:
        UserError: (a ValueError) whatever of this does not hold; the message names the entry.

    >>> chain = MDP(P=[[[0, 1], [0, 1]]], R=[[2.0], [0.0]], gamma=0.5, terminal=[False, True])
    >>> chain.q([0.0, 0.0])
    array([[2.],
           [0.]])
    """

    def __init__(self, P: Any, R: Any, gamma: float, terminal: Any, start: Any = None) -> None:
        self.gamma = real("gamma", gamma, 0.0, 1.0)
        self.is_sparse = _is_sparse(P)
        stack: Callable[[Any], tuple[Any, int, int]] = _stack_sparse if self.is_sparse else _stack_dense
        stacked, self.num_actions, self.num_states = stack(P)
        states = (self.num_states,)
        self.terminal = _flags(terminal, states)
        ends = np.tile(self.terminal, self.num_actions)
        _check_rows(stacked, ends, self.num_states)
        if self.is_sparse and (stacked.data == 0).any():
            stacked.eliminate_zeros()
        self.transitions: Any = _without_rows(stacked, ends)
        self.R, self.transition_rewards = self._rewards(R, ends)
        self.start = self._start(start)

    @property
    def P(self) -> Any:
        """P(s'|s, a): (A, S, S), or a list of A CSR arrays (S, S); rows of terminal states are 0."""
        if self.is_sparse:
            cuts = range(0, self.num_actions * self.num_states, self.num_states)
            return [self.transitions[cut : cut + self.num_states] for cut in cuts]
        return self.transitions.reshape(self.num_actions, self.num_states, self.num_states)

    def q(self, values: Any) -> Floats:
        """Action values (S, A) where every next state is worth what `values` (S,) says: one Bellman backup.

        Q(s, a) = R(s, a) + γ Σ_s' P(s'|s, a) V(s');   0 in terminal states

        Raises:
            UserError: `values` has another shape.
        """
        V = plain("values", values)
        if V.shape != (self.num_states,):
            raise UserError(f"values has shape {V.shape}; it must be {(self.num_states,)}")
        ahead: Floats = self.transitions @ V
        ahead *= self.gamma
        found = ahead.reshape(self.num_actions, self.num_states).T  # in the order of R
        found += self.R
        return found

    def replace(self, **changes: Any) -> MDP:
        """The same process with some of `R`, `gamma`, `terminal` and `start` exchanged.

        Rows of states that were terminal are unknown: a state that is to end no longer needs a new MDP.

        Raises:
            UserError: another name, or what the constructor refuses.
        """
        for name in changes:
            if name == "P":
                raise UserError("P cannot be replaced: it says what the states are; make another MDP(P, R, …)")
            if name not in REPLACED:
                raise UserError(f"an MDP has no {name!r} to replace: {nearest(name, REPLACED)}")
        rewards = self.R if self.transition_rewards is None else self._rewards_by_action()
        now = {"R": rewards, "gamma": self.gamma, "terminal": self.terminal, "start": self.start, **changes}
        if "terminal" in changes and "start" not in changes:
            now["start"] = None
        return MDP(self.P, now["R"], now["gamma"], now["terminal"], now["start"])

    @classmethod
    def from_gymnasium(cls, env: Any, gamma: float) -> MDP:
        """The process that a Gymnasium environment with a table `P` plays (FrozenLake, Taxi, CliffWalking).

        A state is terminal where every transition into it that can occur in an episode ends the episode. One that is
        also entered without an end keeps its row, and what ends there goes to one more state, the last. Where two
        outcomes of an action lead to one state with different rewards, their mean is paid. A time limit is no part of
        the process.

        Args:
            env: the environment, wrapped or not.
            gamma: discount γ in [0, 1].

        Raises:
            UserError: it has no `P`, or none of the kind that Gymnasium's environments have.
        """
        return cls(**gymnasium_model.arguments(env), gamma=gamma)

    def _rewards(self, given: Any, ends: Bools) -> tuple[Floats, Any]:
        count, actions = self.num_states, self.num_actions
        array = given if _is_sparse(given) else plain("R", given)
        if _is_sparse(given):
            if not self.is_sparse:
                raise UserError("R is a list of sparse arrays and P is dense; give both in one kind")
            rewards, *_ = _stack_sparse(given, "R", (actions, count))
            aligned = self._aligned(_without_rows(rewards, ends))
        elif array.ndim == 3 and self.is_sparse:
            aligned = self._aligned(numbers("R", array, (actions, count, count)).reshape(actions * count, count))
        elif array.ndim == 3:
            aligned = self._of_transitions(array)
        else:
            means = numbers("R", _zero_rows(array, self.terminal), (count, actions))
            return np.asfortranarray(means), None
        weighted = self.transitions.copy() if self.is_sparse else self.transitions * aligned
        if self.is_sparse:
            weighted.data = weighted.data * aligned
        return np.asarray(weighted.sum(axis=1)).reshape(actions, count).T, aligned

    def _of_transitions(self, array: Floats) -> Floats:
        """Rewards (A·S, S), 0 where the transition cannot occur, whatever stood there."""
        count, actions = self.num_states, self.num_actions
        if array.shape != (actions, count, count):
            raise UserError(f"R has shape {array.shape}; it must be {(count, actions)} or {(actions, count, count)}")
        occurring = np.where(self.transitions > 0, array.reshape(actions * count, count), 0.0)
        return numbers("R", occurring.reshape(array.shape), array.shape).reshape(actions * count, count)

    def _aligned(self, rewards: Any) -> Floats:
        """Rewards at the places of the transitions' data."""
        P = self.transitions
        if sparse.issparse(rewards) and all(
            np.array_equal(getattr(rewards, part), getattr(P, part)) for part in ("indptr", "indices")
        ):
            return numbers("R", rewards.data, P.data.shape)
        rows = np.repeat(np.arange(P.shape[0]), np.diff(P.indptr))
        found = np.asarray(rewards[rows, P.indices], np.float64).reshape(-1)
        return numbers("R", found, found.shape)

    def _rewards_by_action(self) -> Any:
        if not self.is_sparse:
            return self.transition_rewards.reshape(self.num_actions, self.num_states, self.num_states)
        full = self.transitions.copy()
        full.data = self.transition_rewards
        return [full[cut : cut + self.num_states] for cut in range(0, full.shape[0], self.num_states)]

    def _start(self, given: Any) -> Floats:
        if self.terminal.all():
            raise UserError("every state is terminal; an episode needs one to begin in")
        if given is None:
            return ~self.terminal / np.count_nonzero(~self.terminal)
        start = distributions("start", given, (self.num_states,))
        if (ended := np.flatnonzero(self.terminal & (start > 0))).size:
            raise UserError(f"start has {start[ended[0]]:g} on state {ended[0]}, which is terminal; give it 0")
        return start


def check_model(given: Any) -> None:
    """Refuses what is no MDP.

    Raises:
        UserError: it is none.
    """
    if not isinstance(given, MDP):
        raise UserError(f"{given!r} is no MDP; give MDP(…), GridWorld(…) or MDP.from_gymnasium(environment, gamma)")


def _is_sparse(given: Any) -> bool:
    return isinstance(given, Sequence) and len(given) > 0 and all(sparse.issparse(part) for part in given)


def _stack_dense(given: Any) -> tuple[Floats, int, int]:
    array = plain("P", given).copy()
    if array.ndim != 3 or array.shape[1] != array.shape[2] or 0 in array.shape:
        raise UserError(f"P has shape {array.shape}; it must be (actions, states, states), or a list of sparse (S, S)")
    return array.reshape(-1, array.shape[2]), array.shape[0], array.shape[1]


def _stack_sparse(parts: Any, name: str = "P", shape: tuple[int, int] | None = None) -> tuple[Any, int, int]:
    actions, states = shape or (len(parts), parts[0].shape[0])
    if len(parts) != actions or any(part.shape != (states, states) for part in parts):
        raise UserError(
            f"{name} holds {len(parts)} sparse arrays of {sorted({part.shape for part in parts})};"
            f" it must hold {actions} of {(states, states)}"
        )
    stacked = sparse.csr_array(sparse.vstack(parts, format="csr", dtype=np.float64))
    stacked.sum_duplicates()
    if max(stacked.nnz, *stacked.shape) < 2**31:  # half the bytes that a sweep has to read
        narrow = stacked.indices.astype(np.int32, copy=False), stacked.indptr.astype(np.int32, copy=False)
        stacked = sparse.csr_array((stacked.data, *narrow), shape=stacked.shape)
    return stacked, actions, states


def _flags(given: Any, shape: tuple[int, ...]) -> Bools:
    flags = np.asarray(given.cpu().numpy() if isinstance(given, torch.Tensor) else given)
    if flags.shape != shape or flags.dtype != np.bool_:
        raise UserError(f"terminal has shape {flags.shape} and dtype {flags.dtype}; it must be bool {shape}")
    return flags.copy()


def _check_rows(stacked: Any, ends: Bools, states: int) -> None:
    """Every row of a state that is not terminal is a distribution."""
    kept = stacked if isinstance(stacked, np.ndarray) else stacked.data
    if kept.size and not (np.isfinite(kept).all() and kept.min() >= 0):
        _refuse_entry(stacked, ends, states)
    sums = np.asarray(stacked.sum(axis=1)).reshape(-1)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~ends & ~(np.abs(sums - 1.0) <= SUM_TOLERANCE))
    if wrong.size:
        action, state = divmod(int(wrong[0]), states)
        raise UserError(
            f"P[{action}, {state}] sums to {sums[wrong[0]]:.6g}; the row of a state that is not terminal sums to 1"
        )


def _refuse_entry(stacked: Any, ends: Bools, states: int) -> None:
    """Names the first entry that is no probability; those in rows of terminal states are nobody's business."""
    entries = sparse.coo_array(stacked)
    bad = np.flatnonzero(~((entries.data >= 0) & np.isfinite(entries.data)) & ~ends[entries.row])
    if bad.size:
        action, state = divmod(int(entries.row[bad[0]]), states)
        raise UserError(
            f"P[{action}, {state}, {entries.col[bad[0]]}] is {entries.data[bad[0]]}; a probability lies in [0, 1]"
        )


def _without_rows(stacked: Any, ends: Bools) -> Any:
    if isinstance(stacked, np.ndarray):
        stacked[ends] = 0.0
        return stacked
    counts = np.diff(stacked.indptr)
    if counts[ends].any():
        keep, counts = np.repeat(~ends, counts), np.where(ends, 0, counts)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(stacked.indptr.dtype)
        stacked = sparse.csr_array((stacked.data[keep], stacked.indices[keep], indptr), shape=stacked.shape)
    return stacked


def _zero_rows(given: Floats, terminal: Bools) -> Floats:
    array = given.copy()
    if array.ndim == 2 and array.shape[0] == terminal.size:
        array[terminal] = 0.0
    return array
