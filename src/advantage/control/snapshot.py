"""Keeping an environment in mid-episode, so that a resumed run goes on as if it had never stopped.

What suffices differs by family (measured bit for bit on Gymnasium 1.4):

- whatever has `state()` and `restore(state)` of its own: those;
- classic control and toy text: a few attributes;
- MuJoCo: the integration state (with the solver's warm start) and the body positions of the step before, from which
  Ant and Humanoid take their velocity;
- Box2D and everything unknown: a replay of the actions since the last reset, from the generator's state before it.
  Contacts remember earlier episodes unless every episode begins in a fresh world, so `Recorder` gives it one, in
  training too. The last observation tells whether the replay came out right, but nothing of what an environment
  keeps across its episodes (a counter in `reset`, a generator of its own).

`deepcopy` is no way: Box2D and MuJoCo environments silently come back as newly built ones.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers.utils import RunningMeanStd

from advantage.control.space_trees import leaves, map_leaves, nested, rebuild
from advantage.control.targets import one_line
from advantage.errors import RunFailed, UserError
from advantage.trajectory import tree_map

State = dict[str, Any]  # names to arrays and values that JSON can say

_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "CartPoleEnv": ("state", "steps_beyond_terminated"),
    "CartPoleVectorEnv": ("state", "steps", "prev_done", "low", "high"),
    "AcrobotEnv": ("state",),
    "MountainCarEnv": ("state",),
    "Continuous_MountainCarEnv": ("state",),
    "PendulumEnv": ("state", "last_u"),
    "FrozenLakeEnv": ("s", "lastaction"),
    "CliffWalkingEnv": ("s", "lastaction"),
    "TaxiEnv": ("s", "lastaction", "fickle_step", "taxi_orientation"),
    "BlackjackEnv": ("player", "dealer", "dealer_top_card_suit", "dealer_top_card_value_str"),
}
_STALE_POSITIONS = ("xpos", "xipos", "site_xpos")
_KEEP_THEIR_WORLD = ("BipedalWalker", "CarRacing")  # LunarLander makes a new one at each reset
_NOT_STATE = {"env", "_saved_kwargs", "_cached_spec", "_metadata"}
LONGEST = 100_000  # actions to replay: an episode without an end must fill neither memory nor checkpoints


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Remembers how the present episode came about: its generator's state before the reset, and every action since.

    Of an episode longer than `LONGEST` it keeps no action: that one cannot be brought back.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.seed: int | None = None
        self.options: dict[str, Any] | None = None
        self.generator: Any = None
        self.actions: list[Any] = []
        self.steps = 0
        self.observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _fresh_world(self.unwrapped)
        self.seed, self.options, self.actions, self.steps = seed, deepcopy(options), [], 0
        self.generator = self.unwrapped.np_random.bit_generator.state if seed is None else None
        self.observation, info = self.env.reset(seed=seed, options=options)
        return self.observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps <= LONGEST:  # an array is a row of a buffer
            self.actions.append(action if isinstance(action, np.generic) else deepcopy(action))
        else:
            self.actions.clear()
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:  # the reset would overwrite the last observation where its buffer is used again
            observation = deepcopy(observation)
        self.observation = observation
        return observation, reward, terminated, truncated, info


def prepare(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment, with a `Recorder` around its core where only a replay can bring an episode back."""
    wrappers = list(_wrappers(env))
    if _method(env.unwrapped) != "replay" or any(isinstance(wrapper, Recorder) for wrapper in wrappers):
        return env
    recorder = Recorder(env.unwrapped)
    if not wrappers:
        return recorder
    wrappers[-1].env = recorder
    return env


def unchecked(env: Any) -> bool:
    """Whether an environment may keep something across episodes that no replay shows: one of a kind unknown here."""
    core = env.unwrapped
    return _method(core) == "replay" and not type(core).__module__.startswith("gymnasium.envs.box2d")


def snapshot(env: Any) -> State:
    """Everything needed to go on with an environment from where it is.

    Args:
        env: a wrapped environment that `prepare` has seen, or a vector environment (of SyncVectorEnv only what is not
            in its members; of others than it and CartPole's own, only the wrappers).

    Returns:
        Names to arrays (copies) and JSON-able values.

    Raises:
        UserError: an environment's own `state` holds what is no data.
    """
    core = env.unwrapped
    state: State = {"method": _method(core)}
    _put(state, "generator", core._np_random)
    _put(state, "generator_seed", core._np_random_seed)
    for name, owner in {"action_space": env, "core_action_space": core}.items():
        _put(state, name, [leaf._np_random for leaf in nested(owner.action_space)])
    for depth, wrapper in enumerate(_wrappers(env)):
        for name, value in _own_attributes(wrapper).items():
            _put(state, f"wrapper/{depth}/{name}", value)
    for name, value in _keepers[state["method"]][0](env).items():
        _put(state, name, value)
    return state


