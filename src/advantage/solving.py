"""`advantage solve`: an environment whose transitions are known, solved by one method, beside what is exact."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from advantage import tabular
from advantage.control.targets import resolve
from advantage.errors import UserError, nearest
from advantage.runs.streams import Streams
from advantage.settings import plain_value
from advantage.tabular import MDP, Decay, GridWorld, Learned, Solution
from advantage.tabular.arrays import Floats, Ints
from advantage.tabular.gridworld import Cell
from advantage.tabular.learning import Snapshot
from advantage.tabular.planning import lines
from advantage.tabular.sweeps import KEPT

MAPS = ("4x4", "8x8")  # of FrozenLake
PLANNING = (
    "policy_evaluation",
    "exact_policy_evaluation",
    "policy_iteration",
    "modified_policy_iteration",
    "value_iteration",
    "prioritized_sweeping",
)
PREDICTION = ("monte_carlo", "td0", "n_step_td", "td_lambda")
CONTROL = ("q_learning", "double_q_learning", "sarsa", "expected_sarsa", "n_step_sarsa", "sarsa_lambda")
ON_POLICY = CONTROL[2:]
METHODS = PLANNING + PREDICTION + CONTROL
DEFAULTS: Mapping[str, Any] = {
    "episodes": 20_000,
    "alpha": Decay(0.5, 0.02, 0.002, shape="inverse"),
    "epsilon": Decay(1.0, 0.1, 0.9995),
    # The accumulating trace of a state seen again and again tends to 1/(1 − γλ); times α = 0.5 the values diverge.
    "trace": "replacing",
}
NOT_SET = {"mdp", "mdp_or_env", "policy", "seed", "gamma", "history", "progress", "values"}
CURVE = 200  # points of a curve
LARGE = 50_000  # states beyond which a policy is evaluated by sweeps
DRAWN = 1_024  # states up to which a grid is shown
LONGEST = 200  # steps of a video, where the environment has no limit
RANDOM = "the policy that draws actions evenly"


@dataclass(frozen=True)
class Board:
    """States as they lie in the plane: (rows, columns) of their numbers, and what the picture is of."""

    title: str
    states: Ints


@dataclass(frozen=True)
class Problem:
    """An environment as a table, and how it is drawn.

    Attributes:
        mdp: the process.
        arrows: a sign an action.
        boards: none where it has no shape.
        labels: what stands in the place of a value, by state.
        time_limit: steps of an episode, which is no part of the process; None for no limit.
        make: builds the environment for pictures; None where there is none to build.
    """

    name: str
    mdp: MDP
    arrows: tuple[str, ...]
    boards: tuple[Board, ...]
    labels: Mapping[int, str]
    time_limit: int | None = None
    make: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Solved:
    """What a method found, beside what is exact.

    Attributes:
        found: the result of the method.
        settings: those it was given.
        facts: name, number, of what; in order.
        curve: columns of equal length over sweeps or episodes.
        clock: "sweep" or "episode".
    """

    problem: Problem
    method: str
    found: Solution | Learned
    settings: Mapping[str, Any]
    facts: Mapping[str, float | int | None]
    curve: Mapping[str, list[float | None]]
    clock: str


def solve(
    target: str, method: str, gamma: float | None, env_args: Mapping[str, str], given: Mapping[str, str], seed: int
) -> Solved:
    """Builds the environment, runs the method and measures it against exact values.

    Args:
        target: `gridworld`, or a Gymnasium id.
        method: one of METHODS.
        gamma: discount; None for 0.99, of the grid world 0.9.
        env_args, given: arguments of the environment and settings of the method, as text.
        seed: of the methods that sample.

    Raises:
        UserError: an unknown method, setting or environment, one without a table P, a value out of range.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}: {nearest(method, METHODS)}")
    function = getattr(tabular, method)
    settings = _settings(function, method, given)
    problem = problem_of(target, env_args, gamma)
    return _solved(function, problem, method, settings, seed)


