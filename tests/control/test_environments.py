"""Envs: the same transitions in every autoreset mode, spaces of all kinds, masks, seeds, and failures in one line."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from advantage.control.environments import Envs, check_finite, environment_seed, make_envs
from advantage.errors import NonFinite, RunFailed, UserError
from tests.control.scripted import ENDS, Echo, Masked, Scripted

MODES = ["next_step", "same_step", "disabled"]


def scripted(mode: str, reuse: bool = False, vectorization: str = "sync") -> Envs:
    constructors = [lambda offset=offset: Scripted(offset, reuse) for offset in range(3)]
    return make_envs(constructors, vectorization=vectorization, autoreset=mode)


def actions_for(seen: np.ndarray) -> np.ndarray:
    """A policy without a memory or a clock: it does the same wherever a reset row falls."""
    return ((7 * seen[:, 0] + 3 * seen[:, 1]) % 5).astype(np.int64)


def transitions(envs: Envs, steps: int) -> list[list[Any]]:
    """By environment: (s, a, r, terminated, truncated, s' where it matters)."""
    found: list[list[Any]] = [[] for _ in range(envs.num_envs)]
    for _ in range(steps):
        seen, real = envs.context["observation"].copy(), ~envs.resetting
        actions = actions_for(seen)
        step = envs.step(actions)
        for row in np.flatnonzero(real):
            after = step.final.get(int(row), envs.context["observation"][row])
            found[row].append(
                (
                    tuple(seen[row]),
                    int(actions[row]),
                    float(step.rewards[row]),
                    bool(step.terminated[row]),
                    bool(step.truncated[row]),
                    None if step.terminated[row] else tuple(after),
                )
            )
    return found


def by_the_script(offset: int, count: int) -> list[Any]:
    """The transitions of one scripted environment, straight from its table."""
    found: list[Any] = []
    episode = 0
    while len(found) < count:
        length, end = ENDS[(episode + offset) % len(ENDS)]
        for t in range(length):
            action = (7 * episode + 3 * t) % 5
            terminated, truncated = t + 1 == length and end != "truncated", t + 1 == length and end != "terminated"
            after = None if terminated else (episode, t + 1)
            found.append(((episode, t), action, action + 1.0, terminated, truncated, after))
        episode += 1
    return found[:count]


@pytest.mark.parametrize("reuse", [False, True], ids=["new arrays", "one buffer"])
@pytest.mark.parametrize("mode", MODES)
def test_every_autoreset_mode_gives_the_real_transitions(mode: str, reuse: bool) -> None:
    envs = scripted(mode, reuse)
    envs.start(0)
    for offset, found in enumerate(transitions(envs, 40)):
        assert len(found) == 40 if mode != "next_step" else 20 < len(found) < 40
        assert found == by_the_script(offset, len(found))


@pytest.mark.parametrize("mode", MODES)
def test_transitions_in_processes_of_their_own(mode: str) -> None:
    envs = scripted(mode, vectorization="async")
    try:
        envs.start(0)
        for offset, found in enumerate(transitions(envs, 12)):
            assert found == by_the_script(offset, len(found))
    finally:
        envs.close()


@pytest.mark.parametrize("mode", MODES)
def test_no_action_reaches_an_environment_on_a_reset_row(mode: str) -> None:
    envs = scripted(mode)
    envs.start(0)
    found = transitions(envs, 30)
    for env, steps in zip(envs.vector.envs, found, strict=True):
        assert env.unwrapped.taken == [(int(e), int(t), action) for (e, t), action, *_ in steps]


@pytest.mark.parametrize("mode", MODES)
def test_episodes_and_steps_count_no_reset_row(mode: str) -> None:
    envs = scripted(mode)
    envs.start(0)
    found = transitions(envs, 30)
    assert envs.steps == sum(map(len, found))
    episodes = envs.finished_episodes()
    for stream, steps in enumerate(found):
        own, total, length = [], 0.0, 0
        for _, _, reward, terminated, truncated, _ in steps:
            total, length = total + reward, length + 1
            if terminated or truncated:
                own.append((length, total, "terminated" if terminated else "truncated"))
                total, length = 0.0, 0
        assert [(e.length, e.total_reward, e.ended) for e in episodes if e.stream == stream] == own
    assert envs.finished_episodes() == []


def test_final_observations_are_of_truncated_rows_alone() -> None:
    envs = scripted("same_step")
    envs.start(0)
    for _ in range(20):
        step = envs.step(actions_for(envs.context["observation"]))
        assert set(step.final) == set(np.flatnonzero(step.truncated))
    envs = scripted("next_step")
    envs.start(0)
    assert all(not envs.step(actions_for(envs.context["observation"])).final for _ in range(20))


def test_reset_leaves_episodes_unfinished() -> None:
    envs = scripted("next_step")
    envs.start(0)
    envs.step(np.zeros(3, int))
    assert envs.resetting.tolist() == [False, True, False]
    envs.finished_episodes()
    envs.reset()
    assert not envs.resetting.any()
    assert envs.context["observation"][:, 1].tolist() == [0, 0, 0]
    assert envs.finished_episodes() == []
    envs.step(np.zeros(3, int))
    assert all(episode.length == 1 for episode in envs.finished_episodes())


# --- which vector environment ---


def test_auto_takes_the_vector_entry_point_where_it_can() -> None:
    def kind(**options: Any) -> str:
        return type(make_envs("CartPole-v1", 2, **options).vector.unwrapped).__name__

    assert kind() == "CartPoleVectorEnv"
    assert kind(env_args={"sutton_barto_reward": True}) == "CartPoleVectorEnv"
    assert kind(vectorization="sync") == "SyncVectorEnv"
    assert kind(autoreset="same_step") == "SyncVectorEnv"
    assert kind(render_mode="rgb_array") == "SyncVectorEnv"


def test_environment_arguments_arrive() -> None:
    envs = make_envs("FrozenLake-v1", 2, env_args={"is_slippery": False, "max_episode_steps": 7})
    envs.start(0)
    for _ in range(7):
        envs.step(np.zeros(2, int))
    assert {(e.length, e.ended) for e in envs.finished_episodes()} == {(7, "truncated")}
    assert make_envs("LunarLander-v3", 1, env_args={"continuous": True}).spaces.action.shape == (2,)


def test_rewards_of_cartpole_are_its_steps() -> None:
    envs = make_envs("CartPole-v1", 4)
    envs.start(3)
    for _ in range(100):
        envs.step(np.ones(4, int))
    episodes = envs.finished_episodes()
    assert len(episodes) > 20
    assert all(episode.total_reward == episode.length and 8 <= episode.length <= 11 for episode in episodes)


# --- seeds ---


def test_a_seed_is_a_function_of_the_run_s_seed_and_the_index() -> None:
    few, many = make_envs("Acrobot-v1", 2), make_envs("Acrobot-v1", 5)
    few.start(7)
    many.start(7)
    assert np.array_equal(few.context["observation"], many.context["observation"][:2])
    assert len({environment_seed(seed, index) for seed in range(20) for index in range(50)}) == 1000
    assert environment_seed(2**63 - 1, 0) < 2**32


def test_the_same_seed_gives_the_same_data() -> None:
    runs = []
    for _ in range(2):
        envs = make_envs("LunarLander-v3", 2)
        envs.start(5)
        runs.append([envs.step(np.array([t % 4, 2])).rewards for t in range(120)])
    assert np.array_equal(*runs)


# --- spaces ---

_INNER = gym.spaces.Dict({"a": gym.spaces.MultiDiscrete([3, 4], start=[1, 5]), "b": gym.spaces.Discrete(3, start=2)})
_SPACES: list[tuple[gym.Space[Any], Any, Any]] = [
    (gym.spaces.Discrete(3, start=-1), [0, 2], [-1, 1]),
    (gym.spaces.MultiDiscrete([3, 2], start=[4, 0]), [[0, 1], [2, 0]], [[4, 1], [6, 0]]),
    (gym.spaces.MultiBinary(2), [[0, 1], [1, 1]], [[0, 1], [1, 1]]),
    (gym.spaces.Box(-1.0, 1.0, (2,), np.float32), [[0.5, -1.0], [0.0, 1.0]], [[0.5, -1.0], [0.0, 1.0]]),
]


@pytest.mark.parametrize(("space", "chosen", "expected"), _SPACES, ids=lambda value: type(value).__name__)
def test_actions_arrive_in_the_space(space: gym.Space[Any], chosen: Any, expected: Any) -> None:
    envs = make_envs(lambda: Echo(gym.spaces.Discrete(2), space), 2)
    envs.start(0)
    envs.step(np.asarray(chosen))
    received = [env.unwrapped.received[0] for env in envs.vector.envs]
    assert np.array_equal(received, expected)


def test_trees_of_actions_arrive_in_the_space() -> None:
    space = gym.spaces.Tuple((_INNER, gym.spaces.Box(-1, 1, (1,), np.float32)))
    envs = make_envs(lambda: Echo(gym.spaces.Discrete(2), space), 2)
    envs.start(0)
    envs.step(({"a": np.array([[0, 0], [2, 3]]), "b": np.array([0, 2])}, np.array([[0.5], [-0.5]], np.float32)))
    inner, box = envs.vector.envs[1].unwrapped.received[0]
    assert inner["a"].tolist() == [3, 8]
    assert inner["b"] == 4
    assert box == [-0.5]


@pytest.mark.parametrize("mode", MODES)
def test_trees_of_observations(mode: str) -> None:
    space = gym.spaces.Dict(
        {
            "box": gym.spaces.Box(-1, 1, (2, 2), np.float32),
            "inner": gym.spaces.Tuple((gym.spaces.Discrete(4), gym.spaces.MultiBinary(3))),
            "many": gym.spaces.MultiDiscrete([2, 3]),
        }
    )
    envs = make_envs(lambda: Echo(space, gym.spaces.Discrete(2)), 2, autoreset=mode)
    envs.start(0)
    for _ in range(11):
        seen = envs.context["observation"]
        assert seen["box"].shape == (2, 2, 2)
        assert [leaf.shape for leaf in seen["inner"]] == [(2,), (2, 3)]
        for row, env in enumerate(envs.vector.envs):
            latest = env.unwrapped.seen[-1]
            assert np.array_equal(seen["box"][row], latest["box"])
            assert np.array_equal(seen["inner"][1][row], latest["inner"][1])
            assert seen["inner"][0][row] == latest["inner"][0]
        envs.step(np.zeros(2, int))


def test_spaces_without_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"Echo|lambda.*observation space Text.*not supported; use Box"):
        make_envs(lambda: Echo(gym.spaces.Text(4), gym.spaces.Discrete(2)), 1)
    nested = gym.spaces.Dict({"x": gym.spaces.Sequence(gym.spaces.Discrete(2))})
    with pytest.raises(UserError, match="action space Sequence"):
        make_envs(lambda: Echo(gym.spaces.Discrete(2), nested), 1)


