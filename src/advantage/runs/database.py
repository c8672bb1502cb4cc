"""metrics.sqlite: the rows of a run, readable while it trains. One writer, to whom rows are handed over."""

from __future__ import annotations

import math
import os
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advantage.errors import RunFailed, UserError
from advantage.runs.encode import dumps, special
from advantage.runs.keys import definition

if TYPE_CHECKING:
    from advantage.trajectory import Episode, Sample  # imports torch, which a reader of rows does without

VERSION = 1
SCHEMA = """
CREATE TABLE attempts (      -- a start or a resume
    id INTEGER PRIMARY KEY, started REAL, host TEXT, pid INTEGER, from_tick INTEGER, versions TEXT);
CREATE TABLE ticks (         -- id: updates completed; wall_time: seconds of training, attempts added up
    id INTEGER PRIMARY KEY, env_steps INTEGER, tokens INTEGER, wall_time REAL, attempt INTEGER);
CREATE TABLE keys (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE, unit TEXT, meaning TEXT);
CREATE TABLE scalars (       -- a number that SQLite cannot keep stands in special
    tick INTEGER, key INTEGER, value REAL, special TEXT, PRIMARY KEY (tick, key),
    CHECK ((value IS NULL) = (special IS NOT NULL)), CHECK (special IN ('nan', 'inf', '-inf'))) WITHOUT ROWID;
CREATE TABLE episodes (      -- ended: terminated or truncated
    id INTEGER PRIMARY KEY, tick INTEGER, env_steps INTEGER, stream INTEGER, return REAL, length INTEGER, ended TEXT);
CREATE TABLE events (        -- level: note, warn or stop
    id INTEGER PRIMARY KEY, tick INTEGER, level TEXT, tripwire TEXT, text TEXT);
CREATE TABLE completions (
    tick INTEGER, step INTEGER, "group" INTEGER, "index" INTEGER, prompt TEXT, completion TEXT, reward REAL,
    finish_reason TEXT, PRIMARY KEY (step, "group", "index"));
"""
INSERTS = {  # in the order in which they are written
    "keys": "INSERT INTO keys VALUES (?, ?, ?, ?)",
    "ticks": "INSERT INTO ticks VALUES (?, ?, ?, ?, ?)",
    "scalars": "INSERT INTO scalars VALUES (?, ?, ?, ?)",
    "episodes": "INSERT INTO episodes (tick, env_steps, stream, return, length, ended) VALUES (?, ?, ?, ?, ?, ?)",
    "events": "INSERT INTO events (tick, level, tripwire, text) VALUES (?, ?, ?, ?)",
    "completions": "INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
}


