"""Functions for a worker process that behave as badly as functions can."""

from __future__ import annotations

import contextlib
import os
import signal
import time


def double(value):
    return value * 2


def behave(what):
    if what == "hang":
        time.sleep(1000)
    if what == "die":
        os._exit(3)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "raise":
        raise ValueError("no such thing")
    if what == "print":
        print("garbage", flush=True)
        os.write(1, b'{"id": 1, "result": 99}\n')
    if what == "memory":
        return len(bytearray(2**40))
    if what == "unspeakable":
        return object()
    if what == "deaf":
        os.close(0)
    if what == "scribble":  # straight into every pipe that is open
        for descriptor in range(3, 20):
            with contextlib.suppress(OSError):
                os.write(descriptor, b"{{ garbage\n")
    return os.getpid() if what == "pid" else what


def verify(answer, text):
    return float(answer == behave(text))
