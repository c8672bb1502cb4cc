"""Environments as the collector sees them: one adapter over Gymnasium's vector environments in any autoreset mode.

NEXT_STEP  an episode's last observation comes back as any other; the step after it only resets, ignores its action
           and is no transition: `resetting` names its rows beforehand.
SAME_STEP  the step that ends an episode returns the next one's first observation; the last one travels in `final`.
DISABLED   `step` itself resets what has ended; outwardly as SAME_STEP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from advantage.control.failures import explain, misfits
from advantage.control.masks import Masks
from advantage.control.snapshot import State, prepare, restore, snapshot, unchecked
from advantage.control.space_trees import Spaces, leaves, map_leaves, rebuild, sender, unsupported
from advantage.control.targets import check_count, one_line, resolve
from advantage.errors import NonFinite, UserError, nearest
from advantage.trajectory import Episode, Tree, tree_leaves, tree_map

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Transition(NamedTuple):
    """What one step brought, (E,) each.

    `final` holds, by row, the last observation of an episode that was truncated, where `Envs.context` already shows the
    next episode's first.
    """

    rewards: Floats
    terminated: Bools
    truncated: Bools
    final: Mapping[int, Tree]


def make_envs(
    target: Any,
    num_envs: int | None = None,
    *,
    vectorization: str = "auto",
    env_args: Mapping[str, Any] = _NOTHING,
    autoreset: str | AutoresetMode | None = None,
    render_mode: str | None = None,
) -> Envs:
    """The environments that a user names, ready to `start`.

    Args:
        target: a Gymnasium id (`module:Env-v0` imports the module first), an environment, a constructor, a list of
            constructors, or a Gymnasium vector environment.
        num_envs: how many; None is as many as the target has, 1 for an id or a constructor.
        vectorization: "auto" takes the environment's own vector entry point where it has one that knows the arguments,
            else steps them in turn in this process; "sync" always the latter; "async" a process for each.
        env_args: keyword arguments of the environment.
        autoreset: "next_step", "same_step" or "disabled"; None is the vector entry point's own, else "same_step".
        render_mode: Gymnasium's; None renders nothing.

    Raises:
        UserError: whatever can be known to be wrong before the first step.
    """
    if vectorization not in ("auto", "sync", "async"):
        raise UserError(f"unknown vectorization {vectorization!r}: {nearest(vectorization, ('auto', 'sync', 'async'))}")
    if num_envs is not None and (isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1):
        raise UserError(f"num_envs must be a whole number of at least 1, not {num_envs!r}")
    mode = _mode(autoreset)
    if isinstance(target, VectorEnv):
        return _given(target, num_envs, env_args, mode)
    resolved = resolve(target, num_envs, env_args, render_mode)
    if vectorization == "auto" and resolved.native is not None and mode in (None, AutoresetMode.NEXT_STEP):
        return Envs(resolved.native(), resolved.name)
    if vectorization == "async" and isinstance(target, gym.Env):
        raise UserError("an environment instance cannot be moved to a process of its own; give its id or constructor")
    kind = _Processes if vectorization == "async" else SyncVectorEnv
    try:
        vector = kind(resolved.constructors, copy=False, autoreset_mode=mode or AutoresetMode.SAME_STEP)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{resolved.name}: {one_line(error)}") from error
    return Envs(vector, resolved.name)


class Envs:
    """A row of environments that step together.

    Attributes:
        spaces: the observation and action space of one of them.
        num_envs: how many, E.
        context: what the policy sees now: {"observation": tree of (E, …)} and, where the environments say which actions
            are legal, "action_mask" (E, n) bool. The arrays are valid until the next step: copy what is to stay.
        resetting: (E,) bool, rows whose coming step only resets: their action is ignored and no transition comes of it.
        steps: transitions so far, over all environments.
        lengths: (E,) steps of the present episodes.
        notes: lines for the user, about a resume that could not be exact.
    """

    def __init__(self, vector: VectorEnv[Any, Any, Any], name: str) -> None:
        mode = vector.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise UserError(
                f"{name} does not say how it resets: its metadata['autoreset_mode'] is {mode!r}, no AutoresetMode"
            )
        self.vector, self.name, self.num_envs = vector, name, vector.num_envs
        self.spaces = Spaces(vector.single_observation_space, vector.single_action_space)
        for role, space in vars(self.spaces).items():
            if (wrong := unsupported(space)) is not None:
                raise UserError(f"{name}: {role} space {wrong}")
        self._mode = mode
        self._members: list[gym.Env[Any, Any]] = []
        if isinstance(vector.unwrapped, SyncVectorEnv):
            self._members = _distinct([prepare(env) for env in vector.unwrapped.envs], name)
            vector.unwrapped.envs = self._members
        self._send = sender(self.spaces.action)
        self._masks = Masks(self.spaces.action, self.num_envs)
        self._everyone = np.ones(self.num_envs, bool)
        self.notes: list[str] = []

    def start(self, seed: int) -> None:
        """Resets every environment; the seed of each is a function of `seed` and its index alone.

        Raises:
            UserError: an environment that does not keep to Gymnasium's interface, or to its own observation space.
            RunFailed: a reset that raises.
        """
        self._seed, self.steps = seed, 0
        self._returns, self.lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        self._finished: list[Episode] = []
        self._wait_for(~self._everyone)
        self._begin_anew(self._everyone)
        if (wrong := misfits(self.vector)) is not None:
            raise UserError(f"{self.name}: {wrong}")

    def reset(self) -> None:
        """Leaves every episode unfinished and begins new ones, seeded by index and the steps so far."""
        self._begin_anew(self._everyone)

    def step(self, actions: Tree) -> Transition:
        """One step of all environments.

        Args:
            actions: the policy's, a tree of (E, …): discrete ones from 0 (the space's start is added here), continuous
                ones within the space's bounds.

        Raises:
            RunFailed: an environment that raises, or that leaves no action to choose.
            UserError: an environment that does not keep to Gymnasium's interface.
        """
        try:
            observation, rewards, terminated, truncated, infos = self.vector.step(self._send(actions))
        except Exception as error:
            raise explain("step", error, self.vector, self.name, self.steps) from error
        rewards = np.asarray(rewards, np.float64)
        self._returns += rewards
        self.lengths += 1
        self.steps += self.num_envs
        if self._waiting:
            self.steps -= int(self.resetting.sum())
            self._clear(self.resetting)
            self._wait_for(~self._everyone)
        ended = terminated | truncated
        if not ended.any():
            self._show(observation, infos, self._everyone)
            return Transition(rewards, terminated, truncated, _NOTHING)
        self._finish(ended, terminated)
        return Transition(rewards, terminated, truncated, self._turn(observation, infos, ended, truncated))

    def finished_episodes(self) -> list[Episode]:
        """The episodes that ended since this was last asked."""
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """Closes the environments."""
        self.vector.close()

    def state(self) -> State:
        """Everything needed to go on in mid-episode, after `start`: names to arrays (copies) and JSON-able values."""
        state: State = {
            "seed": self._seed,
            "steps": self.steps,
            "returns": self._returns.copy(),
            "lengths": self.lengths.copy(),
            "resetting": self.resetting.copy(),
            "finished": [[each.stream, each.length, each.total_reward, each.ended] for each in self._finished],
        }
        state |= leaves(self.spaces.observation, tree_map(np.array, self.context["observation"]), "observation")
        if self._masks.current is not None:
            state["action_mask"] = self._masks.current.copy()
        for name, env in self._parts().items():
            state |= {f"{name}/{key}": value for key, value in snapshot(env).items()}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state`, in place of `start`.

        What cannot be brought back exactly begins a new episode, and `notes` says so.

        Raises:
            UserError: the state is of another number of environments.
        """
        state = {name: np.asarray(value).copy() if hasattr(value, "shape") else value for name, value in state.items()}
        saved = len(state["lengths"])
        if saved != self.num_envs:
            raise UserError(f"the run has {saved} environments, not {self.num_envs}; num_envs cannot change on resume")
        self._seed, self.steps = state["seed"], state["steps"]
        self._returns, self.lengths = state["returns"], state["lengths"]
        self._finished = [Episode(*entry) for entry in state["finished"]]
        self._wait_for(state["resetting"])
        self._masks.current = state.get("action_mask")
        self.context = self._context(rebuild(self.spaces.observation, state, "observation"))
        lost = self._restore_parts(state)
        if lost.any():
            self._begin_anew(lost)
            self.notes.append(
                f"{self.name}: {lost.sum()} of {self.num_envs} environments cannot go on in mid-episode and begin"
                " a new one; from here the run is not bit for bit the uninterrupted one"
            )
        elif unknown := next((type(env.unwrapped).__name__ for env in self._members if unchecked(env)), None):
            self.notes.append(
                f"state that {unknown} keeps outside its episode cannot be checked; give it state() and restore()"
            )

    def _parts(self) -> dict[str, Any]:
        return {"vector": self.vector} | {str(index): env for index, env in enumerate(self._members)}

    def _restore_parts(self, state: Mapping[str, Any]) -> Bools:
        """Brings the environments back; (E,) bool says for which that failed."""
        failed = {}
        for name, env in self._parts().items():
            own = {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}
            failed[name] = not own or not restore(env, own)
        if failed["vector"]:
            return self._everyone
        return np.array([failed.get(str(index), False) for index in range(self.num_envs)])

    def _begin_anew(self, rows: Bools) -> None:
        """Resets these rows, seeded by their index and the steps so far."""
        seeds = [environment_seed(self._seed, index, self.steps) for index in range(self.num_envs)]
        for index in np.flatnonzero(rows) if self._members else ():
            self._members[index].action_space.seed(seeds[index])
        one_each = isinstance(self.vector.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
        observation, infos = self._reset(seeds if one_each else seeds[0], None if rows.all() else {"reset_mask": rows})
        self._clear(rows)
        self._wait_for(self.resetting & ~rows)
        if rows.all():
            self._masks.begin(infos)
        self._show(observation, infos, rows)

    def _reset(self, seed: Any, options: dict[str, Any] | None) -> tuple[Tree, dict[str, Any]]:
        try:
            return self.vector.reset(seed=seed, options=options)
        except Exception as error:
            raise explain("reset", error, self.vector, self.name, self.steps) from error

    def _turn(self, observation: Tree, infos: dict[str, Any], ended: Bools, truncated: Bools) -> Mapping[int, Tree]:
        """Shows what follows an end, and returns the last observations that are then out of sight."""
        if self._mode is AutoresetMode.NEXT_STEP:
            self._wait_for(ended)
            self._masks.allow_all(ended)  # a state without any action left may say so
            self._show(observation, infos, ~ended)
            return _NOTHING
        cut = [int(row) for row in np.flatnonzero(truncated)]
        if self._mode is AutoresetMode.SAME_STEP:
            self._show(observation, infos, self._everyone)
            return {row: map_leaves(self.spaces.observation, _as_array, infos["final_obs"][row]) for row in cut}
        final = {row: tree_map(lambda leaf, row=row: leaf[row].copy(), observation) for row in cut}
        self._masks.read(infos, ~ended, self.steps)
        observation, infos = self._reset(None, {"reset_mask": ended})
        self._show(observation, infos, ended)
        return final

    def _show(self, observation: Tree, infos: Mapping[str, Any], told: Bools) -> None:
        """Sets the context; `told` are the rows whose action mask the infos have to bring."""
        self._masks.read(infos, told, self.steps)
        self.context = self._context(observation)

    def _context(self, observation: Tree) -> dict[str, Any]:
        masks = {} if self._masks.current is None else {"action_mask": self._masks.current}
        return {"observation": observation, **masks}

    def _finish(self, ended: Bools, terminated: Bools) -> None:
        for row in np.flatnonzero(ended):
            how = "terminated" if terminated[row] else "truncated"
            self._finished.append(Episode(int(row), int(self.lengths[row]), float(self._returns[row]), how))
        self._clear(ended)

    def _clear(self, rows: Bools) -> None:
        self._returns[rows] = 0.0
        self.lengths[rows] = 0

    def _wait_for(self, rows: Bools) -> None:
        self.resetting, self._waiting = rows, bool(rows.any())


class _Processes(AsyncVectorEnv[Any, Any]):
    """Without Gymnasium's own report of a crash, which is several tracebacks long: the error itself comes out."""

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1
        try:
            super()._raise_if_errors(successes)
        finally:
            gym.logger.min_level = level


def environment_seed(seed: int, index: int, steps: int = 0) -> int:
    """The 32-bit seed of the environment with this global index; `steps` > 0 where it starts once more."""
    return int(np.random.SeedSequence((seed, *b"environments", index, steps)).generate_state(1)[0])


def check_finite(name: str, values: Tree, first_step: int) -> None:
    """Refuses NaN and infinity in what was collected, and what would become infinite in the network's arithmetic.

    Args:
        name: of the quantity, for the message.
        values: a tree of (time, E, …) arrays.
        first_step: environment steps taken before the first row.

    Raises:
        NonFinite: names quantity, environment and step of the first one.
    """
    for leaf in tree_leaves(values):
        if not (fine := finite(leaf)).all():
            where = tuple(np.argwhere(~fine)[0])
            step = first_step + int(where[0]) * leaf.shape[1]
            beyond = f", too large for {torch.get_default_dtype()}," if np.isfinite(leaf[where]) else ""
            raise NonFinite(f"{name} is {leaf[where]}{beyond} in environment {where[1]} at step {step}")


def finite(values: np.ndarray[Any, Any]) -> Bools:
    """Which values stay finite in the network's arithmetic."""
    if values.dtype.kind != "f":
        return np.ones(values.shape, bool)
    fine: Bools = np.abs(values) <= np.float64(torch.finfo(torch.get_default_dtype()).max)
    return fine


def _given(
    vector: VectorEnv[Any, Any, Any], num_envs: int | None, env_args: Mapping[str, Any], mode: AutoresetMode | None
) -> Envs:
    name = type(vector.unwrapped).__name__
    if env_args:
        raise UserError(
            f"{', '.join(env_args)} cannot be given to the vector environment {name}, which is already made"
        )
    check_count(vector, num_envs)
    if mode not in (None, vector.metadata.get("autoreset_mode")):
        raise UserError(
            f"{name} resets as {vector.metadata.get('autoreset_mode')}, which autoreset={mode} cannot change"
        )
    return Envs(vector, name)


def _mode(autoreset: str | AutoresetMode | None) -> AutoresetMode | None:
    if autoreset is None or isinstance(autoreset, AutoresetMode):
        return autoreset
    if autoreset.upper() not in AutoresetMode.__members__:
        raise UserError(
            f"unknown autoreset {autoreset!r}: {nearest(autoreset, [mode.name.lower() for mode in AutoresetMode])}"
        )
    return AutoresetMode[autoreset.upper()]


def _distinct(envs: list[gym.Env[Any, Any]], name: str) -> list[gym.Env[Any, Any]]:
    if len({id(env.unwrapped) for env in envs}) < len(envs):
        raise UserError(f"{name} makes the same environment twice; a constructor has to make a new one each time")
    return envs


def _as_array(space: gym.Space[Any], leaf: Any) -> np.ndarray[Any, Any]:
    return np.asarray(leaf, space.dtype)
