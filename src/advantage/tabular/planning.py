"""Planning: what is optimal, or what a policy is worth, where the model is known.

Bounds. With Δ = max_s |(T V)(s) − V(s)|, T V(s) = max_a Q(s, a), the values V lie within Δ/(1 − γ) of V*, and a policy
that is greedy in V loses at most 2γΔ/(1 − γ) in any state (Williams & Baird 1993; Puterman 1994, theorem 6.3.1).
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from advantage.errors import UserError
from advantage.tabular.arrays import Floats, whole
from advantage.tabular.mdp import MDP, check_model
from advantage.tabular.sweeps import (
    KEPT,
    KEPT_NUMBERS,
    TOLERANCE,
    Sweep,
    Sweeps,
    evaluation_sweeps,
    exact_evaluation_sweeps,
    modified_policy_iteration_sweeps,
    policy_iteration_sweeps,
    prioritized_sweeps,
    value_iteration_sweeps,
)

MAX_SWEEPS = 1_000_000


@dataclass(frozen=True)
class Solution:
    """What planning found.

    Attributes:
        values: (S,) in units of reward; 0 in terminal states.
        q: (S, A) R + γ P V.
        policy: (S, A): the greedy one, its probability spread evenly over ties; of an evaluation the one evaluated.
        iterations: sweeps; of (modified) policy iteration improvements.
        residual: max_s of how far V is from its Bellman equation.
        bound: what the greedy policy loses at most in any state, 2γ·residual/(1 − γ); of an evaluation the largest
            error of a value, residual/(1 − γ). inf at γ = 1.
        sweeps: those that were kept; their numbers tell where a gap is.
    """

    values: Floats
    q: Floats
    policy: Floats
    iterations: int
    residual: float
    bound: float
    sweeps: tuple[Sweep, ...] = field(repr=False)

    @property
    def advantages(self) -> Floats:
        """(S, A) A = Q − V; Σ_a π(a|s) A(s, a) = 0 for the policy that V belongs to."""
        return self.q - self.values[:, None]

    @property
    def history(self) -> list[dict[str, Any]]:
        """An entry a sweep: kind, sweep, delta, residual, values, q, policy; made of the kept sweeps when asked for."""
        return [sweep.json() for sweep in self.sweeps]


Progress: TypeAlias = Callable[[Sweep], None]


def policy_evaluation(
    mdp: MDP,
    policy: Any,
    *,
    tolerance: float = TOLERANCE,
    values: Any = None,
    max_sweeps: int = MAX_SWEEPS,
    history: bool | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Values of a policy by sweeps of its Bellman equation.

        V(s) ← Σ_a π(a|s) Σ_s' P(s'|s, a) [R(s, a, s') + γ V(s')],   until no value changes by `tolerance`

    Args:
        mdp: the model.
        policy: (S, A) π(a|s).
        tolerance: > 0, in units of reward.
        values: (S,) to begin with; 0 unless given.
        max_sweeps: after which it gives up.
        history: whether every sweep is kept. None where there are at most 10,000 states, until their V, Q and policies
            are 50 million numbers (5,555 sweeps of 1,000 states and 4 actions; 555 of 10,000): behind these only the
            last one is, and a warning says from which on. True keeps all, whatever it takes.
        progress: called with every sweep.

    Raises:
        UserError: `policy` is none; γ = 1 and it cannot end from some state; no convergence in `max_sweeps`.

    Source: Sutton & Barto 2018, section 4.1.
    """
    sweeps = evaluation_sweeps(mdp, policy, tolerance=tolerance, values=values)
    return _run(sweeps, mdp, "policy_evaluation", max_sweeps, history, progress)


def exact_policy_evaluation(mdp: MDP, policy: Any) -> Solution:
    """Values of a policy as the solution of V = R_π + γ P_π V.

    Raises:
        UserError: `policy` is none; γ = 1 and it cannot end from some state.

    Source: Sutton & Barto 2018, section 4.1.
    """
    sweeps = exact_evaluation_sweeps(mdp, policy)
    return _run(sweeps, mdp, "exact_policy_evaluation", 1, None, None)


