"""A function in a process of its own, which can be killed: for verifiers that may hang, crash or eat the memory.

Parent and child speak in lines of JSON over pipes. The child says {"ready": true} when its function is loaded; then a
line {"id": n, "args": […]} is answered by {"id": n, "result": …} or {"id": n, "error": "…"}. A child that is too late,
that dies or that says anything else is killed, and another one takes the next call.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from advantage.errors import RunFailed

START_TIMEOUT = 120.0  # seconds; importing SymPy on a machine that is busy elsewhere
MEMORY = 4 * 2**30  # bytes of address space
_LINE = 2**26  # bytes; a longer answer is garbage
_PR_SET_PDEATHSIG = 1


class WorkerError(Exception):
    """A call that has no result: it raised in the child, was killed at its timeout, or took the child with it."""


class Worker:
    """Calls `module:function` in a child process, with JSON's types as arguments and results.

    The child starts at the first call and stays. It dies with its parent, however that ends.

    Args:
        function: `module:function`, imported in the child.
        timeout: seconds that one call may take, > 0; loading the function does not count.
        memory: bytes of address space that the child may use.
    """

    def __init__(self, function: str, *, timeout: float = 5.0, memory: int = MEMORY) -> None:
        self.function, self.timeout, self.memory = function, timeout, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._calls = 0
        self._finalizer: weakref.finalize[..., Any] | None = None

    def call(self, *args: Any) -> Any:
        """The function's result.

        Raises:
            WorkerError: the call raised, was too slow, or ended the process.
            RunFailed: the process cannot be started, or the function cannot be loaded in it.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        self._calls += 1
        deadline = time.monotonic() + self.timeout
        try:
            self._write(json.dumps({"id": self._calls, "args": args}).encode() + b"\n", deadline)
            answer = self._read(deadline)
            if answer.get("id") != self._calls or not ({"result", "error"} & answer.keys()):
                raise WorkerError("the worker answered with garbage")
        except BaseException:  # Ctrl-C too: an answer still under way must not meet the next call
            self.close()
            raise
        if "error" in answer:
            raise WorkerError(str(answer["error"]))
        return answer["result"]

    def map(self, calls: Iterable[Sequence[Any]]) -> list[Any]:
        """A result for each sequence of arguments, in their order; a `WorkerError` stands where a call failed."""
        results: list[Any] = []
        for args in calls:
            try:
                results.append(self.call(*args))
            except WorkerError as error:
                results.append(error)
        return results

    def close(self) -> None:
        """Kill the child; the next call starts another."""
        if self._finalizer is not None:
            self._finalizer()
        self._process, self._finalizer, self._buffer = None, None, b""

    def _start(self) -> None:
        self.close()
        command = [sys.executable, "-m", "advantage.language.worker", self.function, str(self.memory)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise RunFailed(f"the process of {self.function} cannot be started: {error}") from error
        self._process = process
        self._finalizer = weakref.finalize(self, _end, process)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        try:
            answer = self._read(time.monotonic() + START_TIMEOUT)
        except WorkerError as error:
            self.close()
            raise RunFailed(f"the process of {self.function} does not start: {error}") from error
        if answer.get("ready") is not True:
            self.close()
            raise RunFailed(f"{self.function} cannot be loaded in a process: {answer.get('error', answer)}")

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._process is not None and self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        while data:
            self._wait([], [pipe], deadline)
            try:
                data = data[os.write(pipe, data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise WorkerError(self._obituary()) from error

    def _read(self, deadline: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LINE:
                raise WorkerError("the worker answered with garbage")
            self._wait([pipe], [], deadline)
            if not (part := os.read(pipe, 2**16)):
                raise WorkerError(self._obituary())
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WorkerError("the worker answered with garbage") from error
        if not isinstance(answer, dict):
            raise WorkerError("the worker answered with garbage")
        return answer

    def _wait(self, readable: list[int], writable: list[int], deadline: float) -> None:
        while (left := deadline - time.monotonic()) > 0:
            if any(select.select(readable, writable, [], left)):
                return
        raise WorkerError(f"timed out after {self.timeout:g} s")

    def _obituary(self) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        return f"the worker died (exit status {self._process.returncode})"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def serve(function: str, memory: int) -> None:
    """The child: answer calls until standard input ends."""
    _settle(memory)
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # the pipe; what the function prints must not enter it
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    try:
        module, _, name = function.partition(":")
        call = getattr(importlib.import_module(module), name)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        return
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        try:
            answer = json.dumps({"id": request["id"], "result": call(*request["args"])})
        except Exception as error:
            answer = json.dumps({"id": request["id"], "error": f"{type(error).__name__}: {error}"})
        print(answer, file=answers, flush=True)


def _settle(memory: int) -> None:
    """Die with the parent, leave Ctrl-C to it, and keep to some memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (memory if hard == resource.RLIM_INFINITY else min(memory, hard), hard))
    with contextlib.suppress(AttributeError, OSError):  # Linux alone has it; elsewhere the pipe's end does
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # the parent died before it could be waited for
        sys.exit(1)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
