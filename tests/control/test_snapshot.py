"""Environments in mid-episode: what is restored in new objects goes on bit for bit, past later resets."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.utils import RunningMeanStd

from advantage.control import snapshot as module
from advantage.control.environments import Envs, make_envs
from advantage.control.snapshot import Recorder, _get, _put, restore, snapshot, unchecked
from advantage.errors import RunFailed, UserError
from advantage.runs.encode import dumps, loads

MODES = ["next_step", "same_step", "disabled"]


def travelled(state: dict[str, Any]) -> dict[str, Any]:
    """The state after a checkpoint: arrays as tensors, everything else through JSON with sorted keys."""
    plain = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
    arrays = {name: torch.from_numpy(value.copy()) for name, value in state.items() if name not in plain}
    back = loads(dumps(dict(sorted(plain.items()))))
    assert back == plain
    return back | arrays


def chosen(envs: Envs, rng: np.random.Generator) -> Any:
    """Random actions as a policy gives them: discrete ones from 0."""
    space = envs.spaces.action
    if isinstance(space, gym.spaces.Box):
        return rng.uniform(space.low, space.high, (envs.num_envs, *space.shape)).astype(space.dtype)
    assert isinstance(space, gym.spaces.Discrete)
    return rng.integers(0, space.n, envs.num_envs)


def bits(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: bits(value) for key, value in tree.items()}
    return tuple(map(bits, tree)) if isinstance(tree, tuple) else (tree.dtype.str, tree.tobytes())


def drive(envs: Envs, steps: int, seed: int) -> list[Any]:
    """Everything that comes of random actions, as bytes."""
    rng = np.random.default_rng(seed)
    seen = []
    buffer = chosen(envs, np.random.default_rng(0))
    for _ in range(steps):
        buffer[:] = chosen(envs, rng)  # a collector may hand over the same array again
        step = envs.step(buffer)
        final = {row: bits(observation) for row, observation in step.final.items()}
        seen.append((bits(envs.context), bits(tuple(step[:3])), envs.resetting.tolist(), final))
    return seen


def play(envs: Envs, steps: int, seed: int) -> list[Any]:
    """The same, and what was counted."""
    return [*drive(envs, steps, seed), envs.finished_episodes(), envs.steps]


def goes_on(make: Callable[[], Envs], before: int, after: int, started: bool = False) -> None:
    """Plays, saves, restores in new environments, and compares what follows."""
    envs = make()
    envs.start(11)
    drive(envs, before, 1)
    state = envs.state()
    kept = {name: np.copy(value) for name, value in state.items() if isinstance(value, np.ndarray)}
    expected = play(envs, after, 2)
    later = expected[-2][len(state["finished"]) :]
    assert {episode.stream for episode in later} == set(range(envs.num_envs)), "too short: no later resets"
    assert all(np.array_equal(state[name], value) for name, value in kept.items()), "the state holds live arrays"
    new = make()
    if started:
        new.start(12)
        play(new, 5, 3)
        new.finished_episodes()
    new.restore(travelled(state))
    known = not any(map(unchecked, new.vector.envs if isinstance(new.vector, gym.vector.SyncVectorEnv) else ()))
    assert [note.partition(" that ")[0] for note in new.notes] == ([] if known else ["state"])
    assert play(new, after, 2) == expected
    for each in (envs, new):
        each.close()


CHEAP: dict[str, tuple[dict[str, Any], int, int]] = {  # arguments, steps before, steps after
    "CartPole-v1": ({}, 50, 90),
    "Acrobot-v1": ({"max_episode_steps": 30}, 47, 50),
    "MountainCar-v0": ({"max_episode_steps": 30}, 47, 50),
    "MountainCarContinuous-v0": ({"max_episode_steps": 30}, 47, 50),
    "Pendulum-v1": ({"max_episode_steps": 30}, 47, 50),
    "FrozenLake-v1": ({}, 40, 60),
    "CliffWalking-v1": ({"max_episode_steps": 30, "is_slippery": True}, 47, 50),
    "Taxi-v4": ({"max_episode_steps": 30, "fickle_passenger": True, "is_rainy": True}, 47, 50),
    "Blackjack-v1": ({}, 20, 30),
}


@pytest.mark.parametrize("started", [False, True], ids=["unstarted", "started"])
@pytest.mark.parametrize("name", CHEAP)
def test_classic_control_and_toy_text(name: str, started: bool) -> None:
    arguments, before, after = CHEAP[name]
    goes_on(lambda: make_envs(name, 3, vectorization="sync", env_args=arguments), before, after, started)


@pytest.mark.parametrize("num_envs", [1, 5])
def test_the_vector_entry_point_of_cartpole(num_envs: int) -> None:
    for before in range(14, 34):  # some of them between an end and its reset
        goes_on(lambda: make_envs("CartPole-v1", num_envs), before, 90)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "after"), [("CartPole-v1", 140), ("Blackjack-v1", 30)])
def test_every_moment_of_every_autoreset_mode(name: str, after: int, mode: str) -> None:
    for before in range(8, 18):
        goes_on(lambda: make_envs(name, 3, vectorization="sync", autoreset=mode), before, after)


@pytest.mark.parametrize("name", ["LunarLander-v3", "LunarLanderContinuous-v3"])
@pytest.mark.parametrize("wind", [False, True], ids=["calm", "wind"])
def test_lunar_lander(name: str, wind: bool) -> None:
    pytest.importorskip("Box2D")
    goes_on(lambda: make_envs(name, 3, env_args={"enable_wind": wind}), 180, 200)


@pytest.mark.parametrize("seed", range(4))
def test_bipedal_walker_after_earlier_episodes(seed: int) -> None:
    pytest.importorskip("Box2D")

    def make() -> Envs:
        return make_envs("BipedalWalker-v3", 2, env_args={"max_episode_steps": 60})

    goes_on(make, 130 + 7 * seed, 120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "after"), [("BipedalWalkerHardcore-v3", 200, 120), ("CarRacing-v3", 60, 50)]
)
def test_the_rest_of_box2d(name: str, before: int, after: int) -> None:
    pytest.importorskip("Box2D")
    goes_on(lambda: make_envs(name, 2, env_args={"max_episode_steps": 45}), before, after)


_MUJOCO = ["HalfCheetah", "Ant", "Hopper", "Humanoid", "Walker2d", "Swimmer", "Reacher", "Pusher", "InvertedPendulum"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in _MUJOCO[:3] else pytest.mark.slow) for name in _MUJOCO]
)
def test_mujoco(name: str) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio")
    goes_on(lambda: make_envs(f"{name}-v5", 2, env_args={"max_episode_steps": 40}), 70, 90)


# --- environments that nobody knows: replay ---


class Drifting(gym.Env[Any, Any]):
    """A random walk that draws at every step; the episode ends at random."""

    observation_space = gym.spaces.Dict({"x": gym.spaces.Box(-np.inf, np.inf, (1,)), "n": gym.spaces.Discrete(100)})
    action_space = gym.spaces.Discrete(3, start=-1)

    def seen(self) -> dict[str, Any]:
        return {"x": np.array([self.x], np.float32), "n": self.n}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.n = self.np_random.normal(), 0
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x, self.n = self.x + action + self.np_random.normal(), self.n + 1
        return self.seen(), self.x, bool(self.np_random.random() < 0.15), self.n == 20, {}


@pytest.mark.parametrize("mode", MODES)
def test_replay_at_every_moment(mode: str) -> None:
    for before in range(20):
        goes_on(lambda: make_envs(Drifting, 3, autoreset=mode), before, 40, started=before % 2 == 0)


class Counting(Drifting):
    """Begins further out with every episode, and draws from a generator of its own."""

    def __init__(self) -> None:
        self.episodes, self.own, self.seen_so_far = 0, np.random.default_rng(5), np.zeros(3)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**options)
        self.episodes += 1
        self.x += self.episodes + self.own.normal()
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.x += self.own.normal()
        self.seen_so_far += self.x
        return super().step(action)


class Telling(Counting):
    """The same, with a state."""

    def state(self) -> dict[str, Any]:
        return {"x": self.x, "n": self.n, "episodes": self.episodes, "own": self.own, "sum": self.seen_so_far}

    def restore(self, state: dict[str, Any]) -> None:
        self.x, self.n, self.episodes, self.own, self.seen_so_far = state.values()


@pytest.mark.parametrize("mode", MODES)
def test_an_environment_s_own_state_brings_it_back_and_no_note_is_made(mode: str) -> None:
    for before in (3, 30, 31, 32):
        goes_on(lambda: make_envs(lambda: gym.wrappers.TimeLimit(Telling(), 15), 3, autoreset=mode), before, 40)


@pytest.mark.parametrize(
    ("target", "notes"),
    [
        (Telling, []),
        ("CartPole-v1", []),
        (
            Drifting,
            ["state that Drifting keeps outside its episode cannot be checked; give it state() and restore()"],
        ),
    ],
)
def test_what_no_replay_shows_is_said(target: Any, notes: list[str]) -> None:
    envs = make_envs(target, 2, vectorization="sync")
    envs.start(0)
    envs.restore(travelled(envs.state()))
    assert envs.notes == notes


def test_a_state_that_is_no_data_and_a_restore_that_fails_are_named() -> None:
    class Wrong(Telling):
        def state(self) -> dict[str, Any]:
            return {"x": {1, 2}}

    wrong, mute = make_envs(Wrong), make_envs(Telling)
    for envs in (wrong, mute):
        envs.start(0)
    with pytest.raises(UserError, match=r"Wrong.state\(\) gives no dict of plain values and arrays by name: {'x'"):
        wrong.state()
    state = mute.state() | {"0/own": {"dict": {}}}
    with pytest.raises(RunFailed, match=r"Telling.restore\(state\) failed: ValueError"):
        mute.restore(state)


def test_an_episode_too_long_to_replay_is_not_kept_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 4)
    envs = make_envs(Drifting, 1)
    envs.start(0)
    recorder = envs.vector.envs[0]
    sizes = []
    while recorder.steps < 5:
        drive(envs, 1, recorder.steps)
        sizes.append(len(recorder.actions))
    assert sizes[-2:] == [4, 0]
    new = make_envs(Drifting, 1)
    new.restore(travelled(envs.state()))
    assert ["1 of 1 environments cannot go on" in note for note in new.notes] == [True]


def wrapped(core: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = gym.wrappers.TimeLimit(core(), 12)
    env = gym.wrappers.RecordEpisodeStatistics(env, buffer_length=3)
    env = gym.wrappers.NormalizeObservation(env)
    env = gym.wrappers.FrameStackObservation(env, 3)
    return gym.wrappers.NormalizeReward(env)


def test_wrappers_keep_their_counters_queues_and_statistics() -> None:
    def walk() -> gym.Env[Any, Any]:
        return gym.wrappers.FilterObservation(Drifting(), ["x"])

    def flat_walk() -> gym.Env[Any, Any]:
        return gym.wrappers.FlattenObservation(walk())

    goes_on(lambda: make_envs(lambda: wrapped(flat_walk), 2), 50, 60)
    goes_on(lambda: make_envs(lambda: wrapped(lambda: gym.make("CartPole-v1")), 2), 50, 60)


def test_the_recorder_stands_next_to_the_core() -> None:
    envs = make_envs(lambda: gym.wrappers.TimeLimit(Drifting(), 5), 1)
    env = envs.vector.envs[0]
    assert isinstance(env, gym.wrappers.TimeLimit)
    assert isinstance(env.env, Recorder)
    assert not isinstance(make_envs("Pendulum-v1").vector.envs[0].env.env, Recorder)


def test_vector_wrappers_keep_their_statistics() -> None:
    def make() -> Envs:
        vector = gym.vector.SyncVectorEnv([lambda: gym.make("Pendulum-v1", max_episode_steps=9)] * 2)
        return make_envs(gym.wrappers.vector.NormalizeReward(vector))

    goes_on(make, 25, 30)


# --- what cannot be brought back ---


def test_only_the_lost_rows_begin_anew() -> None:
    class Lost(Drifting):
        def seen(self) -> dict[str, Any]:
            return super().seen() | {"x": np.array([random.SystemRandom().random()], np.float32)}

    for mode in MODES:
        envs = make_envs([Drifting, Lost, Drifting], autoreset=mode)
        envs.start(0)
        play(envs, 4, 0)
        before = envs.context["observation"]["n"].copy()
        new = make_envs([Drifting, Lost, Drifting], autoreset=mode)
        new.restore(envs.state())
        assert ["1 of 3 environments" in note for note in new.notes] == [True]
        assert new.context["observation"]["n"].tolist() == [before[0], 0, before[2]]
        assert new.steps == envs.steps
        again = play(new, 30, 1)
        expected = play(envs, 30, 1)
        rewards = [np.array([np.frombuffer(step[1][0][1]) for step in seen[:30]]) for seen in (again, expected)]
        assert np.array_equal(rewards[0][:, [0, 2]], rewards[1][:, [0, 2]])
        assert not np.array_equal(rewards[0][:, 1], rewards[1][:, 1])


def test_processes_of_their_own_begin_new_episodes_and_say_so() -> None:
    envs = make_envs("CartPole-v1", 2, vectorization="async")
    try:
        envs.start(0)
        play(envs, 30, 0)
        state = travelled(envs.state())
    finally:
        envs.close()
    fresh = make_envs("CartPole-v1", 2, vectorization="sync")
    fresh.start(0)
    after = []
    for _ in range(2):
        new = make_envs("CartPole-v1", 2, vectorization="async")
        try:
            new.restore(state)
            assert "2 of 2 environments cannot go on" in new.notes[0]
            assert new.steps == 60
            assert not np.isin(new.context["observation"], fresh.context["observation"]).any(), (
                "the first episodes again"
            )
            after.append(play(new, 30, 1))
        finally:
            new.close()
    assert after[0] == after[1]


def test_another_number_of_environments_is_refused() -> None:
    envs = make_envs("Pendulum-v1", 2)
    envs.start(0)
    with pytest.raises(UserError, match="has 2 environments, not 3; num_envs cannot change on resume"):
        make_envs("Pendulum-v1", 3).restore(envs.state())


def test_a_snapshot_of_one_environment_does_not_fit_another_kind() -> None:
    env = gym.make("Pendulum-v1")
    env.reset(seed=0)
    assert not restore(gym.make("LunarLander-v3"), snapshot(env))


def test_a_fickle_passenger_in_a_turning_taxi_stays_so() -> None:
    first, second = gym.make("Taxi-v4"), gym.make("Taxi-v4")
    first.reset(seed=0)
    first.unwrapped.fickle_step, first.unwrapped.taxi_orientation, first.unwrapped.lastaction = np.bool_(True), 2, 3
    assert restore(second, travelled(snapshot(first)))
    assert (second.unwrapped.fickle_step, second.unwrapped.taxi_orientation, second.unwrapped.lastaction) == (1, 2, 3)


def test_action_space_generators_go_on() -> None:
    first, second = gym.make("CartPole-v1"), gym.make("CartPole-v1")
    first.reset(seed=0)
    first.action_space.seed(3)
    first.action_space.sample()
    assert restore(second, travelled(snapshot(first)))
    assert [first.action_space.sample() for _ in range(20)] == [second.action_space.sample() for _ in range(20)]


# --- values ---

_VALUES = [
    None,
    True,
    3,
    2**127 + 1,
    -(2**64),
    0.1,
    float("inf"),
    "text",
    np.float32(0.1),
    np.int8(-3),
    np.str_("H"),
    (np.float64(0.1), 0.2, (1, [2])),
    deque([1.5, 2], 4),
    {"a": 1, "b": {"c": (np.float32(2),)}},
    np.arange(3, dtype=np.int16),
    (np.zeros((2, 0)), [np.float32([0.1, np.nan])]),
]


@pytest.mark.parametrize("value", _VALUES, ids=repr)
def test_values_keep_their_types(value: Any) -> None:
    state: dict[str, Any] = {}
    _put(state, "x", value)
    assert repr(_get(travelled(state), "x")) == repr(value)


@pytest.mark.parametrize("bits", ["PCG64", "MT19937", "Philox"])
def test_generators_go_on(bits: str) -> None:
    rng = np.random.Generator(getattr(np.random, bits)(3))
    rng.integers(0, 5, 3, dtype=np.int32)  # leaves half a word behind
    state: dict[str, Any] = {}
    _put(state, "x", {"inner": rng})
    other = _get(travelled(state), "x")["inner"]
    assert np.array_equal(rng.integers(0, 5, 9, dtype=np.int32), other.integers(0, 5, 9, dtype=np.int32))


def test_running_statistics_go_on() -> None:
    statistics = RunningMeanStd(shape=(2,))
    statistics.update(np.array([[1.0, 2.0], [3.0, 5.0]]))
    state: dict[str, Any] = {}
    _put(state, "x", statistics)
    assert vars(_get(travelled(state), "x")).keys() == vars(statistics).keys()
    assert np.array_equal(_get(travelled(state), "x").var, statistics.var)
