"""What the doctor says of runs that were written by hand, and of one that a tripwire stopped."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path

import pytest

from advantage.errors import UserError
from advantage.runs.database import Database
from advantage.runs.directory import RunDirectory
from advantage.runs.encode import dumps
from advantage.runs.kinds import KINDS
from advantage.views.doctor import as_json, diagnose, render
from tests.watch.histories import KL, REWARD, SATURATION, Row, ramp, steady

REMINDER = KINDS["control"].reminder
STEPS = 256  # environment steps an update


def written(path: Path, rows: list[Row], events=(), clock: str = "env_steps", **status: object) -> Path:
    """A run directory with these scalars, as a live run would have left it."""
    with RunDirectory.create(path, algorithm="ppo", target="X-v0", seed=0, command="", tables={}) as directory:
        directory.begun = True
        database = Database(path / "metrics.sqlite", 0, {})
        for tick, row in enumerate(rows, start=1):
            steps, tokens = (STEPS * tick, None) if clock == "env_steps" else (None, 9 * tick)
            database.tick(tick, steps, tokens, wall_time=float(tick))
            database.scalars(tick, row)
        for event in events:
            database.event(*event)
        database.close()
        directory.write_status(**{"state": "finished", "error": None, **status})
    return path


def test_a_healthy_run(tmp_path: Path) -> None:
    found = diagnose(written(tmp_path / "run", ramp(50, {REWARD: (20.0, 400.0)})))
    assert found.symptoms == ()
    assert (found.state, found.error, found.update, found.steps, found.failed) == (
        "finished",
        "",
        50,
        50 * STEPS,
        False,
    )
    (returns,) = found.performance
    assert (returns.name, returns.last, returns.best, returns.best_update) == (REWARD, 400.0, 400.0, 50)
    text = render(found)
    assert "No tripwire saw anything." in text
    assert REMINDER in text.replace("\n", " ")


def test_since_when_and_until_when(tmp_path: Path) -> None:
    rows = steady(10) + steady(8, {KL: 0.3}) + steady(20)
    (symptom,) = diagnose(written(tmp_path / "run", rows)).symptoms
    assert (symptom.tripwire, symptom.level, symptom.active) == ("kl_runaway", "warn", False)
    assert (symptom.since, symptom.until, symptom.updates) == (15, 18, 4)  # five updates in a row: 11 … 15
    assert (symptom.since_steps, symptom.until_steps) == (15 * STEPS, 18 * STEPS)
    assert "0.3" in symptom.evidence and "learning_rate" in symptom.advice
    text = render(diagnose(tmp_path / "run"))
    assert "between update 15 (step 3,840) and update 18 (step 4,608), at 4 updates, not since" in text
    assert symptom.evidence in " ".join(text.split())


def test_still_there_at_the_end_and_graver_first(tmp_path: Path) -> None:
    rows = ramp(20, {"train/return_mean": (900.0, 900.0)}) + steady(12, {SATURATION: 0.97, "train/return_mean": 900.0})
    found = diagnose(written(tmp_path / "run", rows))
    assert [(symptom.tripwire, symptom.active) for symptom in found.symptoms] == [
        ("saturated_actions", True),
        ("large_returns", True),
    ]
    assert found.symptoms[0].since == 30
    assert not found.failed
    assert "since update 30 (step 7,680), still there at update 32" in render(found)


def test_a_recorded_event_is_told_once_and_the_evidence_of_the_scalars_is_kept(tmp_path: Path) -> None:
    rows = steady(10) + steady(6, {KL: 0.3})
    run = written(tmp_path / "run", rows, [(15, "warn", "kl_runaway", "as it was said then")])
    (symptom,) = diagnose(run).symptoms
    assert (symptom.since, symptom.until, symptom.updates, symptom.active) == (15, 16, 2, True)
    assert "0.3" in symptom.evidence


def test_a_number_that_broke_inside_an_update_failed_the_run(tmp_path: Path) -> None:
    why = "the reward of environment 3 is nan at step 1290"
    run = written(tmp_path / "run", steady(5), [(6, "stop", "non_finite", why)], state="failed", error=why)
    found = diagnose(run)
    (symptom,) = found.symptoms
    assert (symptom.since, symptom.since_steps, symptom.active, found.failed) == (6, 5 * STEPS, True, True)
    assert symptom.evidence == found.error == why and symptom.advice
    assert "failed after 5 updates" in render(found) and "at update 6" in render(found)


def test_a_stop_alone_is_a_failure_and_so_is_a_crash_without_events(tmp_path: Path) -> None:
    stopped = written(tmp_path / "a", [*steady(3), *steady(1, {"train/loss": inf})], state="stopped")
    assert diagnose(stopped).failed
    crashed = written(tmp_path / "b", steady(3), state="failed", error="MyEnv: ZeroDivisionError: division by zero")
    assert diagnose(crashed).failed
    assert "ZeroDivisionError" in render(diagnose(crashed))
    warned = written(tmp_path / "c", steady(20, {KL: 0.3}), state="stopped")
    assert not diagnose(warned).failed


def test_events_of_other_sources_have_no_advice(tmp_path: Path) -> None:
    run = written(tmp_path / "run", steady(5), [(2, "note", "machine", "bits may differ")])
    (symptom,) = diagnose(run).symptoms
    assert (symptom.tripwire, symptom.advice, symptom.active) == ("machine", "", False)
    text = render(diagnose(run))
    assert "note  machine, at update 2 (step 512)" in text and "\n  try" not in text
    assert text.endswith("No tripwire saw anything.")


def test_the_history_is_as_long_as_the_live_run_s(tmp_path: Path) -> None:
    """A best return older than the window is forgotten, here as there."""
    rows = ramp(30, {REWARD: (20.0, 500.0)}) + steady(700, {REWARD: 60.0})
    (symptom,) = diagnose(written(tmp_path / "run", rows)).symptoms
    assert (symptom.tripwire, symptom.since, symptom.active) == ("falling_returns", 40, False)
    assert symptom.until < 30 + 512


def test_language_counts_updates(tmp_path: Path) -> None:
    rows = [{"reward": 0.1 * t, "kl": 0.01, "train/approx_kl": 0.5} for t in range(8)]
    found = diagnose(written(tmp_path / "run", rows, clock="tokens"))
    assert (found.steps, found.symptoms[0].since, found.symptoms[0].since_steps) == (8, 5, 5)
    assert found.performance[0].name == "reward"
    text = render(found)
    assert "after 8 updates.\n" in text and "(step" not in text
    assert "since update 5, still there at update 8" in text and "held-out prompts" in text.replace("\n", " ")
    assert "num_envs" not in text and "batch_size" in text  # advice for a model


def test_a_loss_is_best_where_it_is_least(tmp_path: Path) -> None:
    found = diagnose(written(tmp_path / "run", [{"train/loss": x} for x in (0.9, 0.2, 0.4)], clock="tokens"))
    (loss,) = found.performance
    assert (loss.name, loss.last, loss.best, loss.best_update) == ("train/loss", 0.4, 0.2, 2)
    assert "from the second pass over the data" in render(found)


def test_a_run_without_updates(tmp_path: Path) -> None:
    found = diagnose(written(tmp_path / "run", [], state="failed", error="disk full"))
    assert (found.update, found.steps, found.symptoms, found.performance, found.failed) == (0, 0, (), (), True)
    assert "disk full" in render(found)


def test_json_has_everything_and_parses(tmp_path: Path) -> None:
    rows = [*steady(9, {SATURATION: 0.97, REWARD: nan}), *steady(1, {SATURATION: 0.97, REWARD: -inf})]
    found = diagnose(written(tmp_path / "run", rows, state="stopped"))
    read = json.loads(dumps(as_json(found)))
    assert read["failed"] is True and read["reminder"] == REMINDER
    assert {symptom["tripwire"] for symptom in read["symptoms"]} >= {"non_finite", "saturated_actions"}


def test_no_control_sequence_reaches_the_terminal(tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07\nKeyError"
    run = written(tmp_path / "run", steady(2), [(3, "stop", "error\x1b[2J", hostile)], state="failed", error=hostile)
    assert "\x1b" not in render(diagnose(run)) and "\x07" not in render(diagnose(run))


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        diagnose(tmp_path)
