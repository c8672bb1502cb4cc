"""Prediction: what a policy is worth, learnt from its episodes.

All methods begin with values of `initial`, play whole episodes, bootstrap where an episode is truncated and nowhere
behind a termination. They take an `MDP` or a Gymnasium environment whose observations and actions are Discrete.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from advantage.errors import UserError, nearest
from advantage.tabular.arrays import MOST, distributions, numbers, real, whole
from advantage.tabular.learning import MAX_STEPS, Course, Learned, Lesson, learn
from advantage.tabular.schedules import Rate, as_decay
from advantage.tabular.updates import MONTE_CARLO, N_STEP_TD, TD, TD_LAMBDA, Method
from advantage.tabular.worlds import World, world_of

VISITS = ("first", "every")
TRACES = ("accumulating", "replacing", "dutch")


def monte_carlo(
    mdp_or_env: Any,
    policy: Any,
    *,
    episodes: int,
    visit: str = "first",
    alpha: Rate | None = None,
    gamma: float | None = None,
    seed: int = 0,
    initial: float = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """Values as means of the returns that followed.

        V(s) ← V(s) + α [G_t − V(s)],   G_t = r_t + γ G_{t+1},   for the first, or every, t with s_t = s

    A truncated episode is bootstrapped with the present V of its last state: without that, returns that are cut are
    biased.

    Args:
        mdp_or_env: an `MDP`, or a Gymnasium environment.
        policy: (S, A) π(a|s).
        episodes: how many are played.
        visit: "first" visits of a state in an episode count, or "every".
        alpha: step size in (0, 1], a number or a `Decay`; None for 1/N(s), the plain mean.
        gamma: discount; None for the MDP's own, 0.99 of an environment.
        seed: of the random streams tabular/actions and tabular/outcomes, and of the environment.
        initial: values to begin with.
        max_steps: at which an episode is truncated.
        compiled: True by numba, False never; None after 3,000,000 steps where numba is there and many are to come. The
            numbers are the same.
        snapshots: how many are kept, evenly over the episodes.

    Raises:
        UserError: an argument out of range.

    Source: Sutton & Barto 2018, section 5.1.
    """
    if visit not in VISITS:
        raise UserError(f"unknown visit {visit!r}: {nearest(visit, VISITS)}")
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    counts = np.full(world.num_states, -1), np.zeros(world.num_states, np.int64)
    memory = (np.zeros(course.max_steps, np.int64), np.zeros(course.max_steps), *counts, visit == "every")
    return _learn(MONTE_CARLO, world, policy, memory, 0.0 if alpha is None else alpha, initial, course)


def td0(
    mdp_or_env: Any,
    policy: Any,
    *,
    episodes: int,
    alpha: Rate,
    gamma: float | None = None,
    seed: int = 0,
    initial: float = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """Values from one step and the value of the next state.

        V(s) ← V(s) + α [r + γ V(s') − V(s)]

    Args: as `monte_carlo`; `alpha` in (0, 1].

    Source: Sutton 1988; Sutton & Barto 2018, section 6.1.
    """
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    return _learn(TD, world, policy, (), alpha, initial, course)


def n_step_td(
    mdp_or_env: Any,
    policy: Any,
    *,
    episodes: int,
    n: int = 4,
    alpha: Rate,
    gamma: float | None = None,
    seed: int = 0,
    initial: float = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """Values from n steps and the value of the state behind them.

        V(s_t) ← V(s_t) + α [r_t + γ r_{t+1} + … + γ^{n−1} r_{t+n−1} + γ^n V(s_{t+n}) − V(s_t)]

    n = 1 is `td0`; n beyond the longest episode is Monte Carlo of every visit, at the end of the episode.

    Args: as `monte_carlo`; `n` ≥ 1, `alpha` in (0, 1].

    Source: Sutton & Barto 2018, section 7.1.
    """
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    return _learn(N_STEP_TD, world, policy, waiting(n), alpha, initial, course)


def td_lambda(
    mdp_or_env: Any,
    policy: Any,
    *,
    episodes: int,
    lam: float = 0.9,
    alpha: Rate,
    trace: str = "accumulating",
    gamma: float | None = None,
    seed: int = 0,
    initial: float = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """Values by eligibility traces: each TD error reaches the states that led to it.

        V(x) ← V(x) + α δ z(x) for every x,   z(x) ← γλ z(x), and for the present state s
        accumulating z(s) + 1 · replacing 1 · dutch z(s) + 1 − α z(s)

    Dutch traces come with the correction that belongs to them, true online TD(λ): after every step the values are
    those of the forward view, of all λ-returns so far. λ = 0 is `td0`. A trace below 1e-12 is dropped.

    Args: as `monte_carlo`; `lam` in [0, 1], `alpha` in (0, 1], `trace` "accumulating", "replacing" or "dutch".

    Source: Sutton 1988; Singh & Sutton 1996 (replacing); van Seijen et al. 2016 (dutch).
    """
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    return _learn(TD_LAMBDA, world, policy, traces(world.num_states, 1, lam, trace), alpha, initial, course)


def waiting(n: int) -> tuple[Any, ...]:
    """The memory of an n-step method: the steps whose return is not complete.

    Raises:
        UserError: n is no whole number from 1.
    """
    n = whole("n", n, 1, MOST)
    return np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n), n


def traces(states: int, actions: int, lam: float, kind: str) -> tuple[Any, ...]:
    """The memory of a method with traces: z, where it is not 0, how many, the value that was bootstrapped last.

    Raises:
        UserError: λ outside [0, 1], or an unknown kind.
    """
    decay = real("lam", lam, 0.0, 1.0)
    if kind not in TRACES:
        raise UserError(f"unknown trace {kind!r}: {nearest(kind, TRACES)}")
    places = np.zeros(states * actions, np.int64), np.zeros(states * actions, np.int64)
    trace = np.zeros((states, actions))
    return trace, *places, np.zeros(1, np.int64), np.zeros(1), decay, TRACES.index(kind)


def _learn(
    method: Method, world: World, policy: Any, memory: tuple[Any, ...], alpha: Rate, initial: float, course: Course
) -> Learned:
    table = distributions("policy", policy, (world.num_states, world.num_actions))
    plain_mean = method is MONTE_CARLO and alpha == 0.0
    size = as_decay("alpha", alpha, 0.0, 1.0, open_low=not plain_mean)
    learnt = np.full((world.num_states, 1), float(numbers("initial", initial, ())))
    learnt[world.terminal] = 0.0
    explore = as_decay("epsilon", 0.0, 0.0, 1.0)
    lesson = Lesson(method, "given", np.cumsum(table, axis=1), learnt, memory, explore, size, table)
    return learn(world, lesson, course)
