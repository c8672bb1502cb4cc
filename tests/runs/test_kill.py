"""The promise: killed at any moment and resumed, a run leaves the bytes and the rows of one that was not."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from advantage.runs import durable
from advantage.runs.reader import RunReader
from tests.runs import stateful_loop
from tests.runs.stateful_loop import exit_code, in_child, make, rows, run_to, saved_bytes

STEPS = 60
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(durable.__file__).parents[2])}


def equal(path, whole):
    assert rows(path) == rows(whole)
    assert saved_bytes(path) == saved_bytes(whole)
    assert RunReader(path).status()["state"] == "finished"
    assert not [entry for entry in path.rglob("*") if entry.name.startswith(".tmp-")]


def dying_at(number, calls):
    """Patch every fsync and rename so that the process dies in the n-th: before it for even n, after it for odd n."""

    def wrap(function):
        def call(*arguments):
            calls.append(function.__name__)
            if len(calls) == number:
                if number % 2:
                    function(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            function(*arguments)

        return call

    durable.fsync, durable.rename = wrap(durable.fsync), wrap(durable.rename)


def test_death_at_every_fsync_and_rename(tmp_path):
    """Two updates with a checkpoint each and an evaluation: first writes, replacing, and pruning are all in it."""
    settings = {"checkpoint_every": 0.0, "eval_every": 6, "keep_checkpoints": 1}
    run_to(tmp_path / "whole", 12, **settings)

    def train(path, number):
        directory = make(path)
        dying_at(number, [])
        with directory, stateful_loop.LiveRun(directory, quiet=True, **settings) as run:
            stateful_loop.train(run, 12)

    deaths = 0
    while True:
        path = tmp_path / str(deaths)
        code = exit_code(in_child(lambda: train(path, deaths + 1)))  # noqa: B023
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert exit_code(in_child(lambda: run_to(path, 12, resume=True, **settings))) == 0  # noqa: B023
        equal(path, tmp_path / "whole")
        shutil.rmtree(path)
        deaths += 1
    assert deaths > 35


def test_a_death_while_resuming(tmp_path):
    run_to(tmp_path / "whole", STEPS, eval_every=9)

    def first(update):
        if update.index == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    def again(number):
        dying_at(number, [])
        run_to(tmp_path / "run", STEPS, resume=True, checkpoint_every=0.0, eval_every=9)

    assert exit_code(in_child(lambda: run_to(tmp_path / "run", STEPS, at=first, eval_every=9))) == -signal.SIGKILL
    for number in (1, 3, 8, 20):
        assert exit_code(in_child(lambda: again(number))) == -signal.SIGKILL  # noqa: B023
    run_to(tmp_path / "run", STEPS, resume=True, eval_every=9)
    equal(tmp_path / "run", tmp_path / "whole")


def test_sigkill_before_the_first_checkpoint(tmp_path):
    run_to(tmp_path / "whole", STEPS)

    def kill(update):
        if update.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    killed = in_child(lambda: run_to(tmp_path / "run", STEPS, at=kill, checkpoint_every=1e9))
    assert exit_code(killed) == -signal.SIGKILL
    assert RunReader(tmp_path / "run").checkpoints() == []
    run_to(tmp_path / "run", STEPS, resume=True)
    equal(tmp_path / "run", tmp_path / "whole")


def killed_at_random(start, path, seconds):
    """Start, kill after random times, resume, until one attempt lives to the end; how many were killed."""
    kills = 0
    while True:
        process = start()
        time.sleep(random.uniform(*seconds))
        if os.waitpid(process, os.WNOHANG) != (0, 0):
            return kills
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        if (path / "config.toml").exists():
            kills += 1
            assert RunReader(path).status()["state"] in ("killed", "new", "finished")


@pytest.mark.parametrize("seed", range(3))
def test_sigkill_at_random_moments(tmp_path, seed):
    random.seed(seed)
    run_to(tmp_path / "whole", 240, eval_every=9)
    path = tmp_path / "run"

    def start():
        begun = (path / "config.toml").exists()
        return in_child(lambda: run_to(path, 240, begun, 0.005, checkpoint_every=0.01, eval_every=9))

    kills = killed_at_random(start, path, (0.02, 0.3))
    assert kills >= 2
    equal(path, tmp_path / "whole")


@pytest.mark.slow
def test_sigkill_of_a_fresh_interpreter_at_random_moments(tmp_path):
    run_to(tmp_path / "whole", 240, eval_every=9)
    path, program = tmp_path / "run", Path(stateful_loop.__file__)

    def start():
        arguments = [sys.executable, str(program), str(path), "240", "0.05"]
        return in_child(lambda: os.execve(sys.executable, arguments, ENVIRONMENT))

    kills = killed_at_random(start, path, (2.0, 8.0))
    assert kills >= 1
    equal(path, tmp_path / "whole")
