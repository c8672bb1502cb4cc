"""Calling a reward function: what it is given, what becomes of its exceptions, and what it may give back."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias

from advantage.errors import NonFinite, RunFailed, UserError

Reward: TypeAlias = Callable[..., Any]
SIGNATURE = "f(prompts, completions, completion_ids=None, **columns) -> list[float | None]"


def one_line(error: BaseException) -> str:
    """An error as `Type: message`, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def parameters(function: Reward) -> Mapping[str, inspect.Parameter] | None:
    """Of its signature; None where it does not tell."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def required(function: Reward) -> list[str]:
    """The arguments that it cannot do without."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = (parameters(function) or {}).values()
    return [one.name for one in known if one.kind in by_name and one.default is one.empty]


def arguments_of(function: Reward, calls: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """What of a call the function takes."""
    known = parameters(function)
    if known is None or any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return dict(calls)
    return {name: values for name, values in calls.items() if name in known}


def is_async(function: Reward) -> bool:
    """Whether its result has to be awaited."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _row(arguments: Mapping[str, list[Any]], row: int) -> dict[str, list[Any]]:
    return {name: values[row : row + 1] for name, values in arguments.items()}


def judge(function: Reward, arguments: Mapping[str, list[Any]], rows: int) -> Any:
    """The function's results; after an exception one by one, so that only the offender fails."""
    try:
        return function(**arguments)
    except (UserError, RunFailed):
        raise
    except Exception as error:
        if rows == 1:
            return [error]
    except SystemExit as error:  # the function's failure, not the end of the training
        if rows == 1:
            return [RuntimeError(f"called exit({error.code!r})")]
    return [_only(judge(function, _row(arguments, row), 1)) for row in range(rows)]


async def judge_async(function: Reward, arguments: Mapping[str, list[Any]], rows: int, timeout: float) -> Any:
    """As `judge`; a batch that is too slow is given again one by one too, all at the same time."""
    try:
        return await asyncio.wait_for(function(**arguments), timeout)
    except (UserError, RunFailed):
        raise
    except TimeoutError as error:
        if rows == 1:
            return [TimeoutError(f"timed out after {timeout:g} s") if not str(error) else error]
    except Exception as error:
        if rows == 1:
            return [error]
    singles = (judge_async(function, _row(arguments, row), 1, timeout) for row in range(rows))
    return [_only(results) for results in await asyncio.gather(*singles)]


def _only(results: Any) -> Any:
    results = results.tolist() if hasattr(results, "tolist") else results
    if not isinstance(results, (list, tuple)) or len(results) != 1:
        return RunFailed(f"gave {results!r:.60} for one completion")
    return results[0]


def gather(coroutines: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run coroutines to their end, in a thread where this one has a loop already (a notebook)."""
    if not coroutines:
        return []

    async def together() -> list[Any]:
        return list(await asyncio.gather(*coroutines))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(together())
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(asyncio.run(together()))
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(box[0], BaseException):
        raise box[0]
    return list(box[0])


def check_results(
    name: str, results: Any, lengths: Sequence[int], rows: Sequence[int], texts: Sequence[str]
) -> list[Any]:
    """The entries as floats, lists of floats, None or exceptions."""
    results = results.tolist() if hasattr(results, "tolist") else results
    if not isinstance(results, (list, tuple)):
        raise RunFailed(f"reward {name} gave a {type(results).__name__}; expected {SIGNATURE}")
    if len(results) != len(lengths):
        raise RunFailed(f"reward {name} gave {len(results)} rewards for {len(lengths)} completions")
    return [
        _check_entry(f"reward {name}", entry, length, f"completion {row} ({text!r:.60})")
        for entry, length, row, text in zip(results, lengths, rows, texts, strict=True)
    ]


def _check_entry(who: str, entry: Any, length: int, which: str) -> Any:
    if isinstance(entry, RunFailed):
        raise RunFailed(f"{who} {entry}")
    if entry is None or isinstance(entry, Exception):
        return entry
    entry = entry.tolist() if hasattr(entry, "tolist") else entry
    if isinstance(entry, (list, tuple)):
        if len(entry) != length:
            raise RunFailed(f"{who} gave {len(entry)} token rewards for the {length} tokens of {which}")
        return [_number(who, one, f"token {index} of {which}") for index, one in enumerate(entry)]
    return _number(who, entry, which)


def _number(who: str, value: Any, which: str) -> float:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise RunFailed(f"{who} gave {value!r:.60} for {which}; it must be a number or None")
    number = float(value)
    if not math.isfinite(number):
        raise NonFinite(f"{who} is {number} for {which}; it must be a finite number or None")
    return number
