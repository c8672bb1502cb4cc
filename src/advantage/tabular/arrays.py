"""What comes in as an array: of NumPy, of torch, or nested lists; checked to be finite, and given back in kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec

import numpy as np
import torch
from numpy.typing import NDArray

from advantage.errors import UserError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

P = ParamSpec("P")

SUM_TOLERANCE = 1e-6  # thirds in float32 sum to 1 within it


def plain(given: Any) -> Floats:
    """As a float64 array of NumPy; what is one already is not copied."""
    return np.asarray(given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given, np.float64)


def numbers(name: str, given: Any, shape: tuple[int, ...]) -> Floats:
    """Finite float64 numbers of this shape.

    Raises:
        UserError: another shape, or an entry that is NaN or infinite.
    """
    array = plain(given)
    if array.shape != shape:
        raise UserError(f"{name} has shape {array.shape}; it must be {shape}")
    if not np.isfinite(array).all():
        place = np.unravel_index(int(np.argmin(np.isfinite(array))), shape)
        raise UserError(f"{name}{list(map(int, place))} is {array[place]}; it must be finite")
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
