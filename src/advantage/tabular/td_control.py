"""Control: how to act, learnt by acting.

All methods learn action values Q, act on them ε-greedily or by softmax, play whole episodes, bootstrap where an episode
is truncated and nowhere behind a termination. They take an `MDP` or a Gymnasium environment whose observations and
actions are Discrete.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from advantage.errors import UserError
from advantage.tabular.arrays import Floats, numbers, plain
from advantage.tabular.learning import MAX_STEPS, Course, Learned, Lesson, learn
from advantage.tabular.prediction import traces, waiting
from advantage.tabular.schedules import Decay, Rate, as_decay
from advantage.tabular.updates import (
    DOUBLE_Q_LEARNING,
    EXPECTED_SARSA,
    N_STEP_SARSA,
    Q_LEARNING,
    SARSA,
    SARSA_LAMBDA,
    Method,
)
from advantage.tabular.worlds import World, world_of


def q_learning(
    mdp_or_env: Any,
    *,
    episodes: int,
    alpha: Rate,
    epsilon: Rate | None = None,
    temperature: Rate | None = None,
    gamma: float | None = None,
    seed: int = 0,
    initial: Any = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """Learns the best action values, whatever it does meanwhile.

        Q(s, a) ← Q(s, a) + α [r + γ max_b Q(s', b) − Q(s, a)]

    Args:
        mdp_or_env: an `MDP`, or a Gymnasium environment.
        episodes: how many are played.
        alpha: step size in (0, 1], a number or a `Decay`.
        epsilon: share in [0, 1] of actions that are drawn evenly, a number or a `Decay`; the others are greedy, ties
            broken evenly.
        temperature: > 0, in its place: π(a|s) ∝ exp(Q(s, a) / temperature). One of the two is given.
        gamma: discount; None for the MDP's own, 0.99 of an environment.
        seed: of the random streams tabular/actions and tabular/outcomes, and of the environment.
        initial: Q to begin with, a number or (S, A); one above all returns makes every action be tried (optimistic).
        max_steps: at which an episode is truncated.
        compiled: True by numba, False never; None after 3,000,000 steps where numba is there and many are to come. The
            numbers are the same.
        snapshots: how many are kept, evenly over the episodes.

    Raises:
        UserError: an argument out of range.

    Source: Watkins 1989; Sutton & Barto 2018, section 6.5.
    """
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    return _learn(Q_LEARNING, world, (), alpha, epsilon, temperature, initial, course)


def double_q_learning(
    mdp_or_env: Any,
    *,
    episodes: int,
    alpha: Rate,
    epsilon: Rate | None = None,
    temperature: Rate | None = None,
    gamma: float | None = None,
    seed: int = 0,
    initial: Any = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """Q-learning with two tables: one chooses the next action, the other judges it, a coin decides which.

        Q₁(s, a) ← Q₁(s, a) + α [r + γ Q₂(s', argmax_b Q₁(s', b)) − Q₁(s, a)],   or with 1 and 2 exchanged

    The maximum of noisy values is too large on average; this one is not. It acts on, and returns, the mean of both.

    Args: as `q_learning`; the coins are of the stream tabular/coins.

    Source: van Hasselt 2010; Sutton & Barto 2018, section 6.7.
    """
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    second = _initial(world, initial)
    return _learn(DOUBLE_Q_LEARNING, world, (second,), alpha, epsilon, temperature, initial, course)


def sarsa(
    mdp_or_env: Any,
    *,
    episodes: int,
    alpha: Rate,
    epsilon: Rate | None = None,
    temperature: Rate | None = None,
    gamma: float | None = None,
    seed: int = 0,
    initial: Any = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """Learns the action values of the very policy that acts, its exploration included.

        Q(s, a) ← Q(s, a) + α [r + γ Q(s', a') − Q(s, a)],   a' the action that is taken next

    Args: as `q_learning`.

    Source: Rummery & Niranjan 1994; Sutton & Barto 2018, section 6.4.
    """
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    return _learn(SARSA, world, (), alpha, epsilon, temperature, initial, course)


def expected_sarsa(
    mdp_or_env: Any,
    *,
    episodes: int,
    alpha: Rate,
    epsilon: Rate | None = None,
    temperature: Rate | None = None,
    gamma: float | None = None,
    seed: int = 0,
    initial: Any = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """SARSA without the noise of the next action.

        Q(s, a) ← Q(s, a) + α [r + γ Σ_b π(b|s') Q(s', b) − Q(s, a)]

    ε = 0 is Q-learning.

    Args: as `q_learning`.

    Source: van Seijen et al. 2009; Sutton & Barto 2018, section 6.6.
    """
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    return _learn(EXPECTED_SARSA, world, (), alpha, epsilon, temperature, initial, course)


def n_step_sarsa(
    mdp_or_env: Any,
    *,
    episodes: int,
    n: int = 4,
    alpha: Rate,
    epsilon: Rate | None = None,
    temperature: Rate | None = None,
    gamma: float | None = None,
    seed: int = 0,
    initial: Any = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """SARSA that looks n steps ahead.

        Q(s_t, a_t) ← Q(s_t, a_t) + α [r_t + … + γ^{n−1} r_{t+n−1} + γ^n Q(s_{t+n}, a_{t+n}) − Q(s_t, a_t)]

    Args: as `q_learning`; `n` ≥ 1, 1 is `sarsa`.

    Source: Sutton & Barto 2018, section 7.2.
    """
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    return _learn(N_STEP_SARSA, world, waiting(n), alpha, epsilon, temperature, initial, course)


def sarsa_lambda(
    mdp_or_env: Any,
    *,
    episodes: int,
    lam: float = 0.9,
    alpha: Rate,
    trace: str = "accumulating",
    epsilon: Rate | None = None,
    temperature: Rate | None = None,
    gamma: float | None = None,
    seed: int = 0,
    initial: Any = 0.0,
    max_steps: int = MAX_STEPS,
    compiled: bool | None = None,
    snapshots: int = 50,
) -> Learned:
    """SARSA by eligibility traces; the traces are those of `td_lambda`, one for each state and action.

    Args: as `q_learning`; `lam` in [0, 1], 0 is `sarsa`; `trace` "accumulating", "replacing" or "dutch".

    Source: Sutton & Barto 2018, section 12.7.
    """
    world = world_of(mdp_or_env, gamma, seed)
    course = Course(episodes, seed, max_steps, compiled, snapshots)
    memory = traces(world.num_states, world.num_actions, lam, trace)
    return _learn(SARSA_LAMBDA, world, memory, alpha, epsilon, temperature, initial, course)


def _learn(
    method: Method,
    world: World,
    memory: tuple[Any, ...],
    alpha: Rate,
    epsilon: Rate | None,
    temperature: Rate | None,
    initial: Any,
    course: Course,
) -> Learned:
    name, explore = _exploration(epsilon, temperature)
    size = as_decay("alpha", alpha, 0.0, 1.0, open_low=True)
    learnt = _initial(world, initial)
    acted_on = learnt.copy() if method.coins else learnt  # of two tables, their mean
    return learn(world, Lesson(method, name, acted_on, learnt, memory, explore, size), course)


def _exploration(epsilon: Rate | None, temperature: Rate | None) -> tuple[str, Decay]:
    if (epsilon is None) == (temperature is None):
        raise UserError(f"epsilon is {epsilon} and temperature {temperature}; give one of the two")
    if temperature is None:
        return "epsilon_greedy", as_decay("epsilon", epsilon, 0.0, 1.0)
    decay = as_decay("temperature", temperature, 0.0, float("inf"), open_low=True)
    if decay.floor == 0.0:
        raise UserError(f"temperature falls to 0 in {temperature}; give it a floor above 0")
    return "softmax", decay


def _initial(world: World, initial: Any) -> Floats:
    shape = (world.num_states, world.num_actions)
    given = plain("initial", initial)
    table = np.broadcast_to(numbers("initial", given, shape if given.ndim else ()), shape).copy()
    table[world.terminal] = 0.0
    return table