def _solved(function: Callable[..., Any], problem: Problem, method: str, settings: dict[str, Any], seed: int) -> Solved:
    """Runs the method. All that can be refused is refused before it learns, so that nothing learnt is lost."""
    even = np.full((problem.mdp.num_states, problem.mdp.num_actions), 1 / problem.mdp.num_actions)
    evaluates = method in PREDICTION or "evaluation" in method
    arguments = (problem.mdp, even) if evaluates else (problem.mdp,)
    if method in PLANNING:
        watched = problem.mdp.num_states > KEPT and "progress" in inspect.signature(function).parameters
        settings |= {"progress": lines()} if watched else {}
        best = _best(problem) if evaluates else None
        with warnings.catch_warnings(record=True) as cut:
            warnings.simplefilter("always", UserWarning)
            found = function(*arguments, **settings)
        for warning in cut:
            print(warning.message, file=sys.stderr)
        return _planned(problem, method, found, settings, best)
    best = _best(problem)
    limit = {"max_steps": problem.time_limit} if problem.time_limit and "max_steps" not in settings else {}
    exact = _values(problem.mdp, even) if evaluates else None
    found = function(*arguments, seed=seed, **limit, **settings)
    if evaluates:
        return _predicted(problem, method, found, settings, even, exact, best)
    return _learnt(problem, method, found, settings, best)


def play(problem: Problem, policy: Floats, seed: int) -> list[int]:
    """States of an episode of the model, the first included."""
    mdp, rng = problem.mdp, Streams(seed).rng("tabular/video", 0)
    states = [int(rng.choice(mdp.num_states, p=mdp.start))]
    while not mdp.terminal[states[-1]] and len(states) <= (problem.time_limit or LONGEST):
        action = int(rng.choice(mdp.num_actions, p=policy[states[-1]]))
        row = mdp.transitions[[action * mdp.num_states + states[-1]]]
        chances = np.asarray(row if isinstance(row, np.ndarray) else row.toarray()).reshape(-1)
        states.append(int(rng.choice(mdp.num_states, p=chances / chances.sum())))
    return states


# --- environments ---


def problem_of(target: str, env_args: Mapping[str, str], gamma: float | None) -> Problem:
    """The environment that a user names, as a table.

    Raises:
        UserError: there is none of that name, it has no table P, or does not take an argument.
    """
    if target == "gridworld":
        return _gridworld(env_args, 0.9 if gamma is None else gamma)
    arguments = {name: plain_value(value) for name, value in env_args.items()}
    if target.startswith("FrozenLake") and "map_name" in arguments and arguments["map_name"] not in MAPS:
        raise UserError(f"map_name is {arguments['map_name']!r}; {nearest(arguments['map_name'], MAPS)}")
    env = resolve(target, 1, arguments, None).constructors[0]()
    try:
        mdp = MDP.from_gymnasium(env, 0.99 if gamma is None else gamma)
        boards, labels, arrows = _layout(env.unwrapped, mdp)
        limit = env.spec.max_episode_steps if env.spec is not None else None
    finally:
        env.close()
    return Problem(
        target, mdp, arrows, boards, labels, limit, resolve(target, 1, arguments, "rgb_array").constructors[0]
    )


def _gridworld(given: Mapping[str, str], gamma: float) -> Problem:
    known: dict[str, Callable[[str], Any]] = {
        "rows": int,
        "cols": int,
        "slip": float,
        "rewards": _rewards,
        "walls": _cells,
        "terminal": _cells,
        "start": _cell,
    }
    arguments: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise UserError(f"gridworld has no argument {name!r}: {nearest(name, known)}")
        try:
            arguments[name] = known[name](text)
        except ValueError:
            raise UserError(f"{name} is {text!r}; {_FORM[name]}") from None
    world = GridWorld(**arguments, gamma=gamma)
    labels = {world.state(cell): "██" for cell in world.walls}
    labels |= {world.state(cell): f"{world.rewards.get(cell, 0.0):+g}" for cell in world.ends}
    states = np.arange(world.num_states).reshape(world.rows, world.cols)
    return Problem("gridworld", world, ("↑", "→", "↓", "←"), (Board("", states),), labels)


_FORM = {
    "rows": "write a whole number",
    "cols": "write a whole number",
    "slip": "write a number in [0, 1]",
    "rewards": "write cells and values as 0,7:1;3,3:-1",
    "walls": "write cells as 1,1;2,1",
    "terminal": "write cells as 1,1;2,1",
    "start": "write a cell as 7,0",
}


def _cell(text: str) -> Cell:
    row, col = (int(part) for part in text.split(","))
    return row, col


def _cells(text: str) -> list[Cell]:
    return [_cell(part) for part in text.split(";") if part.strip()]


