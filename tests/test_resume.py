"""A run that is killed and resumed leaves the bytes of one that was not."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import advantage
from advantage.errors import UserError

CASES = {
    "CartPole-v1": ["--steps", "20000", "--set", "eval_every=5000", "--set", "eval_episodes=4"],
    "LunarLander-v3": ["--steps", "12000", "--set", "num_steps=128", "--set", "normalize_observations=true"],
}


def command(environment: str, run: Path) -> list[str]:
    options = [*CASES[environment], "--checkpoint-every", "0", "--quiet", "--seed", "3", "--run-dir", str(run)]
    return [sys.executable, "-m", "advantage.cli", "train", "ppo", environment, *options]


def rows(run: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything in the database but times and attempts."""
    scalars = "SELECT tick, name, value, special FROM scalars JOIN keys ON keys.id = key WHERE name NOT LIKE 'time/%'"
    queries = {
        "scalars": f"{scalars} ORDER BY tick, name",
        "ticks": "SELECT id, env_steps, tokens FROM ticks ORDER BY id",
        "episodes": "SELECT tick, env_steps, stream, return, length, ended FROM episodes ORDER BY id",
        "events": "SELECT tick, level, tripwire, text FROM events ORDER BY id",
    }
    with sqlite3.connect(run / "metrics.sqlite") as database:
        return {name: database.execute(query).fetchall() for name, query in queries.items()}


def files(run: Path) -> dict[str, bytes]:
    """The policies and the last rollout, byte for byte."""
    found = [path for folder in ("policy", "best", "rollout") for path in sorted((run / folder).glob("*"))]
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def whole_and_killed(command: Callable[[Path], list[str]], folder: Path) -> tuple[Path, Path]:
    """A run of a command, and the same killed three times and resumed, which must leave the same bytes.

    Each kill comes up to half a second behind a new checkpoint, at a moment that the command's words decide.
    """
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run(command(whole), check=True)
    moments = random.Random(" ".join(command(Path("run"))))
    process = subprocess.Popen(command(killed))
    for _ in range(3):
        wait_for_progress(process, killed)
        time.sleep(moments.uniform(0.0, 0.5))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process = subprocess.Popen([sys.executable, "-m", "advantage.cli", "resume", str(killed), "--quiet"])
    assert process.wait() == 0
    assert len(advantage.load(killed).reader.attempts()) > 1, "nothing was killed"
    assert files(whole) == files(killed)
    assert rows(whole) == rows(killed)
    return whole, killed


@pytest.mark.parametrize("environment", ["CartPole-v1", pytest.param("LunarLander-v3", marks=pytest.mark.slow)])
def test_sigkill_and_resume_leave_identical_bytes(environment: str, tmp_path: Path) -> None:
    whole_and_killed(lambda run: command(environment, run), tmp_path)


def test_ctrl_c_leaves_a_run_that_resume_continues_and_steps_extends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(command("CartPole-v1", run), stderr=subprocess.PIPE, text=True)
    wait_for_progress(process, run)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.count("\n") == 1 and "advantage resume" in said
    finished = advantage.resume(run, quiet=True)
    assert finished.reader.status()["state"] == "finished"
    with pytest.raises(UserError, match="give more"):
        advantage.resume(run, steps=100, quiet=True)
    longer = advantage.resume(run, steps=21_000, quiet=True)
    assert longer.metrics()["env_steps"][-1] >= 21_000


def wait_for_progress(process: subprocess.Popen[Any], run: Path) -> None:
    """Until the run has a checkpoint more than it has now, or has ended."""
    before = set((run / "checkpoints").glob("step-*"))
    for _ in range(1200):
        if set((run / "checkpoints").glob("step-*")) - before or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError(f"{run} made no checkpoint")
