"""Whose fault it is when an environment raises, told in one line."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from advantage.control import snapshot
from advantage.control.space_trees import misfit
from advantage.control.targets import one_line
from advantage.errors import RunFailed, UserError

_GYMNASIUM = Path(gym.__file__).parent
_LOOP = (_GYMNASIUM / "vector", _GYMNASIUM / "wrappers", Path(snapshot.__file__))
_TOO_MUCH = (
    "allocate memory",
    "Storage size calculation overflowed",
    "Overflow when unpacking",
    "cannot fit 'int' into an index-sized",
    "Maximum allowed dimension exceeded",
    "array is too big",
)
_LOOPS = (SyncVectorEnv.step.__code__, SyncVectorEnv.reset.__code__)
_INTERFACE = {
    "step": "step(action) returns (observation, reward, terminated, truncated, info)",
    "reset": "reset(seed=, options=) returns (observation, info)",
}


def explain(
    call: str, error: Exception, vector: VectorEnv[Any, Any, Any], name: str, steps: int
) -> UserError | RunFailed:
    """The exception to raise in place of one that came out of `vector.step` or `vector.reset`.

    Args:
        call: "step" or "reset".
        error: what came out.
        vector: the vector environment.
        name: what the user calls it.
        steps: environment steps taken before.

    Returns:
        UserError where an environment does not keep to Gymnasium's interface, RunFailed with its own error where it
        crashed.
    """
    if (wrong := misfits(vector)) is not None:
        return UserError(f"{name}: {wrong}")
    index = _culprit(error, vector)
    where = "an environment" if index is None else f"environment {index}"
    if not isinstance(vector.unwrapped, AsyncVectorEnv) and _raised_by_the_loop(error):
        return UserError(
            f"{name}: {where} does not keep to Gymnasium's interface: {_INTERFACE[call]} ({one_line(error)})"
        )
    return RunFailed(f"{name}: {where} failed in {call} after {steps} steps: {one_line(error)}")


def misfits(vector: VectorEnv[Any, Any, Any]) -> str | None:
    """The first latest observation that does not belong to the observation space, in words; known in process only."""
    space = vector.unwrapped.single_observation_space
    for index, observation in enumerate(getattr(vector.unwrapped, "_env_obs", ())):
        if observation is not None and (text := misfit(space, observation, "observation")) is not None:
            return f"environment {index}: {text}"
    return None


@contextmanager
def in_memory(say: Callable[[], str] | None = None, /, **asked: Any) -> Iterator[None]:
    """Around what makes large arrays, whose size these settings say, or `say()` where settings alone do not.

    Raises:
        UserError: in place of any of the errors by which NumPy, torch and Python say that so much cannot be had.
    """
    try:
        yield
    except (RunFailed, UserError):  # RuntimeError and ValueError too, and said already
        raise
    except (MemoryError, OverflowError, RuntimeError, ValueError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in _TOO_MUCH)):
            raise
        settings = ", ".join(f"{name}={value}" for name, value in asked.items())
        raise UserError(say() if say else f"{settings} does not fit in memory; make it smaller") from error


def _culprit(error: Exception, vector: VectorEnv[Any, Any, Any]) -> int | None:
    core: Any = vector.unwrapped
    if isinstance(core, AsyncVectorEnv):  # the pipe of a worker that raised is dropped
        return next((index for index, pipe in enumerate(core.parent_pipes) if pipe is None), None)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code in _LOOPS]
    return frames[-1].f_locals.get("i") if frames else None


def _raised_by_the_loop(error: Exception) -> bool:
    """Whether the vector loop or a wrapper raised it, which happens when they cannot use what they were given."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    return any(Path(last.f_code.co_filename).is_relative_to(place) for place in _LOOP)
