"""What a user may name as an environment, found and understood before anything is built."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator, parse_env_id
from gymnasium.vector import VectorEnv

from advantage.errors import UserError, nearest

Constructor = Callable[[], gym.Env[Any, Any]]
_EXTRAS = {"gymnasium.envs.box2d": "box2d", "gymnasium.envs.mujoco": "mujoco"}


@dataclass(frozen=True)
class Target:
    """How to build what was named: one constructor an environment, and the vector entry point where one fits."""

    name: str
    constructors: Sequence[Constructor]
    native: Callable[[], Any] | None = None


def count(target: Any) -> int | None:
    """How many environments a target is by itself; None for an id or a constructor, which make as many as are wanted.

    >>> count("CartPole-v1"), count([dict, dict])
    (None, 2)
    """
    if isinstance(target, VectorEnv):
        return int(target.num_envs)
    if isinstance(target, gym.Env):
        return 1
    return len(target) if isinstance(target, (list, tuple)) else None


def check_count(target: Any, num_envs: int | None) -> None:
    """Refuses a number of environments that the target is not.

    Raises:
        UserError: another number than its own.
    """
    has = count(target)
    if has in (None, num_envs) or num_envs is None:
        return
    fact = "an environment instance is one environment"
    if isinstance(target, VectorEnv):
        fact = f"{type(target.unwrapped).__name__} has {has} environments"
    elif not isinstance(target, gym.Env):
        fact = f"the list has {has} constructors"
    raise UserError(f"num_envs is {num_envs}, {fact}; leave it away or make it {has}")


def resolve(target: Any, num_envs: int | None, env_args: Mapping[str, Any], render_mode: str | None) -> Target:
    """How to build a Gymnasium id (`module:Env-v0` imports the module first), an instance, one or several constructors.

    Args:
        target: as above.
        num_envs: how many environments; None is as many as the target has (1 for an id or a constructor).
        env_args: keyword arguments of the environment.
        render_mode: Gymnasium's; None renders nothing.

    Raises:
        UserError: an unknown id, an argument the environment does not have, a missing extra, an unfit number.
    """
    arguments = dict(env_args) | ({} if render_mode is None else {"render_mode": render_mode})
    if isinstance(target, str):
        return _of_id(target, num_envs or 1, arguments)
    if isinstance(target, gym.Env):
        if arguments:
            raise UserError(
                f"{_shown(arguments)} cannot be given to an environment that is made; give its id or constructor"
            )
        check_count(target, num_envs)
        return Target(type(target.unwrapped).__name__, [lambda: target])
    if isinstance(target, (list, tuple)):
        if wrong := [entry for entry in target if not callable(entry)]:
            raise UserError(f"a list of environments holds constructors, not {wrong[0]!r}")
        if not target:
            raise UserError("an empty list of constructors makes no environment")
        check_count(target, num_envs)
        return _of_constructors(target, arguments)
    if callable(target):
        return _of_constructors(_repeated(target, num_envs or 1), arguments)
    raise UserError(
        f"{target!r} is no environment: give a Gymnasium id, an environment, a constructor or a list of constructors"
    )


def find_spec(name: str) -> EnvSpec:
    """The registered environment of an id, its module imported first where the id names one.

    Raises:
        UserError: no such module, id or version; says what comes nearest.
    """
    module, _, env_id = name.rpartition(":")
    if module:
        _import(module, name)
    if env_id in gym.registry:
        return gym.registry[env_id]
    raise UserError(_unknown(env_id))


def _of_id(name: str, num_envs: int, arguments: dict[str, Any]) -> Target:
    spec = find_spec(name)
    make = partial(gym.make, spec, disable_env_checker=True, **arguments)
    entry = spec.entry_point
    if entry is None:
        raise UserError(f"{spec.id} is registered without an entry point; it cannot be made")
    taken_by_gymnasium = {"max_episode_steps", "render_mode"}
    asked = {name: value for name, value in arguments.items() if name not in taken_by_gymnasium}
    _check_arguments(spec.id, _load(spec, entry) if isinstance(entry, str) else entry, asked)
    return Target(
        spec.id, _repeated(partial(_build, spec, make, arguments), num_envs), _native(spec, num_envs, arguments)
    )


def _of_constructors(constructors: Sequence[Callable[..., Any]], arguments: dict[str, Any]) -> Target:
    name = getattr(constructors[0], "__name__", type(constructors[0]).__name__)
    for constructor in set(constructors):
        _check_arguments(name, constructor, arguments)
    return Target(name, [partial(_build, name, partial(make, **arguments), arguments) for make in constructors])


def _repeated(constructor: Constructor, num_envs: int) -> list[Constructor]:
    try:
        return [constructor] * num_envs
    except (MemoryError, OverflowError):
        raise UserError(f"num_envs={num_envs} does not fit in memory; make it smaller") from None


def _native(spec: EnvSpec, num_envs: int, arguments: dict[str, Any]) -> Callable[[], Any] | None:
    """The environment's own vector entry point, unless it lacks an argument that its single environment has."""
    entry = spec.vector_entry_point
    if entry is None or spec.additional_wrappers or "render_mode" in arguments:
        return None
    known = inspect.signature(_load(spec, entry) if isinstance(entry, str) else entry).parameters
    if not set(arguments) <= set(known):
        return None
    return partial(gym.make_vec, spec, num_envs, vectorization_mode="vector_entry_point", **arguments)