def _rewards(text: str) -> dict[Cell, float]:
    pairs = [part.split(":") for part in text.split(";") if part.strip()]
    return {_cell(cell): float(value) for cell, value in pairs}


def _layout(env: Any, mdp: MDP) -> tuple[tuple[Board, ...], dict[int, str], tuple[str, ...]]:
    """How Gymnasium's environments lie in the plane, and what their actions are; others have no shape."""
    kind = type(env).__name__
    if kind == "FrozenLakeEnv":
        letters = [bytes(letter).decode() for letter in env.desc.reshape(-1)]
        labels = {s: letter for s, letter in enumerate(letters) if letter in "HG"}
        return (Board("", np.arange(env.nrow * env.ncol).reshape(env.nrow, env.ncol)),), labels, ("←", "↓", "→", "↑")
    if kind == "CliffWalkingEnv":
        states = np.arange(np.prod(env.shape)).reshape(env.shape)
        labels = dict.fromkeys(states[3, 1:-1].tolist(), "cliff") | {int(states[3, -1]): "G"}
        return (Board("", states),), labels, ("↑", "→", "↓", "←")
    if kind == "TaxiEnv":
        return _taxi(env), {}, ("↓", "↑", "→", "←", "p", "d")
    return (), {}, tuple(str(action) for action in range(mdp.num_actions))


def _taxi(env: Any) -> tuple[Board, ...]:
    """The taxi's place in the plane, a board for each place of a passenger who wants to the second stand."""
    where = ("at red", "at green", "at yellow", "at blue", "in the taxi")
    boards = []
    for passenger in (0, 2, 3, 4):
        states = [[env.encode(row, col, passenger, 1) for col in range(5)] for row in range(5)]
        boards.append(Board(f"passenger {where[passenger]}, to green", np.array(states)))
    return tuple(boards)


# --- what came of it ---


