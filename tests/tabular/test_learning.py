"""Prediction and control: against forward views and exact values, limits that must meet, ends and cuts told apart."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest

from advantage.tabular import (
    MDP,
    Decay,
    GridWorld,
    double_q_learning,
    epsilon_greedy_policy,
    expected_return,
    expected_sarsa,
    monte_carlo,
    n_step_sarsa,
    n_step_td,
    policy_values,
    q_learning,
    return_within,
    sarsa,
    sarsa_lambda,
    softmax_policy,
    td0,
    td_lambda,
    value_iteration,
)
from advantage.tabular.outcomes import outcomes_of
from advantage.tabular.primitives import primitives
from tests.tabular.processes import random_logits, random_mdp
from tests.tabular.scripted import TRUNCATED, Episode, Scripted, always, random_episodes

CONTROL: dict[str, Any] = {
    "q_learning": q_learning,
    "double_q_learning": double_q_learning,
    "sarsa": sarsa,
    "expected_sarsa": expected_sarsa,
    "n_step_sarsa": partial(n_step_sarsa, n=3),
    "sarsa_lambda": partial(sarsa_lambda, lam=0.8),
    "sarsa_lambda dutch": partial(sarsa_lambda, lam=0.8, trace="dutch"),
}
PREDICTION: dict[str, Any] = {
    "monte_carlo": partial(monte_carlo, alpha=0.1),
    "monte_carlo every": partial(monte_carlo, visit="every", alpha=0.1),
    "td0": partial(td0, alpha=0.1),
    "n_step_td": partial(n_step_td, n=3, alpha=0.1),
    "td_lambda": partial(td_lambda, lam=0.8, alpha=0.1),
    "td_lambda replacing": partial(td_lambda, lam=0.8, alpha=0.1, trace="replacing"),
    "td_lambda dutch": partial(td_lambda, lam=0.8, alpha=0.1, trace="dutch"),
}


# --- prediction, from episodes that are known ---


@pytest.mark.parametrize("visit", ["first", "every"])
def test_monte_carlo_is_the_mean_of_returns(visit: str) -> None:
    episodes = [Episode(e.states, e.rewards) for e in random_episodes(0, 50, 8)]
    returns: dict[int, list[float]] = {}
    for episode in episodes:
        for t, s in enumerate(episode.states[:-1]):
            if visit == "every" or s not in episode.states[:t]:
                returns.setdefault(s, []).append(sum(0.9**k * r for k, r in enumerate(episode.rewards[t:])))
    env = Scripted(8, episodes)
    found = monte_carlo(env, always(env), episodes=50, visit=visit, gamma=0.9)
    np.testing.assert_allclose(found.values, [np.mean(returns[s]) for s in range(8)])
    np.testing.assert_allclose(found.returns, [sum(e.rewards) for e in episodes])
    assert found.lengths.tolist() == [len(e.rewards) for e in episodes] and found.q is None


def online_lambda_returns(episode: Episode, values: Any, gamma: float, lam: float, alpha: float) -> Any:
    """The forward view (van Seijen et al. 2016): at every horizon h all λ-returns up to h, from the first values anew.

    The values of horizon k − 1 stand behind n-step returns that end at k.
    """
    T, states = len(episode.rewards), episode.states
    ends = [0.0 if episode.ended == "terminated" and k == T else 1.0 for k in range(T + 1)]
    of_horizon = [values.copy()]
    for horizon in range(1, T + 1):
        now = values.copy()
        for t in range(horizon):
            n_step = [
                sum(gamma**i * episode.rewards[t + i] for i in range(n))
                + gamma**n * ends[t + n] * of_horizon[t + n - 1][states[t + n]]
                for n in range(1, horizon - t + 1)
            ]
            weights = [(1 - lam) * lam ** (n - 1) for n in range(1, len(n_step))] + [lam ** (len(n_step) - 1)]
            now[states[t]] += alpha * (np.dot(weights, n_step) - now[states[t]])
        of_horizon.append(now)
    return of_horizon[-1]


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_dutch_traces_are_the_forward_view(lam: float) -> None:
    episodes = random_episodes(1, 20, 5)
    env, wanted = Scripted(5, episodes), np.zeros(5)
    for episode in episodes:
        wanted = online_lambda_returns(episode, wanted, 0.9, lam, 0.3)
    found = td_lambda(env, always(env), episodes=20, lam=lam, alpha=0.3, trace="dutch", gamma=0.9)
    np.testing.assert_allclose(found.values, wanted, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_n_step_returns_are_those_of_the_forward_view(n: int) -> None:
    """Without a state twice in an episode no update of an episode is read in it: all are of the values before."""
    episodes = random_episodes(2, 30, 14, apart=True)
    env, values = Scripted(14, episodes), np.zeros(14)
    for episode in episodes:
        before, T = values.copy(), len(episode.rewards)
        for t in range(T):
            last = min(t + n, T)
            ended = last == T and episode.ended == "terminated"
            behind = 0.0 if ended else before[episode.states[last]]
            gain = sum(0.9 ** (k - t) * episode.rewards[k] for k in range(t, last)) + 0.9 ** (last - t) * behind
            values[episode.states[t]] += 0.5 * (gain - before[episode.states[t]])
    found = n_step_td(env, always(env), episodes=30, n=n, alpha=0.5, gamma=0.9)
    np.testing.assert_allclose(found.values, values, atol=1e-12)


def test_methods_meet_at_their_limits() -> None:
    mdp = random_mdp(0, 0.9)
    policy = softmax_policy(random_logits(0, mdp))
    settings: dict[str, Any] = {"episodes": 300, "alpha": 0.2, "seed": 4, "max_steps": 7}
    base = td0(mdp, policy, **settings).values.tobytes()
    assert n_step_td(mdp, policy, n=1, **settings).values.tobytes() == base
    for trace in ("accumulating", "replacing"):
        assert td_lambda(mdp, policy, lam=0.0, trace=trace, **settings).values.tobytes() == base
    every = monte_carlo(
        Scripted(14, E := random_episodes(3, 40, 14, apart=True)), np.ones((14, 1)), episodes=40, alpha=0.2
    )
    long = n_step_td(Scripted(14, E), np.ones((14, 1)), episodes=40, n=99, alpha=0.2)
    np.testing.assert_allclose(every.values, long.values, atol=1e-12)

    settings |= {"epsilon": 0.3}
    on = sarsa(mdp, **settings).q.tobytes()
    assert n_step_sarsa(mdp, n=1, **settings).q.tobytes() == on
    assert sarsa_lambda(mdp, lam=0.0, **settings).q.tobytes() == on
    settings |= {"epsilon": 0.0, "initial": 1.0}
    assert expected_sarsa(mdp, **settings).q.tobytes() == q_learning(mdp, **settings).q.tobytes()


@pytest.mark.parametrize("method", PREDICTION.values(), ids=PREDICTION)
def test_prediction_finds_the_values_of_its_policy(method: Any) -> None:
    """Fixed seed; 0.1 is some four standard errors of the last value at this step size, the values span 3."""
    mdp = random_mdp(5, 0.9)
    policy = softmax_policy(random_logits(5, mdp))
    falling = Decay(0.5, 0.0, 0.01, shape="inverse")
    found = method(mdp, policy, episodes=20_000, alpha=falling)
    np.testing.assert_allclose(found.values, policy_values(mdp, policy), atol=0.1)
    assert (found.policy == policy).all()


# --- ends and cuts ---


def one_state(**settings: Any) -> MDP:
    return MDP(np.ones((2, 1, 1)), np.ones((1, 2)), 0.9, np.zeros(1, bool), **settings)


@pytest.mark.parametrize("method", PREDICTION.values(), ids=PREDICTION)
@pytest.mark.parametrize("played", [False, True])
def test_truncation_is_bootstrapped_in_prediction(method: Any, played: bool) -> None:
    """Reward 1 for ever is worth 1/(1 − γ) = 10, whatever limit cuts the episodes."""
    env = Scripted(1, [Episode([0] * 6, [1.0] * 5, TRUNCATED)])
    source, policy = (env, np.ones((1, 1))) if played else (one_state(), np.full((1, 2), 0.5))
    found = method(source, policy, episodes=1000, gamma=0.9, max_steps=5)
    np.testing.assert_allclose(found.values, 10.0, atol=1e-6)


@pytest.mark.parametrize("method", CONTROL.values(), ids=CONTROL)
@pytest.mark.parametrize("played", [False, True])
def test_truncation_is_bootstrapped_in_control(method: Any, played: bool) -> None:
    env = Scripted(1, [Episode([0] * 6, [1.0] * 5, TRUNCATED)])
    found = method(env if played else one_state(), episodes=2000, alpha=0.2, epsilon=0.5, gamma=0.9, max_steps=5)
    np.testing.assert_allclose(found.q, 10.0, atol=1e-6)
    assert set(found.lengths.tolist()) == {5}


@pytest.mark.parametrize("method", [*CONTROL.values()], ids=CONTROL)
def test_termination_is_not_bootstrapped(method: Any) -> None:
    """The state behind a termination is worth much elsewhere: it is also where the episodes begin."""
    env = Scripted(2, [Episode([0, 1, 0], [1.0, 2.0])])
    found = method(env, episodes=1000, alpha=0.2, epsilon=0.0, gamma=0.9)
    np.testing.assert_allclose(found.q[:, 0], [1 + 0.9 * 2, 2.0], atol=1e-6)


# --- control ---


FALLING = Decay(0.3, 0.0, 5e-4, per="step", shape="inverse")


@pytest.mark.parametrize("method", [q_learning, double_q_learning])
def test_off_policy_control_finds_the_best_values(method: Any) -> None:
    """Within 0.1 of Q*, whose values span 4; fixed seed."""
    mdp = random_mdp(7, 0.9)
    best = value_iteration(mdp)
    found = method(mdp, episodes=60_000, alpha=FALLING, epsilon=0.5)
    np.testing.assert_allclose(found.q, best.q, atol=0.1)
    assert expected_return(mdp, found.policy) == pytest.approx(expected_return(mdp, best.policy), abs=1e-6)


@pytest.mark.parametrize("explore", [{"epsilon": 0.3}, {"temperature": 1.0}], ids=["epsilon", "softmax"])
@pytest.mark.parametrize(
    "method",
    [sarsa, expected_sarsa, partial(n_step_sarsa, n=3), partial(sarsa_lambda, lam=0.5)],
    ids=["sarsa", "expected_sarsa", "n_step_sarsa", "sarsa_lambda"],
)
def test_on_policy_control_finds_the_values_of_the_policy_that_acts(method: Any, explore: Any) -> None:
    """Within 0.15 of the exact Q of its own exploring policy, which lies further than that below Q*; fixed seed."""
    mdp = random_mdp(7, 0.9)
    found = method(mdp, episodes=40_000, alpha=FALLING, **explore)
    exact = mdp.q(policy_values(mdp, found.behaviour))
    np.testing.assert_allclose(found.q, exact, atol=0.15)
    assert np.abs(value_iteration(mdp).q - exact).max() > 0.2
    if "epsilon" in explore:
        np.testing.assert_allclose(found.behaviour, epsilon_greedy_policy(found.q, 0.3))
    else:
        np.testing.assert_allclose(found.behaviour, softmax_policy(found.q))


def test_double_q_learning_does_not_overestimate() -> None:
    """Sutton & Barto's example 6.7: ten actions with noisy rewards of mean −0.1, whose largest estimate is above 0."""
    P, R = np.zeros((10, 4, 4)), np.zeros((10, 4, 4))
    P[:, 0, 1] = 1.0
    P[:, 1, 2:] = 0.5
    R[:, 1, 2], R[:, 1, 3] = 0.9, -1.1
    mdp = MDP(P, R, 1.0, np.array([False, False, True, True]), [1.0, 0, 0, 0])
    settings: dict[str, Any] = {"episodes": 1000, "alpha": 0.1, "epsilon": 1.0}
    single, double = (
        np.mean([method(mdp, seed=seed, **settings).q[0].mean() for seed in range(20)])
        for method in (q_learning, double_q_learning)
    )
    assert single > 0.15 and abs(double + 0.1) < 0.08  # the latter within four standard errors


