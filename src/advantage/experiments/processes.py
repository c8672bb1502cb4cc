"""Pieces of work, each in a process of its own, a few at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from advantage.runs.interrupt import Interrupted, Interrupts
from advantage.runs.progress import Progress, duration

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
PAUSE = 0.05  # seconds between two looks at who has ended
PULSE = 1.0  # seconds between two looks at how far they are


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        name: for people.
        words: what Python is called with, behind its own name.
        reached: how many steps of its run are done; None for work that counts none.
    """

    name: str
    words: tuple[str, ...]
    reached: Callable[[], int] | None = None


@dataclass(frozen=True)
class _Process:
    job: Job
    began: float
    errors: IO[str]
    child: subprocess.Popen[bytes]


def work(jobs: Sequence[Job], workers: int, steps: int, progress: Progress) -> dict[str, str]:
    """Does all jobs, at most `workers` at once, each with one thread.

    Args:
        jobs: begun in their order.
        workers: ≥ 1.
        steps: of all runs that are still to be done, for the progress; 0 for jobs that count none.
        progress: told of every job that ends, and of the steps that are done.

    Returns:
        What the jobs that failed said last, by their names; the others were done all the same.

    Raises:
        Interrupted: the user asked to stop; every run that had begun has kept itself.
    """
    waiting, living, failed = deque(jobs), list[_Process](), dict[str, str]()
    watched = _Watch(jobs, steps, progress)
    interrupts = Interrupts()
    interrupts.install()
    try:
        while waiting or living:
            while waiting and len(living) < workers:
                living.append(_begin(waiting.popleft()))
            for process in [one for one in living if one.child.poll() is not None]:
                living.remove(process)
                error = _error_of(process)
                if error:
                    failed[process.job.name] = error
                watched.ended(process, error)
            watched.look()
            time.sleep(PAUSE)
    except KeyboardInterrupt as interrupt:
        for process in living:
            process.child.send_signal(signal.SIGINT)
        for process in living:
            process.child.wait()
        raise Interrupted("stopped; the same command goes on from here") from interrupt
    finally:
        for process in living:
            process.child.kill()
        interrupts.remove()
        progress.stop()
    return failed


class _Watch:
    """Tells how far the work is."""

    def __init__(self, jobs: Sequence[Job], steps: int, progress: Progress) -> None:
        self._count, self._ended, self._steps, self._progress = len(jobs), 0, steps, progress
        self._reached = [job.reached for job in jobs if job.reached is not None]
        self._before = self._sum()
        self._began = self._looked = time.monotonic()
        if steps:
            progress.start(0, steps)

    def look(self) -> None:
        """Says how many steps are done, now and then."""
        now = time.monotonic()
        if self._steps and now - self._looked >= PULSE:
            made = min(self._sum() - self._before, self._steps)  # a run's last update may pass its budget
            self._progress.draw(made, {}, made / (now - self._began))
            self._looked = time.monotonic()

    def ended(self, process: _Process, error: str) -> None:
        """Says how a job ended."""
        self._ended += 1
        how = f"failed: {error}" if error else duration(time.monotonic() - process.began)
        self._progress.line(f"{self._ended} of {self._count}  {process.job.name}  {how}")

    def _sum(self) -> int:
        return sum(reached() for reached in self._reached)


def _begin(job: Job) -> _Process:
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed when it was read
    command = [sys.executable, *job.words]
    # A group of its own: Ctrl-C at the terminal reaches this process alone, which hands it on once.
    child = subprocess.Popen(
        command, env=os.environ | ONE_THREAD, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
        process_group=0,
    )  # fmt: skip
    return _Process(job, time.monotonic(), errors, child)


def _error_of(process: _Process) -> str:
    """What a process that failed said last; empty where it did not."""
    with process.errors as errors:
        errors.seek(0)
        lines = errors.read().split("\n")
    if process.child.returncode == 0:
        return ""
    said = [line.removeprefix("advantage: ") for line in lines if line.strip()]
    return said[-1] if said else f"ended with {process.child.returncode}"