def _settings(function: Callable[..., Any], method: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a method: the defaults that it takes, then what was given.

    Raises:
        UserError: it has none of that name, or a word stands where a number belongs.
    """
    parameters = {name: it for name, it in inspect.signature(function).parameters.items() if name not in NOT_SET}
    settings = {name: value for name, value in DEFAULTS.items() if name in parameters}
    if method == "monte_carlo":
        del settings["alpha"]  # the plain mean
    for name, text in given.items():
        if name not in parameters:
            raise UserError(f"{method} has no setting {name!r}: {nearest(name, parameters)}")
        value, kind = plain_value(text), str(parameters[name].annotation)
        if "bool" in kind and not isinstance(value, bool):
            raise UserError(f"{name} is {text!r}; it must be true or false")
        if ("bool" not in kind and isinstance(value, bool)) or (isinstance(value, str) and "str" not in kind):
            raise UserError(f"{name} is {text!r}; it must be {'a word' if kind == 'str' else 'a number'}")
        settings[name] = value
    if "temperature" in given and "epsilon" not in given:  # given both, the method refuses them
        settings["epsilon"] = None
    return settings


def _planned(
    problem: Problem, method: str, found: Solution, settings: Mapping[str, Any], best: Solution | None
) -> Solved:
    facts: dict[str, Any] = {"iterations": found.iterations, "residual": found.residual, "bound": found.bound}
    facts |= _returns(problem, found.policy, (best or found).policy)
    picked = np.unique(np.linspace(0, max(len(found.sweeps) - 1, 0), CURVE).round().astype(int))
    sweeps = [found.sweeps[place] for place in picked if found.sweeps]
    curve: dict[str, list[float | None]] = {
        "sweep": [sweep.number for sweep in sweeps],
        "delta": [sweep.delta for sweep in sweeps],
        "error": [float(np.abs(sweep.values - found.values).max()) for sweep in sweeps],
    }
    return Solved(problem, method, found, settings, facts, curve, "sweep")


def _predicted(
    problem: Problem,
    method: str,
    found: Learned,
    settings: Mapping[str, Any],
    policy: Floats,
    exact: Floats | None,
    best: Solution,
) -> Solved:
    facts: dict[str, float | None] = {
        "episodes": len(found.returns),
        "steps": found.steps,
        **_errors(problem.mdp, found.values, exact),
    }
    facts |= _returns(problem, policy, best.policy)
    curve = _curve(found.snapshots) | _courses(_errors(problem.mdp, it.values, exact) for it in found.snapshots)
    return Solved(problem, method, found, settings, facts, curve, "episode")


def _learnt(problem: Problem, method: str, found: Learned, settings: Mapping[str, Any], best: Solution) -> Solved:
    mdp = problem.mdp

    def errors(q: Floats | None, behaviour: Floats | None) -> dict[str, float | None]:
        """Of an on-policy method: against the values of the policy that acts at this moment."""
        if method not in ON_POLICY:
            return _errors(mdp, q, best.q)
        values = None if behaviour is None else _values(mdp, behaviour)
        return _errors(mdp, q, None if values is None else mdp.q(values))

    each = (errors(snapshot.q, _acting(snapshot, settings)) for snapshot in found.snapshots)
    curve = _curve(found.snapshots) | _courses(each)
    curve["greedy_return"] = [_expected_return(mdp, snapshot.policy) for snapshot in found.snapshots]
    facts: dict[str, float | None] = {
        "episodes": len(found.returns),
        "steps": found.steps,
        **errors(found.q, found.behaviour),
    }
    facts |= _returns(problem, found.policy, best.policy)
    return Solved(problem, method, found, settings, facts, curve, "episode")


def optimum(mdp: MDP) -> Solution:
    """The optimal values and policy, to ten digits."""
    # At γ = 1 nothing contracts: what has not converged in that many sweeps most often never will.
    sweeps = 1_000_000 if mdp.gamma < 1.0 else 100_000
    return tabular.modified_policy_iteration(mdp, evaluations=20, tolerance=1e-10, history=False, max_sweeps=sweeps)


def _best(problem: Problem) -> Solution:
    """The optimum.

    Raises:
        UserError: there is none.
    """
    try:
        return optimum(problem.mdp)
    except UserError as error:
        if problem.mdp.gamma < 1.0:
            raise
        raise UserError(
            f"{problem.name} has no best policy to compare with at gamma 1: values grow without end;"
            " give --gamma below 1, or states that end an episode"
        ) from error


def _acting(snapshot: Snapshot, settings: Mapping[str, Any]) -> Floats | None:
    """The policy of the moment; None where there are too many states to have kept it."""
    if snapshot.q is None:
        return None
    if "temperature" in settings:
        return np.asarray(tabular.softmax_policy(snapshot.q / snapshot.explore))
    return tabular.epsilon_greedy_policy(snapshot.q, snapshot.explore)


def _curve(snapshots: tuple[Snapshot, ...]) -> dict[str, list[float | None]]:
    names = {"episode": "episode", "steps": "steps", "mean_return": "mean_return"}
    return {name: [getattr(snapshot, it) for snapshot in snapshots] for name, it in names.items()}


def _courses(each: Iterable[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    rows = list(each)
    return {name: [row[name] for row in rows] for name in ("largest_error", "rms_error")}


def _errors(mdp: MDP, table: Floats | None, exact: Floats | None) -> dict[str, float | None]:
    """Over the states in which an episode can be: the largest error, and the root of the mean square.

    None where the table was not kept, or what is exact does not exist.
    """
    if table is None or exact is None:
        return {"largest_error": None, "rms_error": None}
    here = tabular.reachable(mdp) & ~mdp.terminal
    wrong = np.abs(np.asarray(table) - exact)[here]
    return {"largest_error": float(wrong.max()), "rms_error": float(np.sqrt((wrong**2).mean()))}


def _returns(problem: Problem, policy: Floats, best: Floats) -> dict[str, float | None]:
    """J of a policy and of the optimal one; with a time limit also their undiscounted return within it."""
    mdp = problem.mdp
    found = {"return": _expected_return(mdp, policy), "optimal_return": _expected_return(mdp, best)}
    if problem.time_limit:
        found["return_in_time"] = tabular.return_within(mdp, policy, problem.time_limit)
        found["optimal_return_in_time"] = tabular.return_within(mdp, best, problem.time_limit)
    return found


def _expected_return(mdp: MDP, policy: Floats | None) -> float | None:
    """None where no policy was kept, or it has no value."""
    values = None if policy is None else _values(mdp, policy)
    return None if values is None else float(mdp.start @ values)


def _values(mdp: MDP, policy: Floats) -> Floats | None:
    """Exact values of a policy; None where γ = 1 and it never ends."""
    try:
        if mdp.num_states > LARGE:
            return tabular.policy_evaluation(mdp, policy, history=False).values
        return tabular.policy_values(mdp, policy)
    except UserError:
        return None
