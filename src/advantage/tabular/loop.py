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


class Clock(NamedTuple):
    """Where learning stands.

    Attributes:
        row, steps: of the block: the next row of random numbers, and steps made since its first.
        state, action: what comes next; state −1 between two episodes.
        t, total: steps and rewards of the present episode.
        episode: how many are finished.
        explore, alpha: ε or temperature, and step size, of the moment.
    """

    row: int = 0
    steps: int = 0
    state: int = -1
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
    run = looping(
        of.choose[behaviour], of.move, of.begin, compiled(update) if fast else update, method.ahead, of_states
    )
    return compiled(run) if fast else run


def looping(choose: Any, move: Any, begin: Any, update: Any, ahead: bool, of_states: bool) -> Any:
    """The loop over whatever `begin` and `move` lead through."""

    def run(behaviour, table, memory, world, draws, knobs, limit, gamma, clock, log, stop):  # type: ignore[no-untyped-def]
        """Goes on until the block is used up or `stop` episodes are finished; returns the clock."""
        paths, starts, successors, rewards, endings = world
        for_actions, for_outcomes, for_coins = draws
        explorations, explore_by_step, alphas, alpha_by_step = knobs
        returns, lengths = log
        row, steps, s, a, t, total, episode, explore, alpha = clock
        while row < len(for_actions) and episode < stop:
            uniform, outcome = for_actions[row], for_outcomes[row]
            if s < 0:
                explore = explorations[steps if explore_by_step else episode]
                alpha = alphas[steps if alpha_by_step else episode]
                s, t, total = begin(starts, outcome), 0, 0.0
                a = choose(behaviour, s, explore, uniform)
                row += 1
                continue
            if explore_by_step:
                explore = explorations[steps]
            if alpha_by_step:
                alpha = alphas[steps]
            k = move(paths, s, a, outcome)
            s_next, r, status = successors[k], rewards[k], endings[k]
            if status == GOING and t + 1 == limit:
                status = TRUNCATED
            a_next = 0
            if ahead:
                a_next = choose(behaviour, s_next, explore, uniform)
            x, x_next = (0, 0) if of_states else (a, a_next)
            coin = for_coins[row]
            update(behaviour, table, memory, s, x, r, s_next, x_next, status, alpha, gamma, explore, t, coin)
            total += r
            t += 1
            row += 1
            steps += 1
            if status == GOING:
                a = a_next if ahead else choose(behaviour, s_next, explore, uniform)
                s = s_next
            else:
                returns[episode], lengths[episode] = total, t
                episode += 1
                s = -1
        return row, steps, s, a, t, total, episode, explore, alpha

    return run