@pytest.mark.parametrize(
    "empty",
    [gym.spaces.Dict({}), gym.spaces.Tuple(()), gym.spaces.Box(0, 1, (0,)), gym.spaces.Dict(a=gym.spaces.Dict())],
)
def test_empty_spaces_are_refused(empty: gym.Space[Any]) -> None:
    with pytest.raises(UserError, match="space .* is empty; give it at least one entry"):
        make_envs(lambda: Echo(empty, gym.spaces.Discrete(2)), 1)


# --- action masks ---


def masked(masks: list[Any], mode: str = "same_step", space: gym.Space[Any] | None = None) -> Envs:
    return make_envs([lambda length=length: Masked(masks, space, length) for length in (3, 4)], autoreset=mode)


@pytest.mark.parametrize("mode", MODES)
def test_masks_follow_the_environments(mode: str) -> None:
    masks = [np.array(bits, np.int8) for bits in ([1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1])]
    envs = masked(masks, mode)
    envs.start(0)
    for _ in range(20):
        for row, env in enumerate(envs.vector.envs):
            told = masks[env.unwrapped.moment % 4].astype(bool)
            assert np.array_equal(envs.context["action_mask"][row], np.ones(3, bool) if envs.resetting[row] else told)
        envs.step(np.zeros(2, int))


