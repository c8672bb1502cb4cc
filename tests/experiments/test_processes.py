"""Jobs in processes of their own: how many at once, what the failed ones said, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import chain, repeat
from pathlib import Path

import pytest

from advantage.experiments import processes
from advantage.experiments.processes import Job, work
from advantage.runs.progress import Silent


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

        self.drawn: list[int] = []

    def draw(self, steps: int, row: Mapping[str, float], per_second: float) -> None:
        self.drawn.append(steps)

    def line(self, text: str) -> None:
        self.lines.append(text)


def python(code: str, name: str = "job") -> Job:
    return Job(name, ("-c", code))


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_at_once_than_workers(tmp_path: Path, workers: int) -> None:
    """Each job counts the others that are there when it begins."""
    code = (
        "import os, pathlib, sys, time; here = pathlib.Path(sys.argv[1]); own = here / sys.argv[2]; own.touch();"
        " print(len(list(here.glob('at-*'))), file=open(here / ('seen-' + sys.argv[2]), 'w'));"
        " time.sleep(0.3); own.unlink()"
    )
    jobs = [Job(f"at-{i}", ("-c", code, str(tmp_path), f"at-{i}")) for i in range(4)]
    assert work(jobs, workers, 0, Silent()) == {}
    seen = [int(path.read_text()) for path in tmp_path.glob("seen-*")]
    assert len(seen) == 4 and max(seen) == workers


def test_a_job_has_one_thread() -> None:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    assert work([python(f"import os; assert all(os.environ[n] == '1' for n in {names})")], 1, 0, Silent()) == {}


def test_a_job_is_a_process_group_of_its_own() -> None:
    """A terminal sends Ctrl-C to a whole group: beside the one that is handed on, a job would get a second one."""
    assert work([python("import os; assert os.getpgrp() == os.getpid()")], 1, 0, Silent()) == {}


def test_the_others_go_on_where_one_fails(tmp_path: Path) -> None:
    heard = Heard()
    jobs = [
        python("import sys; print('noise', file=sys.stderr); sys.exit('advantage: the wheel came off')", "bad"),
        python("import os; os._exit(3)", "silent"),
        python(f"open({str(tmp_path / 'made')!r}, 'w')", "good"),
    ]
    assert work(jobs, 1, 0, heard) == {"bad": "the wheel came off", "silent": "ended with 3"}
    assert (tmp_path / "made").exists()
    assert "failed: the wheel came off" in heard.lines[0] and heard.lines[2].startswith("3 of 3  good")


def test_steps_are_those_of_this_time_and_no_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on from step 5 with ten to do: it reaches 9, and its last update passes the budget."""
    monkeypatch.setattr(processes, "PULSE", 0.0)
    heard, steps = Heard(), chain([5, 9], repeat(99))
    assert work([Job("job", ("-c", "import time; time.sleep(0.5)"), lambda: next(steps))], 1, 10, heard) == {}
    assert heard.drawn[0] == 4 and set(heard.drawn[1:]) == {10}


def test_nothing_to_do() -> None:
    assert work([], 2, 0, Silent()) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_handed_on_once_and_waited_for(tmp_path: Path, number: signal.Signals) -> None:
    """The job answers the first SIGINT in its own time; a second one would kill it."""
    job = (
        "import pathlib, signal, sys, time; here = pathlib.Path(sys.argv[1])\n"
        "def stop(number, frame):\n"
        "    signal.signal(signal.SIGINT, signal.SIG_DFL); time.sleep(0.5)\n"
        "    (here / 'kept').touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, stop); (here / 'begun').touch(); time.sleep(60)"
    )
    code = (
        "import sys\nfrom advantage.experiments.processes import Job, work\n"
        "from advantage.runs.progress import Silent\nfrom advantage.runs.interrupt import Interrupted\n"
        f"try:\n    work([Job('job', ('-c', {job!r}, sys.argv[1])), Job('next', ('-c', 'x'))], 1, 0, Silent())\n"
        "except Interrupted as error:\n    print(error); sys.exit(130)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(parent.pid, number)
    said, _ = parent.communicate(timeout=60)
    assert parent.returncode == 130 and said == "stopped; the same command goes on from here\n"
    assert (tmp_path / "kept").exists()
