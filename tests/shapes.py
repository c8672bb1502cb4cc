"""The run-time check of the shapes that the signatures of `advantage.core` and `advantage.trajectory` promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype for jaxtyping's import hook, on what is checked after the call alone.

    jaxtyping checks a call twice: its arguments before it (a stand-in that returns Any), arguments and result after it.
    Without the first, a function meets wrong arguments itself: it must refuse them with its own error, and where it
    does not, the second check fails the test. So `pytest.raises(ValueError)` tests what a user sees.
    """
    before_the_call = function.__annotations__.get("return", Any) is Any
    return function if before_the_call else _typechecked(function)
