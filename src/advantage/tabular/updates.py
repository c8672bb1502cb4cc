"""What each method learns from one step: the equations of prediction and control.

Every function here makes an update that changes the tables in place. It is given the table that is acted on, the table
that learns, a memory of its own, then s, a, r, s', a', the status, α, γ, ε or temperature, t, and a coin in [0, 1). A
table is (S, A) of action values, or (S, 1) of state values, then a = 0; t counts the steps of the episode from 0. The
status is GOING, TERMINATED, where nothing follows, or TRUNCATED, where s' is bootstrapped and then left. An update runs
over lists, or compiled over arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

GOING, TERMINATED, TRUNCATED = 0, 1, 2
FAINT = 1e-12  # a trace below it is dropped
ACCUMULATING, REPLACING, DUTCH = 0, 1, 2


class Method(NamedTuple):
    """An update and what it needs of the loop.

    Attributes:
        update: its factory, of the primitives and of a behaviour's name.
        ahead: whether the next action is chosen before the update, which then learns of it (on-policy methods).
        coins: whether it tosses coins, which decide which of two tables learns; it acts on the mean of both.
    """

    update: Callable[[Any, str], Any]
    ahead: bool = False
    coins: bool = False


def _sample(of: Any, behaviour: str) -> Any:
    def update(_b, table, _m, s, a, r, s_next, a_next, status, alpha, gamma, _x, _t, _c):  # type: ignore[no-untyped-def]
        target = r if status == TERMINATED else r + gamma * table[s_next][a_next]
        table[s][a] += alpha * (target - table[s][a])

    return update


def _q_learning(of: Any, behaviour: str) -> Any:
    best = of.best

    def update(_b, table, _m, s, a, r, s_next, _a, status, alpha, gamma, _x, _t, _c):  # type: ignore[no-untyped-def]
        target = r if status == TERMINATED else r + gamma * best(table, s_next)
        table[s][a] += alpha * (target - table[s][a])

    return update


def _expected(of: Any, behaviour: str) -> Any:
    expect = of.expect[behaviour]

    def update(_b, table, _m, s, a, r, s_next, _a, status, alpha, gamma, explore, _t, _c):  # type: ignore[no-untyped-def]
        target = r if status == TERMINATED else r + gamma * expect(table, s_next, explore)
        table[s][a] += alpha * (target - table[s][a])

    return update


def _double_q(of: Any, behaviour: str) -> Any:
    argmax = of.argmax

    def update(both, one, memory, s, a, r, s_next, _a, status, alpha, gamma, _x, _t, coin):  # type: ignore[no-untyped-def]
        two = memory[0]
        chooser, judge = (one, two) if coin < 0.5 else (two, one)
        target = r if status == TERMINATED else r + gamma * judge[s_next][argmax(chooser, s_next)]
        chooser[s][a] += alpha * (target - chooser[s][a])
        both[s][a] = 0.5 * (one[s][a] + two[s][a])

    return update


def _n_step(of: Any, behaviour: str) -> Any:
    def update(_b, table, memory, s, a, r, s_next, a_next, status, alpha, gamma, _x, t, _c):  # type: ignore[no-untyped-def]
        states, actions, rewards, n = memory
        newest = t % n
        states[newest], actions[newest], rewards[newest] = s, a, r
        steps = min(t + 1, n)
        if status == GOING and steps < n:
            return
        gain = 0.0 if status == TERMINATED else table[s_next][a_next]
        for back in range(steps):
            place = (t - back) % n
            gain = rewards[place] + gamma * gain
            if status != GOING:  # every step that is still waiting has its return now
                rewards[place] = gain
        oldest = (t - steps + 1) % n
        if status == GOING:
            table[states[oldest]][actions[oldest]] += alpha * (gain - table[states[oldest]][actions[oldest]])
            return
        for later in range(steps):
            place = (oldest + later) % n
            x, y = states[place], actions[place]
            table[x][y] += alpha * (rewards[place] - table[x][y])

    return update


def _traced(of: Any, behaviour: str) -> Any:
    def update(_b, table, memory, s, a, r, s_next, a_next, status, alpha, gamma, _x, t, _c):  # type: ignore[no-untyped-def]
        trace, states, actions, count, before, lam, kind = memory
        value = table[s][a]
        following = 0.0 if status == TERMINATED else table[s_next][a_next]
        delta = r + gamma * following - value
        if t == 0:
            before[0] = value
        live = 0
        for k in range(count[0]):
            x, y = states[k], actions[k]
            faded = 0.0 if t == 0 else gamma * lam * trace[x][y]
            if faded < FAINT:
                faded = 0.0
            else:
                states[live], actions[live] = x, y
                live += 1
            trace[x][y] = faded
        if trace[s][a] == 0.0:
            states[live], actions[live] = s, a
            live += 1
        count[0] = live
        shift = 0.0
        if kind == ACCUMULATING:
            trace[s][a] += 1.0
        elif kind == REPLACING:
            trace[s][a] = 1.0
        else:
            trace[s][a] += 1.0 - alpha * trace[s][a]
            shift = value - before[0]
        for k in range(live):
            x, y = states[k], actions[k]
            table[x][y] += alpha * (delta + shift) * trace[x][y]
        table[s][a] -= alpha * shift
        before[0] = following

    return update


def _monte_carlo(of: Any, behaviour: str) -> Any:
    def update(_b, table, memory, s, _a, r, s_next, _n, status, alpha, gamma, _x, t, _c):  # type: ignore[no-untyped-def]
        states, rewards, first, visits, every = memory
        states[t], rewards[t] = s, r
        if first[s] < 0:
            first[s] = t
        if status == GOING:
            return
        gain = 0.0 if status == TERMINATED else table[s_next][0]
        for back in range(t + 1):
            at = t - back
            gain = rewards[at] + gamma * gain
            x = states[at]
            if every or first[x] == at:
                visits[x] += 1
                size = alpha if alpha > 0.0 else 1.0 / visits[x]
                table[x][0] += size * (gain - table[x][0])
        for at in range(t + 1):
            first[states[at]] = -1

    return update


SARSA = Method(_sample, ahead=True)
TD = Method(_sample)
Q_LEARNING = Method(_q_learning)
EXPECTED_SARSA = Method(_expected)
DOUBLE_Q_LEARNING = Method(_double_q, coins=True)
N_STEP_SARSA = Method(_n_step, ahead=True)
N_STEP_TD = Method(_n_step)
SARSA_LAMBDA = Method(_traced, ahead=True)
TD_LAMBDA = Method(_traced)
MONTE_CARLO = Method(_monte_carlo)