def test_a_coin_decides_which_table_learns() -> None:
    mdp = random_mdp(0, 0.9)
    one = double_q_learning(mdp, episodes=50, alpha=0.5, epsilon=0.5, seed=0)
    other = q_learning(mdp, episodes=50, alpha=0.5, epsilon=0.5, seed=0)
    assert not np.allclose(one.q, other.q)


def test_optimistic_starts_try_every_action() -> None:
    mdp = random_mdp(2, 0.9)
    hopeful = q_learning(mdp, episodes=500, alpha=0.5, epsilon=0.0, initial=100.0)
    assert (hopeful.q[~mdp.terminal] < 99.0).all() and not hopeful.q[mdp.terminal].any()
    lazy = q_learning(mdp, episodes=500, alpha=0.5, epsilon=0.0, initial=-100.0)
    assert (lazy.q[~mdp.terminal] == -100.0).any()


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_how_often_actions_are_chosen(epsilon: float) -> None:
    """The numbers of an even grid give the probabilities themselves, to its step."""
    of, table = primitives(False), [[1.0, 3.0, 0.0, 3.0, 3.0], [0.5, 0.1, 0.2, 0.0, -1.0]]
    grid = (np.arange(20_000) + 0.5) / 20_000
    policies = {
        "epsilon_greedy": (epsilon, epsilon_greedy_policy(table, epsilon)),
        "softmax": (0.7, softmax_policy(np.array(table) / 0.7)),
    }
    for name, (explore, wanted) in policies.items():
        for s in range(2):
            counts = np.bincount([of.choose[name](table, s, explore, u) for u in grid], minlength=5)
            np.testing.assert_allclose(counts / 20_000, wanted[s], atol=2e-4)
            mean = of.expect[name](table, s, explore)
            assert mean == pytest.approx(wanted[s] @ table[s])


