import math
import sqlite3
from contextlib import closing

import pytest

from advantage.errors import RunFailed, UserError
from advantage.runs import database
from advantage.runs.database import Database, journal_mode
from advantage.runs.keys import KEYS
from advantage.trajectory import Episode

SPECIAL = {"a": 1.5, "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "tiny": 5e-324}


def ask(path, query):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def filled(path, ticks, tick=0):
    base = Database(path, tick, {})
    for number in range(tick + 1, ticks + 1):
        base.tick(number, 10 * number, None, 0.5)
        base.scalars(number, {"train/loss": float(number), "mine": math.inf})
        base.episodes(number, 10 * number, [Episode(0, 7, 2.5, "truncated")])
        base.event(number, "note", "test", f"at {number}")
    base.close()


def test_non_finite_numbers_come_back(tmp_path):
    base = Database(tmp_path / "m", 0, {})
    base.tick(1, 1, None, 0.0)
    base.scalars(1, SPECIAL)
    base.flush()
    (row,) = base.history(10)
    base.close()
    assert {name: repr(value) for name, value in row.items()} == {name: repr(value) for name, value in SPECIAL.items()}
    stored = ask(tmp_path / "m", "SELECT name, typeof(value), special FROM scalars JOIN keys ON key = id ORDER BY id")
    assert stored[:3] == [("a", "real", None), ("nan", "null", "nan"), ("inf", "null", "inf")]


def test_the_schema_refuses_a_silent_null(tmp_path):
    Database(tmp_path / "m", 0, {}).close()
    with closing(sqlite3.connect(tmp_path / "m")) as connection:
        for row in [(1, 1, None, None), (1, 1, 2.0, "nan"), (1, 1, None, "huge")]:
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute("INSERT INTO scalars VALUES (?, ?, ?, ?)", row)


def test_resume_deletes_rows_past_the_tick_and_opens_an_attempt(tmp_path):
    filled(tmp_path / "m", 5)
    filled(tmp_path / "m", 7, tick=3)
    filled(tmp_path / "whole", 7)
    for table in ("ticks", "scalars", "keys", "episodes", "events"):
        columns = "id, env_steps" if table == "ticks" else "*"
        query = f"SELECT {columns} FROM {table} ORDER BY 1, 2"
        assert ask(tmp_path / "m", query) == ask(tmp_path / "whole", query)
    assert ask(tmp_path / "m", "SELECT id, from_tick FROM attempts") == [(1, 0), (2, 3)]
    assert ask(tmp_path / "m", "SELECT attempt FROM ticks") == [(1,)] * 3 + [(2,)] * 4


def test_every_key_has_unit_and_meaning(tmp_path):
    filled(tmp_path / "m", 1)
    found = dict(ask(tmp_path / "m", "SELECT name, meaning FROM keys"))
    assert found == {"train/loss": KEYS["train/loss"][1], "mine": ""}
    assert all(meaning for _, meaning in KEYS.values())


def test_a_reader_sees_committed_rows_while_the_writer_is_open(tmp_path):
    base = Database(tmp_path / "m", 0, {})
    base.tick(1, 1, None, 0.0)
    base.flush()
    base.tick(2, 2, None, 0.0)
    assert ask(tmp_path / "m", "SELECT id FROM ticks") == [(1,)]
    base.close()


def test_journal_mode_is_proven(tmp_path, monkeypatch):
    assert journal_mode(tmp_path) == "wal"
    connect = database._connect

    class NoSharedMemory(sqlite3.Connection):
        def execute(self, query, *rest):
            if "WAL" in query:
                raise sqlite3.OperationalError("locking protocol")
            return super().execute(query, *rest)

    def refusing(path):
        return sqlite3.connect(path, isolation_level=None, factory=NoSharedMemory)

    monkeypatch.setattr(database, "_connect", refusing)
    assert journal_mode(tmp_path) == "delete"
    filled(tmp_path / "m", 3)
    monkeypatch.setattr(database, "_connect", connect)
    assert len(ask(tmp_path / "m", "SELECT * FROM ticks")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_closed_database_stands_alone(tmp_path):
    filled(tmp_path / "m", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_newer_torn_and_full(tmp_path):
    filled(tmp_path / "m", 3)
    with closing(sqlite3.connect(tmp_path / "m")) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(UserError, match="upgrade advantage"):
        Database(tmp_path / "m", 0, {})
    (tmp_path / "torn").write_bytes(b"SQLite format 3\0" + b"noise" * 100)
    with pytest.raises(RunFailed, match="torn"):
        Database(tmp_path / "torn", 0, {})
    base = Database(tmp_path / "full", 0, {})
    base._connection.execute("PRAGMA max_page_count = 1")
    base.scalars(1, {str(number): 1.0 for number in range(9999)})
    with pytest.raises(RunFailed, match="full"):
        base.flush()
