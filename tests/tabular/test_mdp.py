"""What an MDP takes and refuses, what Gymnasium's tables become, and how a grid world moves."""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import scipy.sparse as sparse
import torch

from advantage.errors import UserError
from advantage.tabular import MDP, GridWorld, policy_values, value_iteration
from tests.tabular.processes import random_mdp

TWO: Any = np.array([[[0.5, 0.5], [0.0, 1.0]]])  # one action, two states
LAST = np.array([False, True])


def wrong(table: Any, place: tuple[int, ...], value: float) -> Any:
    changed = np.array(table, float)
    changed[place] = value
    return changed


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "sum": ({"P": wrong(TWO, (0, 0, 1), 0.4)}, r"P\[0, 0\] sums to 0.9"),
    "negative": ({"P": wrong(wrong(TWO, (0, 0, 1), 1.1), (0, 0, 0), -0.1)}, r"P\[0, 0, 0\] is -0.1"),
    "nan probability": ({"P": wrong(TWO, (0, 0, 0), np.nan)}, r"P\[0, 0, 0\] is nan"),
    "nan reward": ({"R": np.array([[np.nan], [0.0]])}, r"R\[0, 0\] is nan"),
    "nan reward of a transition": ({"R": wrong(np.zeros((1, 2, 2)), (0, 0, 1), np.inf)}, r"R\[0, 0, 1\] is inf"),
    "shape of R": ({"R": np.zeros((1, 2))}, r"R has shape \(1, 2\); it must be \(2, 1\)"),
    "cubic R": ({"R": np.zeros((2, 2, 2))}, r"R has shape \(2, 2, 2\)"),
    "shape of P": ({"P": np.ones((2, 2))}, r"P has shape \(2, 2\)"),
    "gamma": ({"gamma": 1.01}, "gamma is 1.01; it must lie in"),
    "gamma below": ({"gamma": -0.1}, "gamma is -0.1"),
    "gamma nan": ({"gamma": float("nan")}, "gamma is nan"),
    "terminal": ({"terminal": np.zeros(3, bool)}, r"terminal has shape \(3,\)"),
    "terminal by number": ({"terminal": np.array([0, 1])}, "must be bool"),
    "nowhere to begin": ({"terminal": np.ones(2, bool)}, "every state is terminal"),
    "start": ({"start": [0.5, 0.4]}, "start sums to 0.9"),
    "start at the end": ({"start": [0.5, 0.5]}, "start has 0.5 on state 1, which is terminal"),
}


NO_NUMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "gamma none": ({"gamma": None}, "gamma is None; it must be a number"),
    "gamma word": ({"gamma": "abc"}, "gamma is 'abc'; it must be a number"),
    "gamma true": ({"gamma": True}, "gamma is True; it must be a number"),
    "ragged P": ({"P": [[[0.5, 0.5], [1.0]]]}, "P is no table of numbers"),
    "words in P": ({"P": [[["0.5", "0.5"], ["0", "1"]]]}, "P is no table of numbers.*holds <U3"),
    "mixed P": ({"P": [[[0.5, "x"], [0, 1]]]}, "P is no table of numbers"),
    "complex P": ({"P": TWO * 1j}, "P is no table of numbers.*complex128"),
    "one sparse P": (
        {"P": sparse.csr_array(TWO[0])},
        r"P is one sparse array of \(2, 2\); give a dense one, or a list",
    ),
    "ragged R": ({"R": [[1.0], [1.0, 2.0]]}, "R is no table of numbers"),
    "one sparse R": ({"R": sparse.csr_array(np.ones((2, 1)))}, "R is one sparse array"),
    "sparse R of a dense P": ({"R": [sparse.csr_array(TWO[0])]}, "R is a list of sparse arrays and P is dense"),
}


@pytest.mark.parametrize(("changes", "told"), NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_what_is_no_number_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        MDP(**({"P": TWO, "R": np.zeros((2, 1)), "gamma": 0.9, "terminal": LAST} | changes))
    assert "\n" not in str(raised.value)


def test_numbers_of_numpy_are_numbers() -> None:
    world = GridWorld(
        np.int64(2), np.int32(3), {(np.int64(0), 2): np.float32(0.5)}, gamma=np.float32(0.5), slip=np.float64(0.25)
    )
    same = GridWorld(2, 3, {(0, 2): 0.5}, gamma=0.5, slip=0.25)
    assert (world.rows, world.cols, world.rewards) == (2, 3, {(0, 2): 0.5}) and type(world.gamma) is float
    np.testing.assert_array_equal(world.R, same.R)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 2)), 0.0, "V"])
def test_a_backup_of_values_of_another_shape(values: Any) -> None:
    with pytest.raises(UserError, match="values"):
        MDP(TWO, np.zeros((2, 1)), 0.9, LAST).q(values)