def _build(spec: EnvSpec | str, make: Constructor, arguments: Mapping[str, Any]) -> gym.Env[Any, Any]:
    name = spec if isinstance(spec, str) else spec.id
    try:
        env = make()
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise _missing(spec, error) from error
    except Exception as error:
        given = f" with {_shown(arguments)}" if arguments else ""
        raise UserError(f"{name} could not be made{given}: {one_line(error)}") from error
    if not isinstance(env, gym.Env):
        raise UserError(f"{name} makes a {type(env).__name__}, not a gymnasium.Env")
    return env


def _load(spec: EnvSpec, entry: str) -> Callable[..., Any]:
    try:
        return load_env_creator(entry)
    except (ImportError, AttributeError, gym.error.DependencyNotInstalled) as error:
        raise _missing(spec, error) from error


def _missing(spec: EnvSpec | str, error: Exception) -> UserError:
    name, entry = (spec, "") if isinstance(spec, str) else (spec.id, str(spec.entry_point))
    extra = next((extra for module, extra in _EXTRAS.items() if entry.startswith(module)), None)
    if extra is None:
        return UserError(f"{name} cannot be loaded: {one_line(error)}")
    return UserError(
        f'{name} needs an extra that is not installed: pip install "advantage[{extra}]" ({one_line(error)})'
    )


def _check_arguments(name: str, constructor: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(constructor).parameters
    except ValueError:  # a builtin that does not tell
        return
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for argument, value in arguments.items():
        if argument in parameters:
            _check_kind(name, argument, value, parameters[argument].default)
        elif not takes_all:
            known = nearest(argument, parameters) if parameters else "it takes none"
            raise UserError(f"{name} has no argument {argument!r}: {known}")


def _check_kind(name: str, argument: str, value: Any, default: Any) -> None:
    """Refuses a word where the default is a truth or a number: a misspelt `false` is true to an environment."""
    if isinstance(value, str) and isinstance(default, bool | int | float):
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise UserError(f"{name}: {argument} is {value!r}; it must be {kind}")


def _import(module: str, name: str) -> None:
    if os.getcwd() not in sys.path:  # a console script does not look where the user stands
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except Exception as error:
        raise UserError(f"{name!r}: module {module!r} cannot be imported: {one_line(error)}") from error


def _unknown(env_id: str) -> str:
    try:
        namespace, name, version = parse_env_id(env_id)
    except gym.error.Error:
        return f"{env_id!r} is no environment id; ids look like CartPole-v1 or module:Env-v0"
    versions = {
        spec.version: spec.id for spec in gym.registry.values() if (spec.namespace, spec.name) == (namespace, name)
    }
    if versions and version is None:
        return f"environment {env_id!r} needs a version: {', '.join(versions.values())}"
    if versions:
        newest = max(versions, key=lambda number: number or 0)
        older = version is not None and newest is not None and version < newest
        return f"environment {env_id!r} {'is deprecated' if older else 'does not exist'}; use {versions[newest]}"
    close = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.6)
    if close:
        return f"unknown environment {env_id!r}: {nearest(env_id, close)}"
    if namespace is not None and namespace not in {spec.namespace for spec in gym.registry.values()}:
        return (
            f"unknown environment {env_id!r}: nothing of {namespace!r} is registered; name its module, module:{env_id}"
        )
    return f"unknown environment {env_id!r}: none of the {len(gym.registry)} registered ones has a name like it"


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def one_line(error: BaseException) -> str:
    """An error as `Type: message`, on one line."""
    text = " ".join(str(error).split(" was raised from the environment creator")[0].split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
