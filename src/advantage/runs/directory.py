"""The run directory: made, opened, locked, and removed again where it came from a user's mistake."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from advantage.errors import UserError
from advantage.runs import durable
from advantage.runs.encode import dumps, loads
from advantage.runs.lock import Lock
from advantage.runs.machine import versions
from advantage.settings import to_toml

FORMAT = 1
ROOT = Path("runs")
DATABASE = ("metrics.sqlite", "metrics.sqlite-wal", "metrics.sqlite-shm", "metrics.sqlite-journal")
OURS = ("config.toml", "status.json", "lock", "checkpoints", "policy", "best", "rollout", *DATABASE)


class RunDirectory:
    """A locked run directory.

    As a context manager it lets the lock go, and where a `UserError` leaves it before the first update of a run that it
    made, it removes itself.

    Attributes:
        path: the directory.
        config: the content of config.toml: `format`, `algorithm`, `target`, `seed`, `command`, and the tables.
        begun: whether an update was recorded; from then on nothing removes the directory.
    """

    def __init__(self, path: Path, config: dict[str, Any], lock: Lock, made: list[Path], begun: bool) -> None:
        self.path = path
        self.config = config
        self.begun = begun
        self._lock = lock
        self._made = made

    @classmethod
    def create(
        cls,
        path: str | Path | None,
        *,
        algorithm: str,
        target: str,
        seed: int,
        command: str,
        tables: Mapping[str, Mapping[str, Any]],
    ) -> Self:
        """Make the directory and write config.toml, before anything slow is imported.

        Args:
            path: the directory, absent or empty; None gives runs/<algorithm>-<target>-s<seed>-<short id>.
            command: what the user typed.
            tables: what else config.toml tells, plain values: `{"settings": {"gamma": 0.99}}`.

        Raises:
            UserError: the path is a file, holds something, cannot be written, or another process makes it now.
        """
        folder = _default_name(algorithm, target, seed) if path is None else Path(path)
        made = _make(folder)
        head = {"format": FORMAT, "algorithm": algorithm, "target": target, "seed": seed, "command": command}
        text = to_toml({**head, **tables, "versions": versions()})
        try:
            run = cls(folder, tomllib.loads(text), _lock(folder), made, begun=False)
        except UserError:
            _remove_empty(made)
            raise
        try:
            durable.replace(folder / "config.toml", lambda draft: draft.write_text(text, encoding="utf-8"))
        except OSError as error:
            run.discard()
            raise UserError(f"{folder}: {error.strerror}; give another --run-dir") from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run to continue it.

        Raises:
            UserError: not a run, from a newer format, not writable, or in use by another process.
        """
        folder = Path(path)
        config = read_config(folder)
        return cls(folder, config, _lock(folder), [], begun=True)

    def write_status(self, state: str, **fields: Any) -> None:
        """Say in status.json what the run does: `state` is running, finished, stopped or failed."""
        known = {"state": state, "heartbeat": time.time(), "pid": os.getpid(), "host": socket.gethostname()}
        durable.publish(self.path / "status.json", dumps({**known, **fields}) + "\n")

    def discard(self) -> None:
        """Remove what we wrote, the directory, and the parents that we made."""
        for name in OURS:
            entry = self.path / name
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        self._lock.release()
        _remove_empty(self._made)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, UserError) and not self.begun:
            self.discard()
        self._lock.release()


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a run's config.toml.

    Raises:
        UserError: no such directory, a file, not a run, unreadable, or from a newer format.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: {'a file, not a run directory' if folder.exists() else 'there is no such run'}")
    try:
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: not a run, it has no config.toml") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.toml: cannot be read: {error}") from error
    found = config.get("format")
    if not isinstance(found, int):
        raise UserError(f"{folder}: not a run, its config.toml names no format")
    check_format(folder, found)
    return config


def check_format(path: Path, found: int) -> None:
    """Refuse what a newer library wrote."""
    if found > FORMAT:
        raise UserError(f"{path}: format {found} of a newer advantage, this one knows {FORMAT}: upgrade advantage")


def read_status(folder: Path) -> dict[str, Any]:
    """The content of status.json; empty before the first one was written."""
    try:
        return dict(loads((folder / "status.json").read_bytes()))
    except FileNotFoundError:
        return {}


def _default_name(algorithm: str, target: str, seed: int) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{algorithm}-{target}-s{seed}")
    while (path := ROOT / f"{name}-{secrets.token_hex(3)}").exists():
        pass
    return path


def _make(folder: Path) -> list[Path]:
    """Make the directory; returns it and its parents as far as they were not there, deepest first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = [entry.name for entry in os.scandir(folder)]
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: a file is in the way; give another --run-dir") from None
    except OSError as error:
        _remove_empty(made)
        raise UserError(f"{folder}: {error.strerror}; give another --run-dir") from error
    if entries:
        hint = f"`advantage resume {folder}` continues it" if "config.toml" in entries else "give another --run-dir"
        raise UserError(f"{folder}: not empty; {hint}")
    return made


def _lock(folder: Path) -> Lock:
    try:
        return Lock(folder / "lock")
    except BlockingIOError:
        holder = read_status(folder)
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        raise UserError(f"{folder}: in use by {who}; wait for it or stop it") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be locked: {error.strerror}; give another --run-dir") from error


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
