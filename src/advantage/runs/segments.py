"""What only grows at its end (a replay) is kept in pieces that are written once: no checkpoint writes it anew.

    checkpoints/segments/<kept thing>-<first>-<end>.safetensors    its rows [first, end), counted from the run's first

A checkpoint names the pieces that cover what the thing held at its moment, each with its sha256, so that it is whole
only where they are. A piece that no kept checkpoint names any more is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from advantage.runs import durable

FOLDER = "segments"


@runtime_checkable
class Growing(Protocol):
    """A kept thing whose rows are written once, besides its small `state()` and `restore()`."""

    @property
    def span(self) -> tuple[int, int]:
        """The numbers of the first row that it holds and of the one to come."""
        ...

    def rows_between(self, first: int, end: int) -> Mapping[str, Any]:
        """Rows by their numbers, within the span, as named arrays."""
        ...

    def take_back(self, first: int, rows: Mapping[str, Any]) -> None:
        """Rows from that number on, behind `restore`; some may lie before the span."""
        ...


class Segments:
    """The pieces of a run's growing things, as the next checkpoint names them.

    Args:
        folder: the run's checkpoints/.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._things: dict[str, Growing] = {}
        self._named: dict[str, dict[str, str]] = {}

    def keep(self, name: str, thing: Any, named: Mapping[str, str]) -> None:
        """Takes a thing in, if it grows, and gives it back the rows of the pieces that its checkpoint named.

        Args:
            named: sha256 by file, of a run that goes on.
        """
        if isinstance(thing, Growing):
            self._things[name], self._named[name] = thing, dict(named)
            for file in sorted(named, key=span_of):
                thing.take_back(span_of(file)[0], _read(self._folder / file))

    def extend(self) -> dict[str, dict[str, str]]:
        """Writes and syncs the rows that no piece holds yet; of each thing sha256 by file of the pieces that cover it.

        Raises:
            OSError: they could not be written.
        """
        return {name: self._extended(name, thing) for name, thing in self._things.items()}

    def _extended(self, name: str, thing: Growing) -> dict[str, str]:
        first, end = thing.span
        covering = {file: digest for file, digest in self._named[name].items() if span_of(file)[1] > first}
        begin = max([first, *(span_of(file)[1] for file in covering)])
        if begin < end:
            path = self._folder / FOLDER / f"{name}-{begin}-{end}.safetensors"
            _make(path.parent)
            durable.replace(path, lambda draft: _write(draft, thing.rows_between(begin, end)))
            covering[f"{FOLDER}/{path.name}"] = sha256(path)
        self._named[name] = covering
        return covering


def drop(folder: Path, needed: Iterable[str]) -> None:
    """Removes the pieces, and what a kill left of a piece, that are not among those."""
    kept = {folder / file for file in needed}
    for path in (folder / FOLDER).glob("*"):
        if path not in kept:
            with contextlib.suppress(OSError):
                path.unlink()


def span_of(file: str) -> tuple[int, int]:
    """The numbers of the first row of a piece and of the one behind its last.

    >>> span_of("segments/replay-0-4096.safetensors")
    (0, 4096)
    """
    *_, first, end = file.removesuffix(".safetensors").split("-")
    return int(first), int(end)


def sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(folder: Path) -> None:
    """A folder, and its parent, whose names are on the disk."""
    for path in (folder.parent, folder):
        if not path.exists():
            path.mkdir()
            durable.sync(path.parent)


def _read(path: Path) -> Mapping[str, Any]:
    from advantage.runs import tensors

    return tensors.read(path)[0]


def _write(draft: Path, rows: Mapping[str, Any]) -> None:
    from advantage.runs import tensors

    tensors.write(draft, rows, {})