def test_how_often_outcomes_are_drawn() -> None:
    mdp = random_mdp(3, 0.9, states=20)
    flat, of = outcomes_of(mdp), primitives(False)
    paths = flat.offsets.tolist(), flat.cumulative.tolist()
    for s in range(19):
        for a in range(3):
            drawn = [of.move(*paths, s, a, u) for u in (np.arange(2000) + 0.5) / 2000]
            counts = np.bincount(flat.successors[drawn], minlength=20) / 2000
            np.testing.assert_allclose(counts, mdp.P[a, s], atol=1e-3)
            R = mdp.transition_rewards.reshape(mdp.P.shape)
            np.testing.assert_array_equal(flat.rewards[drawn], R[a, s, flat.successors[drawn]])


# --- schedules, seeds, what comes back ---


def test_decays() -> None:
    n = np.array([0, 1, 10, 1000])
    np.testing.assert_allclose(Decay(1.0, 0.1, 0.9).at(n), [1.0, 0.9, 0.9**10, 0.1])
    np.testing.assert_allclose(Decay(1.0, 0.1, 0.05, shape="linear").at(n), [1.0, 0.95, 0.5, 0.1])
    np.testing.assert_allclose(Decay(1.0, 0.0, 0.5, shape="inverse").at(n), [1.0, 1 / 1.5, 1 / 6, 1 / 501])