def test_taxi_says_which_actions_are_legal() -> None:
    envs = make_envs("Taxi-v4", 3)
    envs.start(0)
    assert envs.context["action_mask"].dtype == bool
    for _ in range(10):
        for row, env in enumerate(envs.vector.envs):
            assert np.array_equal(envs.context["action_mask"][row], env.unwrapped.action_mask(env.unwrapped.s) == 1)
        envs.step(envs.context["action_mask"].argmax(1))


@pytest.mark.parametrize("kind", [tuple, list, np.array])
def test_masks_of_a_multidiscrete_space_stand_side_by_side(kind: Any) -> None:
    parts = ([1, 0], [0, 1, 1])
    mask = tuple(np.array(part, bool) for part in parts) if kind is tuple else kind([1, 0, 0, 1, 1])
    envs = masked([mask], space=gym.spaces.MultiDiscrete([2, 3]))
    envs.start(0)
    assert envs.context["action_mask"].tolist() == [[True, False, False, True, True]] * 2


@pytest.mark.parametrize(
    ("masks", "space", "error", "text"),
    [
        ([[1, 1, 1], [0, 0, 0]], None, RunFailed, "environment 0 allows no action at step 2"),
        ([[1, 1, 1, 0, 0]], gym.spaces.MultiDiscrete([3, 2]), RunFailed, "environment 0 allows no action at step 0"),
        ([[1, 1, 1], None], None, UserError, "environment 0 gave no info.* at step 2"),
        ([None, [1, 1, 1]], None, UserError, "came at step 2, but not from reset"),
        ([[1, 1]], None, UserError, "at step 0 has 2 entries"),
        ([[0.0, 0.0, -1e9]], None, UserError, "holds -1000000000.0; use booleans"),
        ([[1, 1]], gym.spaces.Box(-1, 1, (2,), np.float32), UserError, "is for Discrete and MultiDiscrete"),
    ],
)
def test_wrong_masks_are_told(masks: list[Any], space: Any, error: type[Exception], text: str) -> None:
    envs = masked([None if mask is None else np.array(mask) for mask in masks], space=space)
    with pytest.raises(error, match=text):
        envs.start(0)
        envs.step(np.zeros(2, int))