def restore(env: Any, state: Mapping[str, Any]) -> bool:
    """Brings an environment of the same making to where `snapshot` was taken.

    Returns:
        Whether that succeeded exactly. If not (another kind of environment, a replay whose last observation differs),
        the environment is in no defined state and has to be reset.

    Raises:
        RunFailed: an environment's own `restore` raised.
    """
    core = env.unwrapped
    method = _method(core)
    if method != state["method"] or not _keepers[method][1](env, state):
        return False
    core._np_random = _get(state, "generator")
    core._np_random_seed = _get(state, "generator_seed")
    for name, owner in {"action_space": env, "core_action_space": core}.items():
        for leaf, generator in zip(nested(owner.action_space), _get(state, name), strict=True):
            leaf._np_random = generator
    for depth, wrapper in enumerate(_wrappers(env)):
        prefix = f"wrapper/{depth}/"
        for name in [name.removeprefix(prefix) for name in state if name.startswith(prefix)]:
            if "/" not in name:  # further slashes: arrays inside a value
                setattr(wrapper, name, _get(state, prefix + name))
    return True


# --- one pair of functions a family: what to keep, and how to bring it back ---


def _keep_own(env: Any) -> State:
    name, own = type(env.unwrapped).__name__, env.unwrapped.state()
    if not (isinstance(own, dict) and _is_data(own)):
        raise UserError(f"{name}.state() gives no dict of plain values and arrays by name: {own!r:.80}")
    return {"own": own}


def _set_own(env: Any, state: Mapping[str, Any]) -> bool:
    try:
        env.unwrapped.restore(_get(state, "own"))
    except Exception as error:
        raise RunFailed(f"{type(env.unwrapped).__name__}.restore(state) failed: {one_line(error)}") from error
    return True


def _keep_attributes(env: Any) -> State:
    core = env.unwrapped
    return {f"attribute/{name}": getattr(core, name, None) for name in _ATTRIBUTES[type(core).__name__]}


def _set_attributes(env: Any, state: Mapping[str, Any]) -> bool:
    core = env.unwrapped
    for name in _ATTRIBUTES[type(core).__name__]:
        setattr(core, name, _get(state, f"attribute/{name}"))
    return True


def _keep_mujoco(env: Any) -> State:
    mujoco: Any = importlib.import_module("mujoco")
    model, data = env.unwrapped.model, env.unwrapped.data
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, integration, kind)
    return {"integration": integration} | {name: getattr(data, name) for name in _STALE_POSITIONS}


def _set_mujoco(env: Any, state: Mapping[str, Any]) -> bool:
    mujoco: Any = importlib.import_module("mujoco")
    model, data = env.unwrapped.model, env.unwrapped.data
    mujoco.mj_setState(model, data, _get(state, "integration"), mujoco.mjtState.mjSTATE_INTEGRATION)
    for name in _STALE_POSITIONS:
        getattr(data, name)[:] = _get(state, name)
    return True