@pytest.mark.parametrize("per", ["episode", "step"])
def test_what_decays_is_used_and_told(per: str) -> None:
    mdp, epsilon = random_mdp(0, 0.9), Decay(1.0, 0.0, 0.01, per=per, shape="linear")
    found = q_learning(mdp, episodes=300, alpha=0.1, epsilon=epsilon, snapshots=300)
    for snapshot in found.snapshots:
        counted = snapshot.episode - 1 if per == "episode" else snapshot.steps - 1
        assert snapshot.explore == pytest.approx(epsilon.at(counted))
    assert np.array_equal(found.behaviour, epsilon_greedy_policy(found.q, 0.0))


def test_the_same_seed_is_the_same_learning_and_another_is_not() -> None:
    mdp = random_mdp(0, 0.9)
    for method in CONTROL.values():
        one, same, other = (method(mdp, episodes=50, alpha=0.1, epsilon=0.3, seed=seed) for seed in (1, 1, 2))
        assert one.q.tobytes() == same.q.tobytes() != other.q.tobytes()


def test_snapshots_do_not_disturb_and_are_plain() -> None:
    mdp = random_mdp(0, 0.9)
    few, many = (q_learning(mdp, episodes=90, alpha=0.1, epsilon=0.3, snapshots=n) for n in (1, 90))
    assert few.q.tobytes() == many.q.tobytes() and len(few.history) == 1 and len(many.history) == 90
    entry = json.loads(json.dumps(many.history))[-1]
    assert entry["kind"] == "episodes" and entry["episode"] == 90 and entry["steps"] == many.steps == many.lengths.sum()
    assert entry["q"] == many.q.tolist() and entry["mean_return"] == many.returns[-1]
    assert sum(e["mean_return"] for e in many.history) == pytest.approx(many.returns.sum())


