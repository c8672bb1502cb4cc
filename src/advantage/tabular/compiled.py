"""numba, where it is installed: it compiles the very loops that otherwise run over lists, to the same bits."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

from advantage.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])

WORTH = 200_000  # outcomes of a sweep from which a second of compiling pays


@functools.cache
def installed() -> bool:
    """Whether numba is there."""
    return importlib.util.find_spec("numba") is not None


def worth_compiling(work: int) -> bool:
    """Whether numba is there and so much work a sweep pays for compiling."""
    return work >= WORTH and installed()


@functools.cache
def compiled(function: F) -> F:
    """A function compiled by numba: no reordering and no fusing of operations, so that its numbers are Python's.

    Raises:
        UserError: numba is missing.
    """
    if not installed():
        raise UserError('compiled=True needs numba: pip install "advantage[fast]"; the numbers are the same without it')
    import numba

    fast: F = numba.njit(function, fastmath=False, error_model="numpy")
    return fast