def _keep_replay(env: Any) -> State:
    recorder = next(wrapper for wrapper in _wrappers(env) if isinstance(wrapper, Recorder))
    core = recorder.unwrapped
    state = {f"reset/{name}": getattr(recorder, name) for name in ("seed", "options", "generator")}
    state["actions/count"] = recorder.steps
    rows = [leaves(core.action_space, action, "actions/taken") for action in recorder.actions]
    state |= {name: np.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return state | leaves(
        core.observation_space, map_leaves(core.observation_space, _array, recorder.observation), "last"
    )


def _replay(env: Any, state: Mapping[str, Any]) -> bool:
    recorder = next(wrapper for wrapper in _wrappers(env) if isinstance(wrapper, Recorder))
    core = recorder.unwrapped
    if _get(state, "actions/count") > LONGEST:
        return False
    if (generator := _get(state, "reset/generator")) is not None:
        core._np_random = _generator(generator)
    taken = {name: _get(state, name) for name in state if name.split("/")[:2] == ["actions", "taken"]}
    try:
        recorder.reset(seed=_get(state, "reset/seed"), options=_get(state, "reset/options"))
        for t in range(_get(state, "actions/count")):
            recorder.step(
                rebuild(core.action_space, {name: column[t] for name, column in taken.items()}, "actions/taken")
            )
    except Exception:  # an environment that cannot take its own past again starts afresh
        return False
    reached = leaves(core.observation_space, map_leaves(core.observation_space, _array, recorder.observation), "last")
    return all(array.tobytes() == _get(state, name).tobytes() for name, array in reached.items())


def _keep_members(env: Any) -> State:
    core = env.unwrapped
    return {"pending_reset": core._autoreset_envs} | leaves(core.single_observation_space, core._observations, "batch")


def _set_members(env: Any, state: Mapping[str, Any]) -> bool:
    core = env.unwrapped
    space = core.single_observation_space
    core._autoreset_envs = _get(state, "pending_reset")
    core._observations = rebuild(
        space, {name: _get(state, name) for name in leaves(space, core._observations, "batch")}, "batch"
    )
    # Without autoreset, a reset of some members stacks the rows of all.
    core._env_obs = [tree_map(lambda leaf, row=i: leaf[row].copy(), core._observations) for i in range(core.num_envs)]
    return True


_keepers: dict[str, tuple[Any, Any]] = {
    "own": (_keep_own, _set_own),
    "attributes": (_keep_attributes, _set_attributes),
    "mujoco": (_keep_mujoco, _set_mujoco),
    "replay": (_keep_replay, _replay),
    "members": (_keep_members, _set_members),
    "none": (lambda env: {}, lambda env, state: False),
}


def _method(core: Any) -> str:
    home, name = type(core).__module__, type(core).__name__
    if home.startswith(("gymnasium.envs.classic_control", "gymnasium.envs.toy_text")) and name in _ATTRIBUTES:
        return "attributes"
    if home.startswith("gymnasium.envs.mujoco"):
        return "mujoco"
    if all(callable(getattr(core, name, None)) for name in ("state", "restore")):
        return "own"
    if isinstance(core, gym.Env):
        return "replay"
    return "members" if isinstance(core, gym.vector.SyncVectorEnv) else "none"


def _fresh_world(core: Any) -> None:
    """Gives a Box2D environment that keeps its world an empty one: the old one remembers contacts in its own order."""
    ancestors = {kind.__name__ for kind in type(core).__mro__ if kind.__module__.startswith("gymnasium.envs.box2d")}
    if ancestors.isdisjoint(_KEEP_THEIR_WORLD):
        return
    core._destroy()
    listener = getattr(
        core, "contactListener_keepref", None
    )  # CarRacing's, for life; BipedalWalker makes one at each reset
    core.world = type(core.world)(gravity=core.world.gravity, contactListener=listener)


def _wrappers(env: Any) -> Iterator[Any]:
    """The wrappers of an environment or vector environment, outermost first."""
    while isinstance(env, (gym.Wrapper, gym.vector.VectorWrapper)):
        yield env
        env = env.env


def _own_attributes(wrapper: Any) -> dict[str, Any]:
    """A wrapper's counters, queues and statistics: what is data. What is not (functions, spaces) does not change."""
    if isinstance(wrapper, Recorder):
        return {}
    return {name: value for name, value in vars(wrapper).items() if name not in _NOT_STATE and _is_data(value)}


def _array(_: gym.Space[Any], leaf: Any) -> np.ndarray:
    return np.asarray(leaf)


# --- values that keep their Python and NumPy types through names, arrays and JSON ---


def _is_data(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if isinstance(value, (tuple, list, deque)):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_data(entry) for key, entry in value.items())
    return value is None or isinstance(value, (bool, int, float, str, np.generic, np.random.Generator, RunningMeanStd))


def _put(state: State, name: str, value: Any) -> None:
    """Stores a value under a name, and the arrays inside it under names that continue it."""
    state[name] = value.copy() if isinstance(value, np.ndarray) else _encode(state, name, value)


def _get(state: Mapping[str, Any], name: str) -> Any:
    """The inverse of `_put`; arrays may come back as tensors or read-only, and leave as arrays of their own."""
    return _decode(state, state[name])


def _encode(state: State, name: str, value: Any) -> Any:
    def inner(key: Any, entry: Any) -> Any:
        return _encode(state, f"{name}/{key}", entry)

    if value is None or (isinstance(value, (bool, float, str)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, np.ndarray):
        state[name] = value.copy()
        return {"array": name}
    if isinstance(value, np.generic):
        return {"scalar": value.item(), "dtype": value.dtype.str}
    if isinstance(value, int):
        return value if abs(value) < 2**63 else {"int": str(value)}
    if isinstance(value, (tuple, list, deque)):
        entries = [inner(i, entry) for i, entry in enumerate(value)]
        return {"deque" if isinstance(value, deque) else "tuple" if isinstance(value, tuple) else "list": entries} | (
            {"maxlen": value.maxlen} if isinstance(value, deque) else {}
        )
    if isinstance(value, dict):
        return {"dict": {key: inner(key, entry) for key, entry in value.items()}}
    if isinstance(value, np.random.Generator):
        return {"generator": _encode(state, name, value.bit_generator.state)}
    if isinstance(value, RunningMeanStd):
        return {"statistics": _encode(state, name, vars(value))}
    raise TypeError(f"cannot keep {type(value).__name__} ({name})")


def _decode(state: Mapping[str, Any], value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if not isinstance(value, dict):
        return np.asarray(value).copy()
    kind = next(iter(value.keys() - {"dtype", "maxlen"}))
    content = value[kind]
    if kind == "array":
        return np.asarray(state[content]).copy()
    if kind == "scalar":
        return np.dtype(value["dtype"]).type(content)
    if kind == "int":
        return int(content)
    if kind == "dict":
        return {key: _decode(state, entry) for key, entry in content.items()}
    if kind == "generator":
        return _generator(_decode(state, content))
    if kind == "statistics":
        statistics = RunningMeanStd()  # type: ignore[no-untyped-call]
        vars(statistics).update(_decode(state, content))
        return statistics
    entries = [_decode(state, entry) for entry in content]
    return deque(entries, value["maxlen"]) if kind == "deque" else tuple(entries) if kind == "tuple" else entries


def _generator(state: Any) -> np.random.Generator:
    kinds = {
        kind.__name__: kind for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.MT19937)
    }
    bits = kinds[state["bit_generator"]]()
    bits.state = state
    return np.random.Generator(bits)
