"""Writing so that a reader, or a process that starts after a kill, sees the old or the new, never a half.

Every fsync and rename of the library goes through `fsync` and `rename` below: the tests die at each of them in turn.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def fsync(descriptor: int) -> None:
    """Wait until an open file is on the disk."""
    os.fsync(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file or directory its name at once, in place of what had it."""
    os.replace(source, target)


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Put a new file in the place of `path` at once: `write` fills a `.tmp-` neighbour, which is synced and renamed."""
    draft = path.with_name(f".tmp-{path.name}")
    try:
        write(draft)
        sync(draft)
        rename(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def publish(path: Path, text: str) -> None:
    """As `replace`, for text that only informs and may be lost with the power: not synced."""
    draft = path.with_name(f".tmp-{path.name}")
    draft.write_text(text, encoding="utf-8")
    rename(draft, path)
