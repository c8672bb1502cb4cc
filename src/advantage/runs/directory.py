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

from advantage.errors import UserError, typed
from advantage.runs import durable
from advantage.runs.encode import dumps, loads
from advantage.runs.interrupt import Interrupted, Interrupts
from advantage.runs.lock import Lock
from advantage.runs.machine import versions
from advantage.settings import to_toml

FORMAT = 1
ROOT = Path("runs")
DATABASE = ("metrics.sqlite", "metrics.sqlite-wal", "metrics.sqlite-shm", "metrics.sqlite-journal")
HEAD = {
    "algorithm": (str, "text"),
    "target": (str, "text"),
    "seed": (int, "a whole number"),
    "settings": (dict, "a table"),
}
COUNTS = ("update", "steps", "total")  # of status.json
OURS = ("config.toml", "status.json", "lock", "checkpoints", "policy", "best", "rollout", "log", *DATABASE)


class RunDirectory:
    """A locked run directory.

    As a context manager it lets the lock go, and where a `UserError` or an interrupt leaves it before the first update
    of a run that it made, it removes itself. SIGTERM is an interrupt from the first moment on.

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
        self._interrupts = Interrupts()

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
            UserError: a value that TOML cannot say; the path is a file, holds something or cannot be written; another
                process makes it now.
        """
        head = {"format": FORMAT, "algorithm": algorithm, "target": target, "seed": seed, "command": command}
        for entries in (head, *tables.values()):
            for name, value in entries.items():
                _check_sayable(name, value)
        folder = _default_name(algorithm, target, seed) if path is None else Path(path)
        _check_sayable("--run-dir", str(folder))
        made = _make(folder)
        text = to_toml({**head, "settings": {}, **tables, "versions": versions()})
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
        for entry in (*(self.path / name for name in OURS), *self.path.glob(".tmp-*")):
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        self._lock.release()
        _remove_empty(self._made)

    def __enter__(self) -> Self:
        self._interrupts.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        abandoned = isinstance(error, UserError | KeyboardInterrupt) and not self.begun
        if abandoned:
            self.discard()
        self._lock.release()
        self._interrupts.remove()
        if abandoned and isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"{self.path}: stopped before the first update, nothing is kept") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a run's config.toml.

    Raises:
        UserError: no such directory, a file, not a run, unreadable, incomplete, or from a newer format.
    """
    if not os.path.isdir(folder):
        there = os.path.exists(folder)  # where Path's own raises: a name that is too long
        raise UserError(f"{folder}: {'a file, not a run directory' if there else 'there is no such run'}")
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
    for name, (kind, words) in HEAD.items():
        if type(config.get(name)) is not kind:
            told = f"is {config[name]!r}" if name in config else "is missing"
            raise UserError(f"{folder}/config.toml: {name} {told}; it must be {words}, as the run began with it")
    return config


def check_format(path: Path, found: int) -> None:
    """Refuse what a newer library wrote."""
    if found > FORMAT:
        raise UserError(f"{path}: format {found} of a newer advantage, this one knows {FORMAT}: upgrade advantage")


def read_status(folder: Path) -> dict[str, Any]:
    """The content of status.json; empty before the first one was written, and where it is torn: it only informs."""
    try:
        status: dict[str, Any] = dict(loads((folder / "status.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
    counted = all(status.get(name) is None or type(status[name]) is int for name in COUNTS)
    return status if isinstance(status.get("state"), str) and counted else {}


def _default_name(algorithm: str, target: str, seed: int) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{algorithm}-{target[:100]}-s{seed}")
    while (path := ROOT / f"{name}-{secrets.token_hex(3)}").exists():
        pass
    return path


def _make(folder: Path) -> list[Path]:
    """Make the directory; returns it and its parents as far as they were not there, deepest first."""
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = [entry.name for entry in os.scandir(folder)]
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: a file is in the way; give another --run-dir") from None
    except OSError as error:
        _remove_empty(made)
        raise UserError(f"{folder}: {error.strerror}; give another --run-dir") from error
    if entries:
        hint = (
            f"`advantage resume {typed(folder)}` continues it" if "config.toml" in entries else "give another --run-dir"
        )
        raise UserError(f"{folder}: not empty; {hint}")
    return made


def _lock(folder: Path) -> Lock:
    try:
        return Lock(folder / "lock")
    except BlockingIOError:
        holder = read_status(folder)
        who = f"process {holder.get('pid')} on {holder.get('host')}" if holder else "another process"
        raise UserError(f"{folder}: in use by {who}; wait for it or stop it") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be locked: {error.strerror}; give another --run-dir") from error


def _check_sayable(name: str, value: Any) -> None:
    """Refuse what config.toml cannot hold: a resumed run would not find it again."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise UserError(f"{name} has the key {key!r}; a key must be text")
            _check_sayable(f"a key of {name}", key)
            _check_sayable(f"{name}.{key}", entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            _check_sayable(f"an entry of {name}", entry)
    elif isinstance(value, str):
        if value != value.encode("utf-8", "replace").decode():
            raise UserError(f"{name} is {value!r}; it must be UTF-8")
    elif type(value) not in (bool, int, float):
        raise UserError(f"{name} is {value!r}; it must be text, a number, true or false, or lists or tables of these")


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
