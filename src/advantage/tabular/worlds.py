"""Where experience comes from: an MDP that is held in memory, or an environment that is played.

The loop sees both as a table of outcomes. An environment has one outcome, which each step writes anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from advantage.errors import RunFailed, UserError
from advantage.tabular.arrays import MOST, Bools, real, whole
from advantage.tabular.mdp import MDP
from advantage.tabular.outcomes import outcomes_of
from advantage.tabular.updates import GOING, TERMINATED, TRUNCATED

DEFAULT_GAMMA = 0.99  # of an environment, which has none of its own


@dataclass(frozen=True)
class World:
    """What the loop needs to know.

    Attributes:
        tables: (offsets, cumulative, starts, successors, rewards, endings); arrays, or lists that a step writes.
        terminal: (S,) where it is known.
        begin, move: of an environment; None where the loop has its own.
    """

    num_states: int
    num_actions: int
    gamma: float
    tables: tuple[Any, ...]
    terminal: Bools
    begin: Any = None
    move: Any = None


def world_of(source: Any, gamma: float | None, seed: int) -> World:
    """The world of an MDP, or of a Gymnasium environment whose observations and actions are numbers.

    Raises:
        UserError: it is neither; it has more states than a table holds; γ or the seed is out of range.
    """
    asked = None if gamma is None else real("gamma", gamma, 0.0, 1.0)
    if isinstance(source, MDP):
        return _in_memory(source, source.gamma if asked is None else asked)
    if not (hasattr(source, "step") and hasattr(source, "reset") and hasattr(source, "observation_space")):
        raise UserError(f"{source!r} is neither an MDP nor a Gymnasium environment")
    return _played(source, DEFAULT_GAMMA if asked is None else asked, whole("seed", seed, 0))


def _in_memory(mdp: MDP, gamma: float) -> World:
    flat = outcomes_of(mdp)
    states = np.flatnonzero(mdp.start > 0)
    starts = (np.cumsum(mdp.start[states]), states)
    tables = (flat.offsets, flat.cumulative, starts, flat.successors, flat.rewards, flat.ends.astype(np.int64))
    return World(mdp.num_states, mdp.num_actions, gamma, tables, mdp.terminal)


def _played(env: Any, gamma: float, seed: int) -> World:
    states, first_state = _discrete(env, "observation")
    actions, first_action = _discrete(env, "action")
    if states * actions > MOST:
        raise UserError(
            f"{env} has {states:,} states and {actions:,} actions; a table holds {MOST:,} values, for more of them take"
            " a method with a network, dqn or ppo"
        )
    successors, rewards, endings, seeds = [0], [0.0], [GOING], [seed]
    step, reset = env.step, env.reset

    def begin(starts: Any, uniform: float) -> int:
        observation, _ = reset(seed=seeds.pop()) if seeds else reset()
        try:
            s = index(observation) - first_state
        except TypeError:
            raise _stray(env, observation) from None
        if not 0 <= s < states:
            raise _stray(env, observation)
        return s

    def move(offsets: Any, cumulative: Any, s: int, a: int, uniform: float) -> int:
        observation, reward, terminated, truncated, _ = step(a + first_action)
        try:
            s_next = index(observation) - first_state
        except TypeError:  # int() would take 1.5 for state 1
            raise _stray(env, observation) from None
        try:
            finite = math.isfinite(reward)
        except (TypeError, OverflowError):
            finite = False
        if not 0 <= s_next < states:  # below 0 it would be taken for the time between two episodes
            raise _stray(env, observation)
        if not finite:
            raise RunFailed(
                f"{env} paid a reward of {reward!r} for action {a} in state {s}; rewards must be finite numbers"
            )
        successors[0], rewards[0] = s_next, float(reward)
        endings[0] = TERMINATED if terminated else TRUNCATED if truncated else GOING
        return 0

    tables = ((), (), (), successors, rewards, endings)
    return World(states, actions, gamma, tables, np.zeros(states, np.bool_), begin, move)


def _stray(env: Any, observation: Any) -> RunFailed:
    return RunFailed(f"{env} gave the observation {observation}, which lies outside its {env.observation_space}")


def _discrete(env: Any, role: str) -> tuple[int, int]:
    """Size and first number of a discrete space."""
    space = getattr(env, f"{role}_space")
    if not (hasattr(space, "n") and hasattr(space, "start")):
        raise UserError(f"the {role} space is {space}; a table needs one that is Discrete")
    return int(space.n), int(space.start)
