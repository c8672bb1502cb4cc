"""One process a run: a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

PATIENCE = 0.3  # seconds; a reader that asks whether a run lives holds the lock for an instant
_held: set[int] = set()


class Lock:
    """An exclusive `flock` on a file, held until `release` or the death of the process, however it dies.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be made, or the file system knows no locks.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _acquire(self._descriptor)
        except OSError:
            os.close(self._descriptor)
            raise
        _held.add(self._descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _acquire(descriptor: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _forget_in_child() -> None:
    """A forked worker shares the open file and would keep the lock alive after its parent's death."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
