"""The ways in which a run can end that are not success, and how a message proposes what to type."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


class UserError(ValueError):
    """The user's mistake: one line with the value and the fix. The command line prints it and exits with 2."""


class UnfitActions(UserError):
    """An environment whose actions the algorithm cannot choose among. The message begins behind its name."""


class RunFailed(RuntimeError):
    """A run that started and could not go on (a crashing environment, a full disk). Exit code 1; it can be resumed."""


class NonFinite(RunFailed):
    """A NaN or an infinity was met where numbers belong. The message names quantity, step and environment."""


def in_a_line(error: BaseException) -> str:
    """An error in one line; one of ours speaks for itself."""
    text = str(error) if isinstance(error, RunFailed | UserError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


class Tripped(RunFailed):
    """A tripwire of level stop ended the run."""


def typed(path: object) -> str:
    """A path as it is typed in a shell, in a command that a message proposes.

    >>> typed("my runs/ppo")
    "'my runs/ppo'"
    """
    return shlex.quote(str(path))


def nearest(word: object, known: Iterable[str]) -> str:
    """The known words closest to a misspelt one, as the end of an error message.

    >>> nearest("pp0", ["ppo", "a2c"])
    'did you mean ppo?'
    >>> nearest("zzz", ["ppo", "a2c"])
    'known: a2c, ppo'
    """
    words = sorted(known)
    close = difflib.get_close_matches(str(word), words, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(words)}"