def policy_iteration(
    mdp: MDP,
    *,
    evaluation: str = "iterative",
    tolerance: float = TOLERANCE,
    values: Any = None,
    max_sweeps: int = MAX_SWEEPS,
    history: bool | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Evaluates a policy, makes it greedy in its own values, and again, until that changes nothing.

    Args:
        mdp: the model.
        evaluation: "iterative" by sweeps, "exact" by solving the linear system.
        tolerance: > 0; stops where no action gains more than that, in units of reward.
        values, max_sweeps, history, progress: as in `policy_evaluation`.

    Raises:
        UserError: a bad argument; γ = 1 and a policy on the way cannot end; no convergence.

    Source: Howard 1960; Sutton & Barto 2018, section 4.3.
    """
    sweeps = policy_iteration_sweeps(mdp, evaluation=evaluation, tolerance=tolerance, values=values)
    return _run(sweeps, mdp, "policy_iteration", max_sweeps, history, progress)


def modified_policy_iteration(
    mdp: MDP,
    *,
    evaluations: int = 5,
    tolerance: float = TOLERANCE,
    values: Any = None,
    max_sweeps: int = MAX_SWEEPS,
    history: bool | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Policy iteration that evaluates each policy by a few sweeps only.

    Args:
        mdp: the model.
        evaluations: sweeps of evaluation after each improvement, ≥ 0; 0 is value iteration.
        tolerance, values, max_sweeps, history, progress: as in `policy_evaluation`.

    Raises:
        UserError: a bad argument; no convergence.

    Source: Puterman & Shin 1978.
    """
    sweeps = modified_policy_iteration_sweeps(mdp, evaluations=evaluations, tolerance=tolerance, values=values)
    return _run(sweeps, mdp, "modified_policy_iteration", max_sweeps, history, progress)


def value_iteration(
    mdp: MDP,
    *,
    order: str = "synchronous",
    tolerance: float = TOLERANCE,
    values: Any = None,
    max_sweeps: int = MAX_SWEEPS,
    history: bool | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Sweeps of the optimality equation.

        V(s) ← max_a Σ_s' P(s'|s, a) [R(s, a, s') + γ V(s')],   until no value changes by `tolerance`

    Args:
        mdp: the model.
        order: "synchronous" reads the values of the sweep before, "in_place" those that are newest (Gauss–Seidel).
        tolerance, values, max_sweeps, history, progress: as in `policy_evaluation`.

    Raises:
        UserError: a bad argument; no convergence (at γ = 1 there may be none).

    Source: Bellman 1957; Sutton & Barto 2018, section 4.4.
    """
    sweeps = value_iteration_sweeps(mdp, order=order, tolerance=tolerance, values=values)
    return _run(sweeps, mdp, "value_iteration", max_sweeps, history, progress)


def prioritized_sweeping(
    mdp: MDP,
    *,
    tolerance: float = TOLERANCE,
    values: Any = None,
    max_sweeps: int = MAX_SWEEPS,
    history: bool | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Backs up the state whose Bellman residual may be largest, then makes its predecessors more urgent.

        urgency(s) += γ max_a P(s'|s, a) |change of V(s')|

    The urgency bounds the residual from above, so that at the end every residual is below `tolerance`. A sweep is as
    many backups as there are states.

    Args:
        mdp: the model.
        tolerance, values, max_sweeps, history, progress: as in `policy_evaluation`.

    Raises:
        UserError: a bad argument; no convergence.

    Source: Moore & Atkeson 1993.
    """
    sweeps = prioritized_sweeps(mdp, tolerance=tolerance, values=values)
    return _run(sweeps, mdp, "prioritized_sweeping", max_sweeps, history, progress)


def lines(every: float = 1.0) -> Progress:
    """A `progress` that prints a line to standard error every so many seconds."""
    last = time.monotonic()

    def show(sweep: Sweep) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            print(f"sweep {sweep.number:,}: largest change {sweep.delta:.3g}", file=sys.stderr, flush=True)

    return show


def _run(
    sweeps: Sweeps, mdp: MDP, name: str, max_sweeps: int, history: bool | None, progress: Progress | None
) -> Solution:
    check_model(mdp)
    max_sweeps, most = whole("max_sweeps", max_sweeps, 1), _kept(mdp, history)
    kept, improvements, last = list[Sweep](), 0, None
    for last in sweeps:
        kept += [last] if len(kept) < most else []
        improvements += last.kind == "improvement"
        if progress is not None:
            progress(last)
        if not math.isfinite(last.delta):
            raise UserError(f"{name}: the values grow beyond all bounds (sweep {last.number}); give gamma < 1")
        if last.number > max_sweeps:
            raise UserError(
                f"{name} has not converged in {max_sweeps:,} sweeps: a value still changes by {last.delta:.3g};"
                f" give gamma < 1 (it is {mdp.gamma:g}), a larger tolerance or max_sweeps"
            )
    assert last is not None
    if kept and kept[-1] is not last:
        warnings.warn(
            f"{name} made {last.number:,} sweeps; history holds those up to {kept[-1].number:,}, and the last:"
            " history=True keeps all, history=False none",
            stacklevel=3,
        )
        kept.append(last)
    residual = last.residual
    loss = residual * (1.0 if last.kind == "evaluation" else 2.0 * mdp.gamma)
    bound = loss / (1.0 - mdp.gamma) if mdp.gamma < 1.0 else math.inf
    iterations = improvements or last.number
    return Solution(last.values, last.q, last.policy, iterations, residual, bound, tuple(kept))


def _kept(mdp: MDP, history: bool | None) -> float:
    """How many sweeps are kept."""
    if history is not None:
        return math.inf if history else 0
    size = mdp.num_states * (1 + 2 * mdp.num_actions)
    return max(KEPT_NUMBERS // size, 1) if mdp.num_states <= KEPT else 0
