"""Planning: against brute force over all policies, against each other, and what a sweep says of itself."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advantage.tabular import (
    MDP,
    GridWorld,
    exact_policy_evaluation,
    greedy,
    modified_policy_iteration,
    policy_evaluation,
    policy_iteration,
    policy_values,
    prioritized_sweeping,
    softmax_policy,
    value_iteration,
)
from advantage.tabular.compiled import installed
from advantage.tabular.sweeps import evaluation_sweeps, policy_iteration_sweeps, value_iteration_sweeps
from tests.tabular.processes import random_logits, random_mdp

METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "policy iteration": (policy_iteration, {}),
    "exact policy iteration": (policy_iteration, {"evaluation": "exact"}),
    "modified policy iteration": (modified_policy_iteration, {"evaluations": 3}),
    "value iteration": (value_iteration, {}),
    "value iteration in place": (value_iteration, {"order": "in_place"}),
    "prioritised sweeping": (prioritized_sweeping, {}),
}
every_method = pytest.mark.parametrize(("method", "settings"), METHODS.values(), ids=METHODS)
SEEDS = st.integers(0, 10_000)


def best_of_all(mdp: MDP) -> Any:
    """V* as the largest value, state by state, of all deterministic policies."""
    choices = itertools.product(range(mdp.num_actions), repeat=mdp.num_states)
    return np.max([policy_values(mdp, np.eye(mdp.num_actions)[list(choice)]) for choice in choices], axis=0)


@every_method
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.95, 1.0])
def test_against_all_policies(method: Any, settings: Any, gamma: float) -> None:
    for seed in range(5):
        mdp = random_mdp(seed, gamma, states=4)
        found = method(mdp, **settings)
        np.testing.assert_allclose(found.values, best_of_all(mdp), atol=1e-6)
        np.testing.assert_allclose(policy_values(mdp, found.policy), best_of_all(mdp), atol=1e-6)
        assert found.residual < 1e-8
        np.testing.assert_allclose(found.q, mdp.q(found.values))
        np.testing.assert_allclose(found.policy.sum(1), 1.0)
        assert not found.values[mdp.terminal].any()


@every_method
@given(seed=SEEDS, gamma=st.sampled_from([0.3, 0.9, 0.99]), tolerance=st.sampled_from([1e-2, 1e-5]))
def test_bounds_hold(method: Any, settings: Any, seed: int, gamma: float, tolerance: float) -> None:
    mdp = random_mdp(seed, gamma, states=8)
    best = policy_iteration(mdp, evaluation="exact", tolerance=1e-10)
    found = method(mdp, tolerance=tolerance, **settings)
    assert found.residual <= tolerance
    assert found.bound == pytest.approx(2 * gamma * found.residual / (1 - gamma))
    assert np.abs(found.values - best.values).max() <= found.residual / (1 - gamma) + 1e-9
    assert (best.values - policy_values(mdp, found.policy)).max() <= found.bound + 1e-9


@given(seed=SEEDS)
def test_evaluations_agree_and_their_bound_holds(seed: int) -> None:
    mdp = random_mdp(seed, 0.9)
    policy = softmax_policy(random_logits(seed, mdp))
    exact, found = exact_policy_evaluation(mdp, policy), policy_evaluation(mdp, policy, tolerance=1e-4)
    error = np.abs(found.values - exact.values).max()
    assert error <= found.bound + 1e-12 and found.bound == pytest.approx(found.residual / 0.1)
    assert exact.residual < 1e-12 and exact.iterations == 1
    np.testing.assert_allclose((policy * exact.advantages).sum(1), 0.0, atol=1e-12)  # Σ_a π A = 0
    assert (found.policy == policy).all()


def test_at_gamma_1_the_bound_is_infinite() -> None:
    assert value_iteration(random_mdp(0, 1.0)).bound == np.inf


def test_ties_are_kept() -> None:
    policy = value_iteration(GridWorld()).policy
    at = GridWorld().state
    assert policy[at((7, 0))].tolist() == [0.5, 0.5, 0.0, 0.0]
    assert policy[at((7, 7))].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert greedy(np.array([[0.0, 0.0, 1e-15], [1.0, 1.0 + 1e-6, 0.0]])).tolist() == [[1 / 3] * 3, [0, 1, 0]]


def test_history_is_a_list_of_plain_entries() -> None:
    world = GridWorld()
    for method, settings in METHODS.values():
        found = method(world, **settings)
        entries = json.loads(json.dumps(found.history))
        assert len(entries) == len(found.sweeps) > 1
        assert {"kind", "sweep", "values", "q", "policy", "delta", "residual"} == set(entries[-1])
        assert np.shape(entries[-1]["q"]) == (64, 4)
        np.testing.assert_array_equal(entries[-1]["values"], found.values)
    kinds = [entry["kind"] for entry in policy_iteration(world).history]
    assert kinds[0] == "evaluation" and kinds[-1] == "improvement" and kinds.count("improvement") > 2


def test_the_first_sweeps_by_hand() -> None:
    """+1 at the right end of a corridor of four: the value walks one cell a sweep, in place all the way at once."""
    world = GridWorld(1, 4, rewards={(0, 3): 1.0}, gamma=0.5)
    first, second, *_ = value_iteration(world).history
    assert first["values"] == [0.0, 0.0, 1.0, 0.0] and first["delta"] == 1.0
    assert second["values"] == [0.0, 0.5, 1.0, 0.0] and second["delta"] == 0.5 and second["residual"] == 0.25
    mirrored = GridWorld(1, 4, rewards={(0, 0): 1.0}, gamma=0.5)
    assert value_iteration(mirrored, order="in_place").history[0]["values"] == [0.0, 1.0, 0.5, 0.25]


def test_large_models_keep_no_history_unless_told() -> None:
    world = GridWorld(101, 100, rewards={(0, 7): 1.0}, gamma=0.5)
    assert value_iteration(world, tolerance=0.1).history == []
    assert value_iteration(GridWorld(), history=False).history == []


def test_the_model_is_exchanged_and_the_values_stay() -> None:
    world, other = GridWorld(), GridWorld(rewards={(0, 7): 1.0, (5, 5): -1.0}, gamma=0.5)
    for sweeps in (value_iteration_sweeps(world), value_iteration_sweeps(world, order="in_place")):
        before = next(sweep for sweep in sweeps if sweep.number == 5)
        after = sweeps.send(other)
        kept = np.where(other.terminal, 0.0, before.values)
        if not np.array_equal(after.values, other.q(kept).max(1)):  # in place: at least begun from there
            assert np.abs(after.values - other.q(kept).max(1)).max() < 0.5
        last = list(sweeps)[-1]
        assert last.mdp is other
        np.testing.assert_allclose(last.values, value_iteration(other).values, atol=1e-7)
    steps = policy_iteration_sweeps(world)
    next(steps), next(steps)
    steps.send(other)
    np.testing.assert_allclose(list(steps)[-1].values, value_iteration(other).values, atol=1e-7)
    with pytest.raises(ValueError, match="must have 64 and 4"):
        sweeps = evaluation_sweeps(world, np.full((64, 4), 0.25))
        next(sweeps)
        sweeps.send(random_mdp(0, 0.9))


def test_values_to_begin_with() -> None:
    world = GridWorld()
    solved = value_iteration(world)
    assert value_iteration(world, values=solved.values).iterations == 1
    assert prioritized_sweeping(world, values=solved.values).iterations == 1


def test_in_place_needs_fewer_sweeps_and_prioritised_sweeping_fewer_backups() -> None:
    world = GridWorld()
    plain, fast = (value_iteration(world, order=order).iterations for order in ("synchronous", "in_place"))
    assert fast < plain and prioritized_sweeping(world).iterations < fast


@pytest.mark.parametrize("method", [value_iteration, modified_policy_iteration, prioritized_sweeping])
def test_what_does_not_converge_is_said(method: Any) -> None:
    forever = MDP(np.ones((1, 1, 1)), np.ones((1, 1)), 1.0, np.zeros(1, bool))
    with pytest.raises(ValueError, match="has not converged in 50 sweeps.*gamma < 1"):
        method(forever, max_sweeps=50)


@pytest.mark.parametrize(
    ("method", "arguments", "told"),
    [
        (value_iteration, {"tolerance": 0.0}, "tolerance is 0"),
        (value_iteration, {"tolerance": True}, "tolerance is True; it must be a number"),
        (value_iteration, {"order": "sync"}, "unknown order 'sync'"),
        (value_iteration, {"order": 3}, "unknown order 3: known: in_place, synchronous"),
        (value_iteration, {"max_sweeps": -5}, "max_sweeps is -5; it must be a whole number from 1"),
        (value_iteration, {"values": "V"}, "values is no table of numbers"),
        (value_iteration, {"values": np.zeros(3)}, r"values has shape \(3,\)"),
        (policy_iteration, {"evaluation": "exakt"}, "did you mean exact"),
        (modified_policy_iteration, {"evaluations": -1}, "evaluations is -1"),
        (policy_evaluation, {"policy": np.ones((64, 4))}, "sums to 4"),
        (policy_evaluation, {"policy": np.full((64, 3), 1 / 3)}, r"policy has shape \(64, 3\)"),
        (exact_policy_evaluation, {"policy": np.full((64, 4), -0.25)}, "at least 0"),
    ],
)
def test_bad_arguments(method: Any, arguments: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        method(GridWorld(), **arguments)


@pytest.mark.parametrize("method", [value_iteration, policy_iteration, modified_policy_iteration, prioritized_sweeping])
def test_what_is_no_model_is_refused(method: Any) -> None:
    with pytest.raises(ValueError, match=r"'FrozenLake-v1' is no MDP; give MDP\(…\)"):
        method("FrozenLake-v1")
    with pytest.raises(ValueError, match="is no MDP"):
        policy_evaluation("FrozenLake-v1", np.ones((1, 1)))


def test_history_is_bounded_and_says_where_it_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    world, size = GridWorld(), 64 * (1 + 2 * 4)
    every = value_iteration(world).sweeps
    monkeypatch.setattr("advantage.tabular.planning.KEPT_NUMBERS", len(every) * size)
    assert len(value_iteration(world).sweeps) == len(every)  # just room enough; no warning, which would be an error
    monkeypatch.setattr("advantage.tabular.planning.KEPT_NUMBERS", 6 * size - 1)
    with pytest.warns(UserWarning, match=f"made {len(every)} sweeps; history holds those up to 5, and the last"):
        cut = value_iteration(world)
    assert [sweep.number for sweep in cut.sweeps] == [1, 2, 3, 4, 5, len(every)]
    assert len(value_iteration(world, history=True).sweeps) == len(every)


def test_evaluation_refuses_what_cannot_end_at_gamma_1() -> None:
    world = GridWorld(gamma=1.0)
    with pytest.raises(ValueError, match="never ends"):
        policy_evaluation(world, np.eye(4)[np.zeros(64, int)])
    even = np.full((64, 4), 0.25)
    found = policy_evaluation(world, even, tolerance=1e-10)
    np.testing.assert_allclose(found.values, exact_policy_evaluation(world, even).values, atol=1e-6)


@pytest.mark.skipif(not installed(), reason="numba is not installed")
def test_the_compiled_sweep_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    world = GridWorld(slip=0.3)
    plain = value_iteration(world, order="in_place")
    monkeypatch.setattr("advantage.tabular.sweeps.worth_compiling", lambda work: True)
    fast = value_iteration(world, order="in_place")
    assert fast.values.tobytes() == plain.values.tobytes() and fast.iterations == plain.iterations


@pytest.mark.slow
def test_a_million_states_with_progress() -> None:
    """Five rows of a thousand by a thousand grid, exactly: far from walls the value is γ^distance."""
    world, seen = GridWorld(1000, 1000, rewards={(0, 7): 1.0}, gamma=0.9), list[int]()
    found = value_iteration(world, tolerance=1e-6, progress=lambda sweep: seen.append(sweep.number))
    assert seen == list(range(1, found.iterations + 1)) and found.history == []
    distance = np.add.outer(np.arange(50), np.abs(np.arange(50) - 7))
    wanted = np.where(distance > 0, 0.9 ** (distance - 1.0), 0.0)
    np.testing.assert_allclose(found.values.reshape(1000, 1000)[:50, :50], wanted, atol=1e-5)
