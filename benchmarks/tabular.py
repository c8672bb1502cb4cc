"""Tabular methods: environment steps per second, and a sweep of value iteration beside quantecon, on one core.

    python -m benchmarks.tabular

Q-learning and the others learn on FrozenLake-v1 (slippery), Taxi-v4 and CliffWalking-v1, held in memory as an MDP:
plain, and compiled by numba behind a first run that pays for compiling. Through Gymnasium the yardstick is the
environment alone: the same number of steps with actions drawn beforehand, and its resets. The sweep is over a grid of
1000 × 1000 states, 4 actions, 4 successors each, in SciPy's CSR; its share of the memory's bandwidth is what it reads
at least (the CSR arrays, rewards and values) over its time, against a plain sum over an array of that size. Quoted are
medians of alternating runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
import scipy.sparse as sparse

from advantage.tabular import (
    MDP,
    GridWorld,
    double_q_learning,
    expected_sarsa,
    monte_carlo,
    n_step_sarsa,
    n_step_td,
    q_learning,
    sarsa,
    sarsa_lambda,
    td0,
    td_lambda,
)
from advantage.tabular.sweeps import value_iteration_sweeps

ENVIRONMENTS = ("FrozenLake-v1", "Taxi-v4", "CliffWalking-v1")
ACTING: dict[str, Any] = {"alpha": 0.1, "epsilon": 0.1, "max_steps": 200}
METHODS: dict[str, tuple[Any, bool]] = {
    "q_learning": (q_learning, True),
    "double_q_learning": (double_q_learning, True),
    "sarsa": (sarsa, True),
    "expected_sarsa": (expected_sarsa, True),
    "n_step_sarsa, n = 4": (partial(n_step_sarsa, n=4), True),
    "sarsa_lambda, λ = 0.9": (partial(sarsa_lambda, lam=0.9), True),
    "monte_carlo": (monte_carlo, False),
    "td0": (td0, False),
    "n_step_td, n = 4": (partial(n_step_td, n=4), False),
    "td_lambda, λ = 0.9": (partial(td_lambda, lam=0.9), False),
}
SIDE = 1000


def speed(learn: Callable[[int], Any], seconds: float, clock: Callable[[], float]) -> float:
    """Steps per second of a method that is given a number of episodes, over about so many seconds."""
    episodes = 100
    while True:
        begun = clock()
        steps = learn(episodes).steps
        if (took := clock() - begun) > 0.7 * seconds:
            return float(steps / took)
        episodes = int(episodes * min(max(1.2 * seconds / max(took, 1e-3), 1.5), 20.0))


def learner(method: Any, acts: bool, source: Any, compiled: bool | None) -> Callable[[int], Any]:
    """A method as a function of the number of episodes."""
    settings: dict[str, Any] = ACTING if acts else {"alpha": 0.1, "max_steps": 200}
    if acts:
        return lambda episodes: method(source, episodes=episodes, compiled=compiled, snapshots=1, **settings)
    policy = np.full((source.num_states, source.num_actions), 1 / source.num_actions)
    return lambda episodes: method(source, policy, episodes=episodes, compiled=compiled, snapshots=1, **settings)


def alone(env: Any, steps: int) -> Any:
    """An environment by itself, with actions that are drawn beforehand; returns something with its steps."""

    class Played:
        pass

    played: Any = Played()
    actions = np.random.default_rng(0).integers(env.action_space.n, size=steps).tolist()
    env.reset(seed=0)
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    played.steps = steps
    return played


def learning_table(seconds: float, repeat: int, clock: Callable[[], float]) -> None:
    """Steps per second of every method."""
    print("\n| method | environment | plain, M steps/s | numba, M steps/s |\n|---|---|---|---|")
    for name, (method, acts) in METHODS.items():
        for env in ENVIRONMENTS if name == "q_learning" else ENVIRONMENTS[:1]:
            mdp = MDP.from_gymnasium(gym.make(env), 0.99)
            rates = []
            for compiled in (False, True):
                learn = learner(method, acts, mdp, compiled)
                learn(1)
                rates.append(statistics.median(speed(learn, seconds, clock) for _ in range(repeat)) / 1e6)
            print(f"| {name} | {env} | {rates[0]:.2f} | {rates[1]:.1f} |", flush=True)


def gymnasium_table(seconds: float, repeat: int, clock: Callable[[], float]) -> None:
    """Q-learning through Gymnasium against the environment alone."""
    print("\n| through Gymnasium | Q-learning, steps/s | the environment alone | share |\n|---|---|---|---|")
    for name in ENVIRONMENTS:
        pairs = []
        for _ in range(repeat):
            ours = speed(learner(q_learning, True, gym.make(name), False), seconds, clock)
            env = gym.make(name)
            pairs.append((ours, speed(lambda n, env=env: alone(env, 10 * n), seconds, clock)))  # type: ignore[misc]
        ours, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        share = statistics.median(a / b for a, b in pairs)
        print(f"| {name} | {ours:,.0f} | {theirs:,.0f} | {100 * share:.0f} % |", flush=True)


def large_grid() -> MDP:
    """A million states, 4 actions: 0.72 ahead, 0.09 to each side, 0.1 stay."""
    world = GridWorld(SIDE, SIDE, rewards={(0, 7): 1.0}, gamma=0.99, slip=0.2)
    stay = sparse.eye_array(world.num_states, format="csr")
    return MDP([0.9 * part + 0.1 * stay for part in world.P], world.R, 0.99, world.terminal)


def sweep_table(repeat: int, clock: Callable[[], float]) -> None:
    """A synchronous sweep beside quantecon's Bellman operator, and the share of the memory's bandwidth."""
    from quantecon.markov import DiscreteDP

    mdp = large_grid()
    states, actions = mdp.num_states, mdp.num_actions
    order = np.arange(actions * states).reshape(actions, states).T.reshape(-1)
    rewards, by_state = np.ascontiguousarray(mdp.R), sparse.csr_matrix(mdp.transitions)[order]
    pairs = np.divmod(np.arange(actions * states), actions)
    theirs = DiscreteDP(rewards.reshape(-1), by_state, 0.99, *pairs)
    values, out = np.zeros(states), np.empty(states)
    sweeps = value_iteration_sweeps(mdp)
    read = sum(getattr(mdp.transitions, part).nbytes for part in ("data", "indices", "indptr"))
    array = np.ones((read + rewards.nbytes + values.nbytes) // 8)
    rows: dict[str, tuple[Callable[[], Any], list[float]]] = {
        "advantage": (lambda: next(sweeps), []),
        "quantecon": (lambda: theirs.bellman_operator(values, Tv=out), []),
        "a sum over as many bytes": (array.sum, []),
    }
    for _ in range(repeat + 1):
        for call, times in rows.values():
            begun = clock()
            call()
            times.append(clock() - begun)
    floor = statistics.median(rows["a sum over as many bytes"][1][1:])
    print(f"\nCSR arrays {read / 1e6:.0f} MB, with rewards and values {array.nbytes / 1e6:.0f} MB;", end=" ")
    print(f"one core reads {array.nbytes / floor / 1e9:.1f} GB/s")
    print("\n| a sweep of 10⁶ states × 4 actions | ms | share of the bandwidth |\n|---|---|---|")
    for name, (_, times) in rows.items():
        took = statistics.median(times[1:])
        print(f"| {name} | {1e3 * took:.1f} | {100 * floor / took:.0f} % |")


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement of steps (1)")
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--processor-time", action="store_true", help="not the wall's: for a machine with other work")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    clock = time.process_time if options.processor_time else time.perf_counter
    packages = ("numpy", "scipy", "numba", "gymnasium", "quantecon")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages))
    learning_table(options.seconds, options.repeat, clock)
    gymnasium_table(options.seconds, options.repeat, clock)
    sweep_table(10 * options.repeat, clock)


if __name__ == "__main__":
    main()
