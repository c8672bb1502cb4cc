"""The loop of every model-free method: act, see what follows, learn from it.

It works through a block of random numbers. One row of it begins an episode or makes one step; between two blocks, and
wherever the caller wants to look, all that is under way lies in `Clock`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from advantage.tabular.compiled import compiled
from advantage.tabular.primitives import primitives
from advantage.tabular.updates import GOING, TRUNCATED, Method

# A state below 0 stands for the time between two episodes: `s < 0` is the one comparison that tells an episode's first
# row from its steps. No world has such a state; one that is played is checked for it (worlds.py).
BETWEEN = -1


class Clock(NamedTuple):
    """Where learning stands.

    Attributes:
        row, steps: of the block: the next row of random numbers, and steps made since its first.
        state, action: what comes next; state BETWEEN between two episodes.
        t, total: steps and rewards of the present episode.
        episode: how many are finished.
        explore, alpha: ε or temperature, and step size, of the moment.
    """

    row: int = 0
    steps: int = 0
    state: int = BETWEEN
    action: int = 0
    t: int = 0
    total: float = 0.0
    episode: int = 0
    explore: float = 0.0
    alpha: float = 0.0


@functools.cache
def loop(method: Method, behaviour: str, of_states: bool, fast: bool) -> Any:
    """The loop over a model in memory; the same numbers whether it is compiled or not."""
    of = primitives(fast)
    update = method.update(of, behaviour)
    run = looping(of.choose[behaviour], of.move, of.begin, compiled(update) if fast else update, method, of_states)
    return compiled(run) if fast else run


def looping(choose: Any, move: Any, begin: Any, update: Any, method: Method, of_states: bool) -> Any:
    """The loop over whatever `begin` and `move` lead through."""
    ahead, coins = method.ahead, method.coins

    def run(behaviour, table, memory, world, draws, knobs, limit, gamma, clock, log, stop):  # type: ignore[no-untyped-def]
        """Goes on until the block is used up or `stop` episodes are finished; returns the clock.

        The arguments are flat tuples, which lists and numba both take: what is acted on, what learns, and its memory;
        the outcomes of the world; random numbers by row; ε (or temperature) and α, each by step or by episode; the
        longest episode; γ; the clock; returns and lengths of the episodes; the episode to stop at.
        """
        offsets, cumulative, starts, successors, rewards, endings = world
        for_actions, for_outcomes, for_coins = draws
        explorations, explore_by_step, alphas, alpha_by_step = knobs
        returns, lengths = log
        first, steps, s, a, t, total, episode, explore, alpha = clock
        # A row is a step, or begins an episode. `begun` counts the latter, so that row − begun is the number of steps.
        by_step, begun = explore_by_step or alpha_by_step, first - steps
        coin, a_next = 0.0, 0
        for row in range(first, len(for_actions)):
            if s < 0:  # BETWEEN
                if episode == stop:
                    return row, row - begun, s, a, t, total, episode, explore, alpha
                explore = explorations[row - begun if explore_by_step else episode]
                alpha = alphas[row - begun if alpha_by_step else episode]
                s, t, total = begin(starts, for_outcomes[row]), 0, 0.0
                a = choose(behaviour, s, explore, for_actions[row])
                begun += 1
                continue
            if by_step:
                explore = explorations[row - begun] if explore_by_step else explore
                alpha = alphas[row - begun] if alpha_by_step else alpha
            k = move(offsets, cumulative, s, a, for_outcomes[row])
            s_next, r, status = successors[k], rewards[k], endings[k]
            if t + 1 == limit and status == GOING:
                status = TRUNCATED
            if ahead:
                a_next = choose(behaviour, s_next, explore, for_actions[row])
            if coins:
                coin = for_coins[row]
            if of_states:
                update(behaviour, table, memory, s, 0, r, s_next, 0, status, alpha, gamma, explore, t, coin)
            else:
                update(behaviour, table, memory, s, a, r, s_next, a_next, status, alpha, gamma, explore, t, coin)
            total += r
            t += 1
            if status == GOING:
                a = a_next if ahead else choose(behaviour, s_next, explore, for_actions[row])
                s = s_next
            else:
                returns[episode], lengths[episode] = total, t
                episode += 1
                s = BETWEEN
        row = len(for_actions)
        return row, row - begun, s, a, t, total, episode, explore, alpha

    return run