class Database:
    """The one writer of a run's metrics.

    Opening deletes the rows past `tick` (what a killed process wrote after its last checkpoint) and begins the next
    attempt, in one transaction.

    Args:
        path: the file; made where it is missing.
        tick: updates completed at the checkpoint that the run continues from; 0 for a new run.

    Attributes:
        attempt: the number of this start or resume, from 1.

    Raises:
        UserError: the file is from a newer format.
        RunFailed: the file is no database, or cannot be written.
    """

    def __init__(self, path: Path, tick: int, versions: Mapping[str, str]) -> None:
        self.path = path
        self._pending: dict[str, list[tuple[Any, ...]]] = {table: [] for table in INSERTS}
        try:
            self._connection, self.attempt = _open(path, tick, versions)
            self._keys: dict[str, int] = dict(self._connection.execute("SELECT name, id FROM keys"))
        except (sqlite3.Error, OSError) as error:
            raise RunFailed(f"{path}: {error}") from error

    def tick(self, tick: int, env_steps: int | None, tokens: int | None, wall_time: float) -> None:
        """A completed update; `env_steps` in control, `tokens` in language."""
        self._pending["ticks"].append((tick, env_steps, tokens, wall_time, self.attempt))

    def scalars(self, tick: int, scalars: Mapping[str, float]) -> None:
        """The numbers of an update; a key once a tick."""
        keys, rows = self._keys, self._pending["scalars"]
        for name, value in scalars.items():
            key = keys.get(name) or self._new_key(name)
            rows.append((tick, key, value, None) if math.isfinite(value) else (tick, key, None, special(value)))

    def episodes(self, tick: int, env_steps: int | None, episodes: Iterable[Episode]) -> None:
        """Episodes that ended in an update."""
        rows = [(tick, env_steps, e.stream, e.total_reward, e.length, e.ended) for e in episodes]
        self._pending["episodes"] += rows

    def completions(self, tick: int, samples: Iterable[Sample]) -> None:
        """What was sampled in an update."""
        rows = [(tick, tick, s.group, s.index, s.prompt, s.completion, s.reward, s.finish_reason) for s in samples]
        self._pending["completions"] += rows

    def event(self, tick: int, level: str, tripwire: str, text: str) -> None:
        """Something that a person should know: `level` is note, warn or stop."""
        self._pending["events"].append((tick, level, tripwire, text))

    def flush(self) -> None:
        """Commit what was handed over, in one transaction.

        Raises:
            RunFailed: the disk is full or the file cannot be written; what was committed before stays.
        """
        if not any(self._pending.values()):
            return
        try:
            with closing(self._connection.cursor()) as cursor:
                cursor.execute("BEGIN IMMEDIATE")
                for table, statement in INSERTS.items():
                    cursor.executemany(statement, self._pending[table])
                cursor.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise RunFailed(f"{self.path}: {error}") from error
        for rows in self._pending.values():
            rows.clear()

    def history(self, ticks: int) -> list[dict[str, float]]:
        """The committed numbers of the last recorded updates, oldest first: what the tripwires look at."""
        rows = self._connection.execute(
            "SELECT tick, name, coalesce(value, special) FROM scalars JOIN keys ON keys.id = key"
            " WHERE tick IN (SELECT id FROM ticks ORDER BY id DESC LIMIT ?) ORDER BY tick, key",
            (ticks,),
        )
        history: dict[int, dict[str, float]] = {}
        for tick, name, value in rows:
            history.setdefault(tick, {})[name] = float(value)
        return list(history.values())

    def last_episodes(self, count: int) -> list[tuple[float, int]]:
        """Return and length of the last committed episodes, oldest first."""
        query = "SELECT return, length FROM episodes ORDER BY id DESC LIMIT ?"
        return self._connection.execute(query, (count,)).fetchall()[::-1]

    def ticks(self) -> int:
        """How many updates have a row."""
        return int(self._connection.execute("SELECT count(*) FROM ticks").fetchone()[0])

    def has_event(self, tripwire: str, text: str) -> bool:
        """Whether a committed event says this already."""
        query = "SELECT 1 FROM events WHERE tripwire = ? AND text = ?"
        return self._connection.execute(query, (tripwire, text)).fetchone() is not None

    def close(self) -> None:
        """Commit and close; where no reader prevents it, the file then stands alone and can be read on any disk."""
        try:
            self.flush()
        finally:
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()

    def _new_key(self, name: str) -> int:
        key = self._keys[name] = len(self._keys) + 1
        self._pending["keys"].append((key, name, *definition(name)))
        return key


def journal_mode(folder: Path) -> str:
    """The mode "wal" where a throw-away write here proves that it works (network file systems fail), else "delete"."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as temporary:
        path = Path(temporary) / "probe.sqlite"
        try:
            with closing(_connect(path)) as writer, closing(_connect(path)) as reader:
                mode = writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                writer.execute("CREATE TABLE probe (x)")
                writer.execute("INSERT INTO probe VALUES (1)")
                proven = mode == "wal" and reader.execute("SELECT x FROM probe").fetchall() == [(1,)]
        except sqlite3.Error:
            proven = False
    return "wal" if proven else "delete"


def check_version(path: Path, connection: sqlite3.Connection) -> int:
    """The schema version of an open database; 0 where it is new.

    Raises:
        UserError: it is from a newer library.
    """
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise UserError(f"{path}: schema {found} of a newer advantage, this one knows {VERSION}: upgrade advantage")
    return found


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=30.0)


def _open(path: Path, tick: int, versions: Mapping[str, str]) -> tuple[sqlite3.Connection, int]:
    """A writing connection, and the number of this attempt; a new file gets schema and version in one transaction."""
    connection = _connect(path)
    try:
        if check_version(path, connection) == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        connection.execute(f"PRAGMA journal_mode = {journal_mode(path.parent)}")
        connection.execute("PRAGMA synchronous = FULL")  # a power cut must not take rows that a checkpoint counts on
        connection.execute("BEGIN IMMEDIATE")
        attempt = _begin(connection, tick, versions)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection, attempt


def _begin(connection: sqlite3.Connection, tick: int, versions: Mapping[str, str]) -> int:
    """Delete the rows past `tick` and write the row of this attempt; returns its number."""
    connection.execute("DELETE FROM ticks WHERE id > ?", (tick,))
    for table in ("scalars", "episodes", "events", "completions"):
        connection.execute(f"DELETE FROM {table} WHERE tick > ?", (tick,))
    row = (time.time(), socket.gethostname(), os.getpid(), tick, dumps(versions))
    insert = "INSERT INTO attempts (started, host, pid, from_tick, versions) VALUES (?, ?, ?, ?, ?)"
    return int(connection.execute(insert, row).lastrowid or 0)
