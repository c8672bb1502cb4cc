"""Planning a sweep at a time, so that a caller can look at every one, and exchange the model between two.

Each generator yields a `Sweep` and ends where its method has converged. `sweeps.send(other)` goes on in another model
of the same size (new rewards, γ or ends) from the values that were reached:

    sweeps = value_iteration_sweeps(GridWorld())
    for sweep in itertools.islice(sweeps, 10):
        draw(sweep)
    sweep = sweeps.send(GridWorld(gamma=0.5))
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from advantage.errors import UserError, nearest
from advantage.tabular.arrays import Floats, numbers, real, whole
from advantage.tabular.compiled import compiled, worth_compiling
from advantage.tabular.exact import check_ends, policy_table, policy_values
from advantage.tabular.mdp import MDP, check_model
from advantage.tabular.outcomes import outcomes_of, predecessors_of

TOLERANCE = 1e-8
KEPT = 10_000  # states up to which sweeps, or snapshots, are kept
KEPT_NUMBERS = 50_000_000  # of V, Q and policy in all sweeps that are kept: 1.6 GB as the lists of `history`
ORDERS = ("synchronous", "in_place")
EVALUATIONS = ("iterative", "exact")


def greedy(q: Floats) -> Floats:
    """The greedy policy (S, A); actions that are best to nine digits share the probability evenly.

    >>> greedy(np.array([[1.0, 1.0, 0.0]]))
    array([[0.5, 0.5, 0. ]])
    """
    size = np.abs(q)
    slack = 1e-9 * size.max(1, keepdims=True) + 1e-12 * size.max()
    best = q >= q.max(1, keepdims=True) - slack
    share: Floats = best / best.sum(1, keepdims=True)
    return share


@dataclass(frozen=True)
class Sweep:
    """Where a planner stands after one sweep.

    Attributes:
        kind: "evaluation" (of one policy), "improvement" (the policy is made greedy), "optimality" (max over actions).
        number: sweeps so far, from 1; an improvement has the number of the sweep before it.
        mdp: the model of this sweep.
        values: (S,) after it.
        delta: largest change of a value; of an improvement the largest gain, max_a Q − V.
        evaluated: the policy (S, A) of an evaluation.
    """

    kind: str
    number: int
    mdp: MDP
    values: Floats
    delta: float
    evaluated: Floats | None = None

    @cached_property
    def q(self) -> Floats:
        """(S, A) R + γ P V of these values."""
        return self.mdp.q(self.values)

    @cached_property
    def policy(self) -> Floats:
        """(S, A): the one that is evaluated, else the greedy one."""
        return greedy(self.q) if self.evaluated is None else self.evaluated

    @property
    def residual(self) -> float:
        """How far these values are from their Bellman equation, in sup-norm: that of the policy, or of optimality."""
        ahead = self.q.max(1) if self.evaluated is None else (self.evaluated * self.q).sum(1)
        return _distance(ahead, self.values)

    def json(self) -> dict[str, Any]:
        """The sweep in plain numbers and lists."""
        tables = {name: getattr(self, name).tolist() for name in ("values", "q", "policy")}
        return {"kind": self.kind, "sweep": self.number, "delta": self.delta, "residual": self.residual, **tables}


Sweeps: TypeAlias = Generator[Sweep, MDP | None, None]


def evaluation_sweeps(mdp: MDP, policy: Any, *, tolerance: float = TOLERANCE, values: Any = None) -> Sweeps:
    """The sweeps of `policy_evaluation`."""
    table = policy_table(mdp, policy)
    check_ends(mdp, table)
    now = _begin(mdp, tolerance, values)
    for number in itertools.count(1):
        now, delta = _evaluated(mdp, table, now)
        if (other := (yield Sweep("evaluation", number, mdp, now, delta, table))) is not None:
            mdp, now = _exchanged(mdp, other, now)
            check_ends(mdp, table)
        elif delta < tolerance:
            return


def exact_evaluation_sweeps(mdp: MDP, policy: Any) -> Sweeps:
    """The one entry of `exact_policy_evaluation`, and one more for each other model that is sent."""
    table = policy_table(mdp, policy)
    now = np.zeros(mdp.num_states)
    for number in itertools.count(1):
        before, now = now, policy_values(mdp, table)
        if (other := (yield Sweep("evaluation", number, mdp, now, _distance(now, before), table))) is None:
            return
        mdp, now = _exchanged(mdp, other, now)


def policy_iteration_sweeps(
    mdp: MDP, *, evaluation: str = "iterative", tolerance: float = TOLERANCE, values: Any = None
) -> Sweeps:
    """The sweeps of `policy_iteration`: evaluations of each policy, and an improvement after them."""
    if evaluation not in EVALUATIONS:
        raise UserError(f"unknown evaluation {evaluation!r}: {nearest(evaluation, EVALUATIONS)}")
    now, number = _begin(mdp, tolerance, values), 0
    policy = np.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)
    while True:
        # Where γ ≤ 0.99 the values are then within tolerance/2, so that an optimal policy is seen to be one. Nearer to
        # 1 the floor, without which γ = 1 would be evaluated for ever, makes that 0.01/(1 − γ) times as wide.
        narrow = tolerance * max(1.0 - mdp.gamma, 1e-2) / 2
        inner = (
            exact_evaluation_sweeps(mdp, policy)
            if evaluation == "exact"
            else evaluation_sweeps(mdp, policy, tolerance=narrow, values=now)
        )
        other = None
        for sweep in inner:
            number, now = number + 1, sweep.values
            other = yield Sweep("evaluation", number, mdp, now, sweep.delta, policy)
            if other is not None:
                break
        if other is None:
            improved = Sweep("improvement", number, mdp, now, float((mdp.q(now).max(1) - now).max()))
            other = yield improved
            if other is None and improved.delta < tolerance:
                return
            policy = improved.policy
        if other is not None:
            mdp, now = _exchanged(mdp, other, now)


def modified_policy_iteration_sweeps(
    mdp: MDP, *, evaluations: int = 5, tolerance: float = TOLERANCE, values: Any = None
) -> Sweeps:
    """The sweeps of `modified_policy_iteration`: an improvement, which is a sweep itself, then evaluations."""
    evaluations = whole("evaluations", evaluations, 0)
    now, number = _begin(mdp, tolerance, values), 0
    while True:
        q = mdp.q(now)
        policy, before, now = greedy(q), now, q.max(1)
        for turn in range(evaluations + 1):
            if turn:
                before = now
                now, _ = _evaluated(mdp, policy, now)
            number, delta = number + 1, _distance(now, before)
            kind = "evaluation" if turn else "improvement"
            if (other := (yield Sweep(kind, number, mdp, now, delta, policy if turn else None))) is not None:
                mdp, now = _exchanged(mdp, other, now)
                break
            if not turn and delta < tolerance:
                return


def value_iteration_sweeps(
    mdp: MDP, *, order: str = "synchronous", tolerance: float = TOLERANCE, values: Any = None
) -> Sweeps:
    """The sweeps of `value_iteration`."""
    if order not in ORDERS:
        raise UserError(f"unknown order {order!r}: {nearest(order, ORDERS)}")
    now = _begin(mdp, tolerance, values)
    ways = {"synchronous": _synchronous, "in_place": _in_place}
    back_up = ways[order](mdp)
    for number in itertools.count(1):
        now, delta = back_up(now)
        if (other := (yield Sweep("optimality", number, mdp, now, delta))) is not None:
            mdp, now = _exchanged(mdp, other, now)
            back_up = ways[order](mdp)
        elif delta < tolerance:
            return


def prioritized_sweeps(mdp: MDP, *, tolerance: float = TOLERANCE, values: Any = None) -> Sweeps:
    """The sweeps of `prioritized_sweeping`."""
    start, number = _begin(mdp, tolerance, values), 0
    while True:
        other = None
        for now, delta in _by_urgency(mdp, start, tolerance):
            number += 1
            if (other := (yield Sweep("optimality", number, mdp, now, delta))) is not None:
                mdp, start = _exchanged(mdp, other, now)
                break
        if other is None:
            return


def _begin(mdp: MDP, tolerance: float, values: Any) -> Floats:
    check_model(mdp)
    if not 0.0 < real("tolerance", tolerance) < math.inf:
        raise UserError(f"tolerance is {tolerance}; it must be above 0 and finite")
    if values is None:
        return np.zeros(mdp.num_states)
    return np.where(mdp.terminal, 0.0, numbers("values", values, (mdp.num_states,)))


def _exchanged(mdp: MDP, other: MDP, values: Floats) -> tuple[MDP, Floats]:
    check_model(other)
    if (other.num_states, other.num_actions) != (mdp.num_states, mdp.num_actions):
        raise UserError(
            f"the other MDP has {other.num_states} states and {other.num_actions} actions;"
            f" it must have {mdp.num_states} and {mdp.num_actions}"
        )
    return other, np.where(other.terminal, 0.0, values)


def _distance(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).max())


def _evaluated(mdp: MDP, policy: Floats, values: Floats) -> tuple[Floats, float]:
    after: Floats = (policy * mdp.q(values)).sum(1)
    return after, _distance(after, values)


BackUp: TypeAlias = Callable[[Floats], tuple[Floats, float]]
"""From values to those after a sweep, and the largest change."""


def _synchronous(mdp: MDP) -> BackUp:
    """A sweep that reads the values of the one before: a product with P, or one compiled pass over a large P."""
    if not (mdp.is_sparse and worth_compiling(mdp.transitions.nnz)):

        def by_product(values: Floats) -> tuple[Floats, float]:
            after = mdp.q(values).max(1)
            return after, _distance(after, values)

        return by_product
    states, actions = mdp.num_states, mdp.num_actions
    by_state = mdp.transitions[np.arange(actions * states).reshape(actions, states).T.reshape(-1)]
    unsigned = np.dtype(f"u{by_state.indices.itemsize}")  # spares numba the look for negative places, half of its time
    tables = by_state.indptr.view(unsigned), by_state.indices.view(unsigned), by_state.data, np.ascontiguousarray(mdp.R)
    fast = compiled(_jacobi)

    def in_one_pass(values: Floats) -> tuple[Floats, float]:
        after = np.empty_like(values)
        return after, fast(values, after, *tables, mdp.gamma)

    return in_one_pass


def _jacobi(values: Any, after: Any, indptr: Any, indices: Any, data: Any, rewards: Any, gamma: float) -> float:
    states, actions = rewards.shape
    delta = 0.0
    for s in range(states):
        best = -math.inf
        for a in range(actions):
            ahead = 0.0
            for k in range(indptr[s * actions + a], indptr[s * actions + a + 1]):
                ahead += data[k] * values[indices[k]]
            best = max(best, gamma * ahead + rewards[s, a])
        delta = max(delta, abs(best - values[s]))
        after[s] = best
    return delta


def _in_place(mdp: MDP) -> BackUp:
    """A sweep that reads the newest values, over lists, or compiled where there is much to do."""
    flat = outcomes_of(mdp)
    tables: tuple[Any, ...] = (flat.offsets, flat.probabilities, flat.successors, np.ascontiguousarray(mdp.R))
    fast = worth_compiling(flat.probabilities.size)
    back_up: Any = compiled(_gauss_seidel) if fast else _gauss_seidel
    tables = tables if fast else tuple(table.tolist() for table in tables)

    def sweep(values: Floats) -> tuple[Floats, float]:
        after = values.copy() if fast else values.tolist()
        back_up(after, *tables, mdp.gamma)
        return np.asarray(after), _distance(np.asarray(after), values)

    return sweep


def _gauss_seidel(values: Any, offsets: Any, probabilities: Any, successors: Any, rewards: Any, gamma: float) -> None:
    for s in range(len(values)):
        row, pay = offsets[s], rewards[s]
        if row[0] == row[-1]:  # terminal
            continue
        best = -math.inf
        for a in range(len(pay)):
            ahead = 0.0
            for k in range(row[a], row[a + 1]):
                ahead += probabilities[k] * values[successors[k]]
            best = max(best, pay[a] + gamma * ahead)
        values[s] = best


def _by_urgency(mdp: MDP, start: Floats, tolerance: float) -> Iterator[tuple[Floats, float]]:
    """Backups in the order of urgency; yields after as many as there are states, and at the end."""
    flat, back = outcomes_of(mdp), predecessors_of(mdp)
    offsets, probabilities, successors = flat.offsets.tolist(), flat.probabilities.tolist(), flat.successors.tolist()
    rewards, values, gamma = mdp.R.tolist(), start.tolist(), mdp.gamma
    ways, sources, shares = back.indptr.tolist(), back.indices.tolist(), back.data.tolist()
    urgency = np.where(mdp.terminal, 0.0, np.abs(mdp.q(start).max(1) - start)).tolist()
    queue = [(-urgent, s) for s, urgent in enumerate(urgency) if urgent >= tolerance]
    heapq.heapify(queue)
    backups, largest = 0, 0.0
    while queue:
        negated, s = heapq.heappop(queue)
        if -negated != urgency[s]:  # it was backed up, or grew more urgent, since it was put there
            continue
        best = max(
            pay + gamma * sum(probabilities[k] * values[successors[k]] for k in range(lo, hi))
            for pay, lo, hi in zip(rewards[s], offsets[s][:-1], offsets[s][1:], strict=True)
        )
        change, values[s], urgency[s] = abs(best - values[s]), best, 0.0
        for k in range(ways[s], ways[s + 1]):
            source = sources[k]
            urgency[source] += gamma * shares[k] * change
            if urgency[source] >= tolerance:
                heapq.heappush(queue, (-urgency[source], source))
        backups, largest = backups + 1, max(largest, change)
        if backups % len(values) == 0:
            yield np.array(values), largest
            largest = 0.0
    yield np.array(values), largest
