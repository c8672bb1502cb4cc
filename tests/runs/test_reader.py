import importlib.metadata
import math
import os
import shutil
import signal
import sqlite3
from contextlib import closing

import pytest
import torch

from advantage.errors import UserError
from advantage.runs.live import LiveRun
from advantage.runs.reader import RunReader
from advantage.views.doctor import diagnose
from advantage.views.report import write_report
from tests.runs.stateful_loop import exit_code, in_child, make, run_to


def test_tables(tmp_path):
    run_to(tmp_path / "run", 60, eval_every=30)
    reader = RunReader(str(tmp_path / "run"))
    table = reader.metrics()
    assert {len(column) for column in table.values()} == {10}
    assert list(table)[:5] == ["update", "env_steps", "tokens", "wall_time", "attempt"]
    assert table["odd"][0] == 1.0 and math.isnan(table["odd"][1])
    assert (table["wall_time"][1:] >= table["wall_time"][:-1]).all()
    episodes = reader.episodes()
    assert set(episodes["ended"]) == {"terminated"} and len(episodes["return"]) == len(episodes["stream"]) > 3
    assert reader.keys()["time/fps"][0] == "steps/s" and reader.keys()["odd"] == ("", "")
    assert reader.attempts()[0]["versions"]["torch"] == importlib.metadata.version("torch")
    assert reader.events() == [{"update": 0, "level": "note", "tripwire": "walk", "text": "set up"}]
    fields, about = reader.rollout()
    assert about["update"] == 10 and about["steps"] == 60 and "values" not in fields
    assert isinstance(fields["actions"], tuple) and fields["context"]["observation"].shape == (2, 3)
    states, about = reader.policy()
    assert states.keys() == {"policy", "normalizer"} and states["normalizer"]["count"] == 10
    assert (about["algorithm"], about["target"], about["seed"], about["steps"]) == ("walk", "Walk-v0", 3, 60)


def test_a_live_run_and_a_killed_one(tmp_path):
    def look(update):
        if update.index == 4:
            reader = RunReader(tmp_path / "run")
            assert reader.status()["state"] == "running" and len(reader.metrics()["update"]) >= 3
            os.kill(os.getpid(), signal.SIGKILL)

    code = exit_code(in_child(lambda: run_to(tmp_path / "run", 60, at=look, checkpoint_every=0.0)))
    assert code == -signal.SIGKILL
    reader = RunReader(tmp_path / "run")
    assert reader.status()["state"] == "killed"
    assert reader.metrics()["update"].tolist() == [1, 2, 3, 4]
    with closing(sqlite3.connect(tmp_path / "run" / "metrics.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_run_that_has_nothing_yet(tmp_path):
    with make(tmp_path / "run"):
        reader = RunReader(tmp_path / "run")
        assert reader.status() == {"state": "new"} and reader.events() == [] and reader.checkpoints() == []
        assert len(reader.metrics()["update"]) == 0
        for read in (reader.policy, reader.rollout):
            with pytest.raises(UserError, match="first checkpoint"):
                read()


def test_a_torn_status_is_told_from_the_last_checkpoint(tmp_path):
    run_to(tmp_path / "run", 12)
    (tmp_path / "run" / "status.json").write_text('{"state": "fin')
    reader = RunReader(tmp_path / "run")
    assert reader.status() == {"state": "killed", "update": 2, "steps": 12, "total": 12} and reader.total() == 12


TORN = {"empty": lambda _: b"", "cut": lambda whole: whole[:-40], "foreign": lambda _: b"\x08\0\0\0\0\0\0\0{}      "}


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN)
def test_torn_policies_and_rollouts_are_one_line(tmp_path, tear):
    run_to(tmp_path / "run", 12)
    reader = RunReader(tmp_path / "run")
    for name, read in (("policy", reader.policy), ("rollout", reader.rollout)):
        path = tmp_path / "run" / name / f"{name}.safetensors"
        path.write_bytes(tear(path.read_bytes()))
        with pytest.raises(UserError, match=f"{name}.safetensors: cannot be read .*resume"):
            read()


def test_every_file_is_for_whom_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        run_to(tmp_path / "run", 12)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o640}, modes


def test_reading_writes_nothing(tmp_path):
    run_to(tmp_path / "run", 12)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    reader = RunReader(tmp_path / "run")
    reader.metrics(), reader.status(), reader.policy(12)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_not_a_run_newer_and_torn(tmp_path):
    with pytest.raises(UserError, match="no such run"):
        RunReader(tmp_path / "absent")
    run_to(tmp_path / "run", 12)
    with closing(sqlite3.connect(tmp_path / "run" / "metrics.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(UserError, match="upgrade advantage"):
        RunReader(tmp_path / "run").metrics()
    (tmp_path / "run" / "metrics.sqlite").write_bytes(b"noise" * 1000)
    with pytest.raises(UserError, match=r"metrics\.sqlite: cannot be read"):
        RunReader(tmp_path / "run").metrics()


def test_a_database_that_was_emptied(tmp_path):
    """Unlike that of a run which has just begun, whose tables may not be there yet."""
    run_to(tmp_path / "run", 12)
    (tmp_path / "run" / "metrics.sqlite").write_bytes(b"")
    line = r"metrics\.sqlite: cannot be read: it has no tables, and the run has completed 2 updates"
    for view in (write_report, diagnose):
        with pytest.raises(UserError, match=line):
            view(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()
    assert RunReader(tmp_path / "run").policy()[1]["steps"] == 12
    (tmp_path / "run" / "status.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert RunReader(tmp_path / "run").episodes()["return"].size == 0


def test_text_columns_of_finish_reasons(tmp_path):
    from advantage.trajectory import Rollout

    mask = torch.ones(2, 1, dtype=torch.bool)
    with LiveRun(make(tmp_path / "run"), quiet=True, clock="updates") as run:
        for _ in run.updates(1):
            run.log({}, Rollout({}, mask, mask, mask, mask, finish_reason=("stop", "length")), [])
    assert RunReader(tmp_path / "run").rollout()[0]["finish_reason"] == ("stop", "length")
