"""A worker process: killed when it hangs, replaced when it dies, deaf to garbage, gone with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from advantage.errors import RunFailed
from advantage.language.worker import Worker, WorkerError


@pytest.fixture(scope="module")
def worker():
    made = Worker("tests.language.crooked:behave", timeout=20.0)
    yield made
    made.close()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pid):
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def test_results_come_in_order_from_one_process(worker):
    values = [[1, "ä\n"], {"a": None}, 1.5, "x" * 300_000]
    assert worker.map([(value,) for value in values]) == values
    assert worker.call("pid") == worker.call("pid") != os.getpid()


def test_a_hung_call_is_killed_and_the_next_one_answered():
    with_timeout = Worker("tests.language.crooked:behave", timeout=20.0)
    pid = with_timeout.call("pid")
    with_timeout.timeout = 0.3
    start = time.monotonic()
    with pytest.raises(WorkerError, match="timed out after 0.3 s"):
        with_timeout.call("hang")
    assert time.monotonic() - start < 5 and gone(pid)
    with_timeout.timeout = 20.0
    assert with_timeout.call("next") == "next"
    with_timeout.close()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("raise", "ValueError: no such thing"),
        ("memory", "MemoryError"),
        ("unspeakable", "not JSON serializable"),
        ("die", "exit status 3"),
        ("crash", "exit status -11"),
        ("scribble", "garbage"),
    ],
)
def test_a_call_that_fails_fails_alone(worker, what, says):
    before, error, after = worker.map([("before",), (what,), ("after",)])
    assert (before, after) == ("before", "after")
    assert isinstance(error, WorkerError) and says in str(error)


def test_what_a_function_prints_does_not_enter_the_answers(worker):
    assert worker.map([("print",), ("next",), ("deaf",), ("next",)]) == ["print", "next", "deaf", "next"]


def test_a_function_that_is_not_there_is_no_failure_of_the_call():
    for name, says in (("no.module:f", "No module named"), ("tests.language.crooked:missing", "has no attribute")):
        with pytest.raises(RunFailed, match=says):
            Worker(name).call(1)


def test_an_interrupted_call_leaves_no_answer_to_the_next(worker, monkeypatch):
    worker.call("warm")

    def interrupted(deadline):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.call("late")
    monkeypatch.undo()
    assert worker.call("next") == "next"


def test_closing_and_forgetting_end_the_process():
    for end in (Worker.close, lambda made: None):
        made = Worker("tests.language.crooked:behave", timeout=20.0)
        pid = made.call("pid")
        end(made)
        del made
        assert gone(pid)


def test_it_dies_with_a_parent_that_is_killed():
    code = (
        "import os, threading; from advantage.language.worker import Worker\n"
        "w = Worker('tests.language.crooked:behave', timeout=1000.0)\n"
        "print(w.call('pid'), flush=True); w.call('hang')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        assert gone(pid)


def test_the_child_imports_no_torch():
    code = "import sys, advantage.language.worker; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