# --- failures ---


class Broken(Scripted):
    """Fails in one of several ways at its n-th step (0: at the reset)."""

    def __init__(self, how: str, at: int) -> None:
        super().__init__()
        self.how, self.at = how, at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        found = super().reset(seed=seed)
        return self.spoiled(found) if self.at == 0 else found

    def step(self, action: Any) -> Any:
        found = super().step(action)
        return self.spoiled(found) if len(self.taken) == self.at else found

    def spoiled(self, found: Any) -> Any:
        if self.how == "raise":
            raise OSError("the simulator\nis gone")
        if self.how == "shape":
            return (np.zeros(3, np.float32), *found[1:])
        if self.how == "text":
            return ("left", *found[1:])
        return found[:1] if len(found) == 2 else (*found[:2], *found[3:])


@pytest.mark.parametrize(
    ("how", "at", "error", "text"),
    [
        ("raise", 0, RunFailed, "environment 1 failed in reset after 0 steps: OSError: the simulator is gone$"),
        ("raise", 3, RunFailed, "environment 1 failed in step after 4 steps: OSError: the simulator is gone$"),
        ("shape", 0, UserError, r"environment 1: observation has shape \(3,\), its space says \(2,\)"),
        ("shape", 2, UserError, r"environment 1: observation has shape \(3,\)"),
        ("text", 0, UserError, "environment 1: observation"),
        ("members", 0, UserError, r"environment 1 .*interface: reset\(.* returns \(observation, info\)"),
        ("members", 1, UserError, r"environment 1 .*interface: step\(action\) returns \(observation, reward, term"),
    ],
)
def test_a_failing_environment_is_named(how: str, at: int, error: type[Exception], text: str) -> None:
    envs = make_envs([Scripted, lambda: Broken(how, at)])
    with pytest.raises(error, match=text) as caught:
        envs.start(0)
        for _ in range(5):
            envs.step(np.zeros(2, int))
    assert "\n" not in str(caught.value)


def test_a_failing_process_is_named() -> None:
    envs = make_envs([Scripted, lambda: Broken("raise", 2)], vectorization="async")
    with pytest.raises(RunFailed, match="environment 1 failed in step after 2 steps: OSError"):
        envs.start(0)
        for _ in range(3):
            envs.step(np.zeros(2, int))
    envs.close()


def test_a_wrapped_environment_of_another_interface_is_the_user_s_mistake() -> None:
    envs = make_envs(lambda: gym.wrappers.TimeLimit(Broken("members", 1), 10), 1)
    envs.start(0)
    with pytest.raises(UserError, match="interface"):
        envs.step(np.zeros(1, int))


def test_discrete_observations_outside_their_space_are_told() -> None:
    class Outside(Echo):
        def sample(self) -> Any:
            return 5

    envs = make_envs(lambda: Outside(gym.spaces.Discrete(5), gym.spaces.Discrete(2)), 1)
    with pytest.raises(UserError, match=r"observation is 5, outside Discrete\(5\)"):
        envs.start(0)


def test_check_finite_names_the_first() -> None:
    values = np.zeros((4, 3, 2), np.float32)
    check_finite("observation", {"a": values, "b": np.zeros((4, 3), int)}, 100)
    values[2, 1, 0], values[3, 0, 0] = -np.inf, np.nan
    with pytest.raises(NonFinite, match="observation is -inf in environment 1 at step 106"):
        check_finite("observation", (np.zeros((4, 3)), values), 100)
    with pytest.raises(NonFinite, match=r"x is 1e\+300, too large for torch.float32, in environment 0 at step 0"):
        check_finite("x", np.array([[1e300]]), 0)


def test_a_vector_environment_is_taken_as_it_is() -> None:
    vector = SyncVectorEnv([Scripted] * 2, autoreset_mode=AutoresetMode.DISABLED)
    assert make_envs(vector).num_envs == 2
    with pytest.raises(UserError, match="num_envs is 8, SyncVectorEnv has 2 environments; leave it away or make it 2"):
        make_envs(vector, 8)
    with pytest.raises(UserError, match="cannot change"):
        make_envs(vector, autoreset="same_step")
    with pytest.raises(UserError, match="already made"):
        make_envs(vector, env_args={"offset": 1})
    vector.metadata = {}
    with pytest.raises(UserError, match="does not say how it resets"):
        make_envs(vector)
