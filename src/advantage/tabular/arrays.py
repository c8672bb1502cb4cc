"""What comes in, checked: single numbers, and arrays of NumPy, of torch, or nested lists, given back in kind."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ParamSpec

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray

from advantage.errors import UserError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

P = ParamSpec("P")

SUM_TOLERANCE = 1e-6  # thirds in float32 sum to 1 within it
MOST = 100_000_000  # what is counted and kept: a slip of the finger beyond it would fill the memory


def whole(name: str, given: Any, low: int, high: int | None = None) -> int:
    """A whole number from `low` to `high`, of Python or of NumPy.

    Raises:
        UserError: it is none, or lies outside.
    """
    try:
        value = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        value = None
    if value is None or value < low or (high is not None and value > high):
        most = "" if high is None else f" to {high:,}"
        raise UserError(f"{name} is {given!r}; it must be a whole number from {low}{most}")
    return value


def real(name: str, given: Any, low: float | None = None, high: float = np.inf) -> float:
    """A number, of Python or of NumPy; where `low` is given, in [low, high].

    Raises:
        UserError: it is none (truth values and words are none), or lies outside.
    """
    try:
        value = None if isinstance(given, bool | np.bool_ | str | bytes) else float(given)
    except (TypeError, ValueError, OverflowError):
        value = None
    if value is None:
        raise UserError(f"{name} is {given!r}; it must be a number")
    if low is not None and not low <= value <= high:
        raise UserError(f"{name} is {given}; it must lie in [{low:g}, {high:g}]")
    return value


def plain(name: str, given: Any) -> Floats:
    """As a float64 array of NumPy; what is one already is not copied.

    Raises:
        UserError: it is no table of numbers.
    """
    if sparse.issparse(given):
        raise UserError(
            f"{name} is one sparse array of {given.shape}; give a dense one, or a list, one for each action"
        )
    try:
        array = np.asarray(given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given)
        if array.dtype.kind in "biufO":
            return array.astype(np.float64, copy=False)
        fact = f"holds {array.dtype}"
    except (TypeError, ValueError, OverflowError) as error:
        fact = str(error)
    raise UserError(f"{name} is no table of numbers with rows of equal length: {fact}")


def numbers(name: str, given: Any, shape: tuple[int, ...]) -> Floats:
    """Finite float64 numbers of this shape.

    Raises:
        UserError: another shape, or an entry that is NaN or infinite.
    """
    array = plain(name, given)
    if array.shape != shape:
        raise UserError(f"{name} has shape {array.shape}; it must be {shape}")
    if not np.isfinite(array).all():
        place = np.unravel_index(int(np.argmin(np.isfinite(array))), shape)
        raise UserError(f"{name}{list(map(int, place)) or ''} is {array[place]}; it must be finite")
    return array


def distributions(name: str, given: Any, shape: tuple[int, ...]) -> Floats:
    """Probabilities along the last axis.

    Raises:
        UserError: another shape, an entry below 0, or a row whose sum is not 1.
    """
    array = numbers(name, given, shape)
    if (array < 0).any():
        place = np.unravel_index(int(np.argmin(array)), shape)
        raise UserError(f"{name}{list(map(int, place))} is {array[place]}; a probability is at least 0")
    sums = array.sum(-1)
    if (wrong := np.abs(sums - 1.0) > SUM_TOLERANCE).any():
        first = tuple(np.argwhere(wrong)[0].tolist())
        raise UserError(f"{name}{list(first) or ''} sums to {sums[first]:.6g}; probabilities sum to 1")
    return array


def in_kind(function: Callable[P, Floats]) -> Callable[P, Any]:
    """Lets a function of (mdp, table) that returns an array return a torch tensor where its table was one."""

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Any:
        result = function(*args, **kwargs)
        given = next((it for it in (*args, *kwargs.values()) if isinstance(it, torch.Tensor)), None)
        return result if given is None else torch.as_tensor(result, dtype=given.dtype, device=given.device)

    wrapped.__doc__, wrapped.__name__, wrapped.__module__ = function.__doc__, function.__name__, function.__module__
    wrapped.__wrapped__ = function  # type: ignore[attr-defined]
    return wrapped