def test_an_environment_and_its_table_teach_the_same() -> None:
    """Without slipping nothing is left to the environment's own random numbers: equal bits for every method."""
    env = gym.make("FrozenLake-v1", is_slippery=False)
    mdp = MDP.from_gymnasium(env, 0.99)
    for method in CONTROL.values():
        settings = {"episodes": 300, "alpha": 0.3, "epsilon": 0.4, "max_steps": 100, "seed": 3}
        played, held = method(env, **settings), method(mdp, **settings)
        assert played.q.tobytes() == held.q.tobytes() and played.returns.tobytes() == held.returns.tobytes()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "alpha": ({"alpha": 0.0}, r"alpha is 0.0; it must lie in \(0, 1\]"),
    "alpha above": ({"alpha": 1.5}, "alpha is 1.5"),
    "alpha nan": ({"alpha": float("nan")}, "alpha is nan"),
    "epsilon": ({"epsilon": -0.1}, "epsilon is -0.1"),
    "epsilon word": ({"epsilon": "0.1"}, "epsilon is '0.1'; it must be a number or a Decay"),
    "both": ({"temperature": 1.0}, "give one of the two"),
    "none": ({"epsilon": None}, "give one of the two"),
    "cold": ({"epsilon": None, "temperature": 0.0}, r"temperature is 0.0; it must lie in \(0, inf\)"),
    "freezing": ({"epsilon": None, "temperature": Decay(1.0, 0.0, 0.5)}, "falls to 0"),
    "episodes": ({"episodes": 0}, "episodes is 0"),
    "seed": ({"seed": -1}, "seed is -1"),
    "max_steps": ({"max_steps": 0}, "max_steps is 0"),
    "too many episodes": ({"episodes": 10**14}, "episodes is 100000000000000; .* from 1 to 100,000,000"),
    "half an episode": ({"episodes": 1.5}, "episodes is 1.5"),
    "max_steps too many": ({"max_steps": 10**14}, "max_steps is 100000000000000"),
    "compiled": ({"compiled": "maybe"}, "compiled is 'maybe'; it must be True, False or None"),
    "gamma": ({"gamma": 1.1}, "gamma is 1.1"),
    "gamma word": ({"gamma": "0.9"}, "gamma is '0.9'; it must be a number"),
    "initial": ({"initial": float("inf")}, "initial is inf"),
    "initial word": ({"initial": "high"}, "initial is no table of numbers"),
    "shape": ({"initial": np.zeros((2, 2))}, r"initial has shape \(2, 2\)"),
}


