"""Ctrl-C, and SIGTERM like it: once, the run finishes its update, keeps it and stops; twice, it stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The run stopped at the user's word and lost nothing; the message says how to continue. Exit code 130."""


class Interrupts:
    """Signal handlers for the time of a run (in the main thread; elsewhere they stay as they are).

    Attributes:
        patient: whether an update is under way that a first Ctrl-C waits for.
        asked: whether the user asked to stop.
    """

    def __init__(self) -> None:
        self.patient = False
        self.asked = False
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)

    def remove(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler or signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.patient:
            raise KeyboardInterrupt
        self.asked = True