@pytest.mark.parametrize(("changes", "told"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_what_is_refused(kind: str, changes: dict[str, Any], told: str) -> None:
    arguments: dict[str, Any] = {"P": TWO, "R": np.zeros((2, 1)), "gamma": 0.9, "terminal": LAST} | changes
    if kind == "sparse" and np.ndim(arguments["P"]) == 3:
        arguments["P"] = [sparse.csr_array(part) for part in arguments["P"]]
    with pytest.raises(ValueError, match=told) as raised:
        MDP(**arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["dense", "sparse", "torch"])
def test_rows_of_terminal_states_are_ignored(kind: str) -> None:
    P, R = np.array([[[0.5, 0.5], [np.nan, -7.0]]]), np.array([[[1.0, 3.0], [np.nan, np.inf]]])
    kinds: dict[str, Any] = {
        "dense": (P, R),
        "sparse": ([sparse.csr_array(P[0])], [sparse.csr_array(R[0])]),
        "torch": (torch.tensor(P), torch.tensor(R)),
    }
    mdp = MDP(*kinds[kind], 0.5, LAST)
    np.testing.assert_allclose(mdp.R, [[2.0], [0.0]])
    np.testing.assert_allclose(policy_values(mdp, np.ones((2, 1))), [2 / (1 - 0.25), 0.0])


def test_mean_rewards_are_those_of_the_transitions() -> None:
    mdp = random_mdp(0, 0.9)
    means = MDP(mdp.P, mdp.R, 0.9, mdp.terminal, mdp.start)
    thin = MDP(
        [sparse.coo_array(part) for part in mdp.P], mdp.transition_rewards.reshape(mdp.P.shape), 0.9, mdp.terminal
    )
    V = np.arange(6.0)
    for other in (means, thin):
        np.testing.assert_allclose(other.q(V), mdp.q(V))


def test_the_callers_arrays_stay_as_they_are() -> None:
    P, R, terminal = TWO.copy(), np.ones((2, 1)), LAST.copy()
    MDP(P, R, 0.9, terminal)
    assert (P == TWO).all() and (R == 1).all() and (terminal == LAST).all()


def test_exchanged_parts() -> None:
    for mdp in (random_mdp(0, 0.9), GridWorld(30, 30)):
        other = mdp.replace(gamma=0.5)
        assert other.gamma == 0.5 and mdp.gamma == 0.9
        np.testing.assert_allclose(other.R, mdp.R)
        np.testing.assert_allclose(mdp.replace(R=np.ones_like(mdp.R)).R[~mdp.terminal], 1.0)
        with pytest.raises(UserError, match="no 'gama' to replace: did you mean gamma"):
            mdp.replace(gama=0.9)
        with pytest.raises(UserError, match="P cannot be replaced"):
            mdp.replace(P=mdp.P)


@pytest.mark.parametrize(
    ("env", "arguments", "ends"),
    [
        ("FrozenLake-v1", {"is_slippery": True}, {5, 7, 11, 12, 15}),
        ("FrozenLake-v1", {"is_slippery": False}, {5, 7, 11, 12, 15}),
        ("CliffWalking-v1", {}, {47}),
        ("CliffWalking-v1", {"is_slippery": True}, {47}),
        ("Taxi-v4", {}, {0, 85, 410, 475}),
        ("Taxi-v4", {"is_rainy": True, "fickle_passenger": True}, {0, 85, 410, 475}),
    ],
)
def test_gymnasiums_tables_against_their_own_bellman_equation(env: str, arguments: Any, ends: set[int]) -> None:
    """Value iteration over the table of tuples, in which the flag of each outcome stops the bootstrap."""
    inner: Any = gym.make(env, **arguments).unwrapped
    mdp = MDP.from_gymnasium(gym.make(env, **arguments), 0.95)
    assert set(np.flatnonzero(mdp.terminal).tolist()) == ends
    V = np.zeros(mdp.num_states)
    rows = [(s, a, *outcome) for s in inner.P for a in inner.P[s] for outcome in inner.P[s][a]]
    s, a, p, following, reward, ended = (np.array(column) for column in zip(*rows, strict=True))
    for _ in range(600):
        q = np.zeros((mdp.num_states, mdp.num_actions))
        np.add.at(q, (s, a), p * (reward + 0.95 * np.where(ended, 0.0, V[following])))
        V = q.max(1)
    begun, here = inner.initial_state_distrib > 0, mdp.start > 0
    assert (begun == here).all()
    np.testing.assert_allclose(value_iteration(mdp, tolerance=1e-11).values[here], V[here], atol=1e-8)


def test_a_state_that_is_passed_and_also_ended_in_becomes_two() -> None:
    class Loop:
        """Two states: from 0 to 1 without an end, from 1 to 1 with one, which pays 1."""

        observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(1)
        initial_state_distrib = np.array([1.0, 0.0])
        P = {0: {0: [(1.0, 1, 0.0, False)]}, 1: {0: [(1.0, 1, 1.0, True)]}}  # noqa: RUF012

        @property
        def unwrapped(self) -> Any:
            return self

    mdp = MDP.from_gymnasium(Loop(), 0.5)
    assert mdp.num_states == 3 and mdp.terminal.tolist() == [False, False, True]
    np.testing.assert_allclose(value_iteration(mdp).values, [0.5, 1.0, 0.0])


@pytest.mark.parametrize("env", ["CartPole-v1", "Blackjack-v1"])
def test_an_environment_without_a_table(env: str) -> None:
    with pytest.raises(ValueError, match=f"{env} has no table P"):
        MDP.from_gymnasium(gym.make(env), 0.9)
    with pytest.raises(ValueError, match="give gymnasium.make"):
        MDP.from_gymnasium(env, 0.9)


def test_the_grid_world_of_the_documents() -> None:
    world = GridWorld()
    assert (world.rows, world.cols, world.gamma, world.num_actions) == (8, 8, 0.9, 4)
    assert np.flatnonzero(world.terminal).tolist() == [7, 27]
    values = value_iteration(world).values.reshape(8, 8)
    for row, col in np.ndindex(8, 8):  # the way around the trap is never longer than the straight one
        if (row, col) not in {(0, 7), (3, 3)}:
            assert values[row, col] == pytest.approx(0.9 ** (row + 7 - col - 1), abs=1e-7)
    np.testing.assert_allclose(world.start, ~world.terminal / 62)


def test_moves_slips_and_walls() -> None:
    world = GridWorld(3, 3, rewards={(0, 0): 5.0}, walls=[(1, 2)], start=(2, 2), terminal=[(0, 2)], slip=0.2)
    P, at = world.P, world.state
    up, right, down, left = range(4)
    np.testing.assert_allclose(
        P[up, at((1, 1)), [at((0, 1)), at((1, 1)), at((1, 0))]], [0.8, 0.1, 0.1]
    )  # right: a wall
    np.testing.assert_allclose(P[left, at((2, 0)), [at((2, 0)), at((1, 0))]], [0.9, 0.1])  # left and down: the edge
    assert world.q(np.zeros(9))[at((1, 0)), up] == pytest.approx(0.8 * 5)
    assert world.q(np.zeros(9))[at((0, 0)), left] == 0  # staying is not entering; only down-slips leave
    assert world.terminal.tolist() == [False, False, True, False, False, True, False, False, False]
    assert world.start[at((2, 2))] == 1.0
    assert (P[:, :, at((1, 2))] == 0).all() and down != right


def test_a_state_and_its_cell() -> None:
    world = GridWorld(2, 3, rewards={(0, 2): 1.0})
    assert [world.cell(s) for s in range(6)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert world.cell(cast(Any, np.int64(4))) == (1, 1) and world.state(world.cell(5)) == 5
    for wrong in (6, 999, -1, 1.7, True, None):
        with pytest.raises(ValueError, match=f"state is {wrong}; it must be a whole number from 0 to 5"):
            world.cell(cast(Any, wrong))
    with pytest.raises(ValueError, match="state is 1; it must be a whole number from 0 to 0"):
        GridWorld(1, 1, rewards={}, terminal=[]).cell(1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"rows": 4, "cols": 4}, r"\(0, 7\) lies outside 4 × 4"),
        ({"walls": [(0, 7)]}, r"rewards: \(0, 7\) is a wall"),
        ({"slip": 1.5}, "slip is 1.5"),
        ({"rows": 0}, "rows is 0"),
        ({"rewards": {(0, 0): float("nan")}}, r"the reward of \(0, 0\) is nan; it must be finite"),
        ({"rewards": [1.0]}, r"rewards is \[1.0\]; it must be \{\(row, column\): value\}"),
        ({"walls": [(1.5, 1.5)]}, r"walls: \(1.5, 1.5\) is no cell"),
        ({"walls": (1, 1)}, "walls: 1 is no cell; write"),
        ({"walls": 3}, "walls is 3; it must be a list of cells"),
        ({"rows": 2.5}, "rows is 2.5"),
        ({"rows": True}, "rows is True"),
        ({"rows": 100_000, "cols": 100_000}, "cols is 10000000000; it must be a whole number from 1 to 100,000,000"),
        ({"slip": None}, "slip is None; it must be a number"),
        ({"slip": True}, "slip is True; it must be a number"),
        ({"gamma": 2.0}, "gamma is 2.0"),
        ({"start": (0, 7)}, "terminal"),
    ],
)
def test_a_bad_grid(arguments: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GridWorld(**arguments)


def test_a_large_grid_is_sparse_and_the_same() -> None:
    small, large = GridWorld(gamma=0.9, slip=0.3), GridWorld(21, 20, gamma=0.9, slip=0.3)
    assert isinstance(small.P, np.ndarray) and isinstance(large.P, list)
    thin = MDP([sparse.csr_array(part) for part in small.P], small.R, 0.9, small.terminal)
    np.testing.assert_allclose(value_iteration(thin).values, value_iteration(small).values, atol=1e-7)