@pytest.mark.parametrize(("changes", "told"), BAD.values(), ids=BAD)
def test_bad_arguments(changes: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        q_learning(random_mdp(0, 0.9), **({"episodes": 1, "alpha": 0.1, "epsilon": 0.1} | changes))


def test_more_bad_arguments() -> None:
    mdp = random_mdp(0, 0.9)
    policy = np.full((6, 3), 1 / 3)
    with pytest.raises(ValueError, match="n is 0"):
        n_step_td(mdp, policy, episodes=1, n=0, alpha=0.1)
    with pytest.raises(ValueError, match="lam is 1.5"):
        td_lambda(mdp, policy, episodes=1, lam=1.5, alpha=0.1)
    with pytest.raises(ValueError, match="unknown trace 'dutsch': did you mean dutch"):
        td_lambda(mdp, policy, episodes=1, lam=0.5, alpha=0.1, trace="dutsch")
    with pytest.raises(ValueError, match="unknown visit 'all'"):
        monte_carlo(mdp, policy, episodes=1, visit="all")
    with pytest.raises(ValueError, match="sums to"):
        td0(mdp, np.ones((6, 3)), episodes=1, alpha=0.1)
    with pytest.raises(ValueError, match="a table needs one that is Discrete"):
        q_learning(gym.make("CartPole-v1"), episodes=1, alpha=0.1, epsilon=0.1)
    with pytest.raises(ValueError, match="neither an MDP nor"):
        q_learning("FrozenLake-v1", episodes=1, alpha=0.1, epsilon=0.1)
    with pytest.raises(RuntimeError, match="reward of nan for action 0 in state 0"):
        td0(Scripted(2, [Episode([0, 1], [float("nan")])]), np.ones((2, 1)), episodes=1, alpha=0.1)
    with pytest.raises(ValueError, match="grows beyond all bounds.*smaller alpha"):
        env = Scripted(1, [Episode([0] * 51, [1.0] * 50)])
        td_lambda(env, np.ones((1, 1)), episodes=400, lam=1.0, alpha=1.0, gamma=1.0)
    with pytest.raises(ValueError, match="unknown trace 1: known: accumulating"):
        td_lambda(mdp, policy, episodes=1, lam=0.5, alpha=0.1, trace=cast(Any, 1))
    with pytest.raises(ValueError, match="n is 10000000000; it must be a whole number from 1 to"):
        n_step_td(mdp, policy, episodes=1, n=10**10, alpha=0.1)
    for epsilon in (2.0, -0.1, float("nan"), "0.1"):
        with pytest.raises(ValueError, match="epsilon is"):
            epsilon_greedy_policy(np.zeros((2, 2)), cast(Any, epsilon))
    for wrong in (
        {"shape": "cubic"}, {"shape": 3}, {"per": "update"}, {"floor": 2.0}, {"rate": 0.0}, {"rate": 1.5},
        {"start": "1"}, {"floor": None},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"unknown|fall|rate is|must be a number"):
            Decay(**({"start": 1.0, "floor": 0.0, "rate": 0.5} | wrong))


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("states", [[0, -1, 1], [0, 2, 1], [-1, 1], [2, 1]], ids=str)
def test_an_observation_outside_its_space_is_refused(start: int, states: list[int]) -> None:
    """State −1 is between two episodes to the loop, which would begin one after the other for ever."""
    env = Scripted(2, [Episode([s + start for s in states], [0.0] * (len(states) - 1), "truncated")])
    env.observation_space = gym.spaces.Discrete(2, start=start)
    stray = next(s for s in states if not 0 <= s < 2) + start
    with pytest.raises(RuntimeError, match=f"gave the observation {stray}, which lies outside its Discrete"):
        td0(env, np.ones((2, 1)), episodes=2, alpha=0.1)


@pytest.mark.parametrize("states", [[0, 1.5, 1], [1.5, 0], [0, "1"], [0, None]], ids=str)
def test_an_observation_that_is_no_whole_number_is_refused(states: list[Any]) -> None:
    env = Scripted(3, [Episode(states, [0.0] * (len(states) - 1))])
    stray = next(s for s in states if not isinstance(s, int))
    with pytest.raises(RuntimeError, match=rf"gave the observation {stray}, which lies outside its Discrete\(3\)"):
        td0(env, np.ones((3, 1)), episodes=1, alpha=0.1)


@pytest.mark.parametrize("reward", ["x", None, float("nan"), float("inf"), 10**400, [1.0]], ids=lambda it: str(it)[:9])
def test_a_reward_that_is_no_finite_number_is_named_as_it_came(reward: Any) -> None:
    env = Scripted(2, [Episode([0, 1, 0], [1.0, reward])])
    with pytest.raises(RuntimeError) as caught:
        td0(env, np.ones((2, 1)), episodes=1, alpha=0.1)
    assert f"paid a reward of {reward!r} for action 0 in state 1; rewards must be finite numbers" in str(caught.value)


def test_more_states_than_a_table_holds_are_refused() -> None:
    env = Scripted(10**12, [Episode([0, 1], [0.0])])
    with pytest.raises(ValueError, match=r"1,000,000,000,000 states and 1 actions; a table holds 100,000,000 values"):
        q_learning(env, episodes=1, alpha=0.1, epsilon=0.1)


def test_numbers_of_numpy_teach_the_same() -> None:
    mdp, env = random_mdp(0, 0.9), gym.make("FrozenLake-v1")
    for source in (mdp, env):
        plain: Any = {"episodes": 20, "alpha": 0.5, "epsilon": 0.25, "seed": 3, "max_steps": 30, "gamma": 0.5}
        kinds = {"episodes": np.int64, "alpha": np.float32, "epsilon": np.float64, "gamma": np.float32}
        others = {name: kinds.get(name, np.int32)(value) for name, value in plain.items()}
        one, other = q_learning(source, **plain), q_learning(source, **others)
        assert one.values.tobytes() == other.values.tobytes()
    assert Decay(np.float32(0.5), np.int64(0), np.float32(0.5)) == Decay(0.5, 0.0, 0.5)


# --- the documents' examples ---


def test_frozen_lake_without_slipping_is_always_solved() -> None:
    mdp = MDP.from_gymnasium(gym.make("FrozenLake-v1", is_slippery=False), 0.99)
    found = q_learning(mdp, episodes=2000, alpha=0.5, epsilon=Decay(1.0, 0.05, 0.998), max_steps=100)
    assert return_within(mdp, found.policy, 100) == 1.0


def test_slippery_frozen_lake_is_solved_as_well_as_the_exact_policy() -> None:
    """The success within 100 steps, computed exactly for both policies: no episode is sampled to judge."""
    mdp = MDP.from_gymnasium(gym.make("FrozenLake-v1"), 0.99)
    best = return_within(mdp, value_iteration(mdp).policy, 100)
    assert best == pytest.approx(0.74, abs=0.005)
    falling = Decay(0.5, 0.01, 0.005, shape="inverse")
    found = q_learning(mdp, episodes=20_000, alpha=falling, epsilon=Decay(1.0, 0.1, 0.9995), max_steps=100)
    assert return_within(mdp, found.policy, 100) > best - 0.02


def test_sarsa_takes_the_safe_path_and_q_learning_walks_along_the_cliff() -> None:
    mdp = MDP.from_gymnasium(gym.make("CliffWalking-v1"), 1.0)
    on, off = (method(mdp, episodes=3000, alpha=0.1, epsilon=0.1) for method in (sarsa, q_learning))
    paths = []
    for learnt in (on, off):
        states = [36]
        while states[-1] != 47 and len(states) < 50:
            action = int(learnt.q[states[-1]].argmax())
            states.append(int(mdp.P[action, states[-1]].argmax()))
        paths.append(states)
    safe, edge = paths
    assert len(edge) - 1 == 13 and set(range(24, 36)) <= set(edge)  # the row above the cliff, end to end
    assert len(safe) - 1 > 13 and not {26, 27, 28, 29, 30, 31, 32, 33} & set(safe)
    assert on.returns[-1000:].mean() > off.returns[-1000:].mean() + 10
    assert isinstance(GridWorld(), MDP)
