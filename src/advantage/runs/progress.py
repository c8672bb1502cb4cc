"""Where a run is, on standard error: a bar on a terminal, a plain line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from typing import Protocol

PAUSE = 5.0  # seconds between two plain lines


class Progress(Protocol):
    """What a run tells its user."""

    def start(self, steps: int, total: int) -> None: ...
    def draw(self, steps: int, mean_return: float | None, per_second: float) -> None: ...
    def line(self, text: str) -> None: ...
    def stop(self) -> None: ...


def progress(quiet: bool) -> Progress:
    """The one that fits the terminal."""
    if quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()


class Silent:
    """Says nothing; what was to be said is in the run directory."""

    def start(self, steps: int, total: int) -> None:
        pass

    def draw(self, steps: int, mean_return: float | None, per_second: float) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def stop(self) -> None:
        pass


class Lines:
    """A line of text every few seconds, and one at the end."""

    def __init__(self) -> None:
        self._total = 0
        self._last = 0.0
        self._unsaid = ""

    def start(self, steps: int, total: int) -> None:
        self._total = total
        self._last = time.monotonic()

    def draw(self, steps: int, mean_return: float | None, per_second: float) -> None:
        left = duration((self._total - steps) / per_second) if per_second > 0 else "?"
        said = "" if mean_return is None else f"  return {mean_return:.5g}"
        self._unsaid = f"step {steps:,} of {self._total:,}{said}  {per_second:,.0f} steps/s  {left} left"
        if time.monotonic() - self._last >= PAUSE:
            self._last = time.monotonic()
            self.stop()

    def line(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)

    def stop(self) -> None:
        if self._unsaid:
            self.line(self._unsaid)
        self._unsaid = ""


class Bar:
    """A rich bar: steps, return, steps/s, time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[said]}", markup=False))
        self._bar = RichProgress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self._task = self._bar.add_task("", total=None, said="")
        self._total = 0

    def start(self, steps: int, total: int) -> None:
        self._total = total
        self._bar.update(self._task, completed=steps, total=total)
        self._bar.start()

    def draw(self, steps: int, mean_return: float | None, per_second: float) -> None:
        left = duration((self._total - steps) / per_second) if per_second > 0 else "?"
        said = "" if mean_return is None else f"return {mean_return:.5g}  "
        self._bar.update(self._task, completed=steps, said=f"{said}{per_second:,.0f} steps/s  {left} left")

    def line(self, text: str) -> None:
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        self._bar.stop()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(8), duration(3671)
    ('0:08', '1:01:11')
    """
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def printable(text: str) -> str:
    """Text of others without what a terminal would obey.

    >>> printable("ok\\x1b[2J")
    'ok?[2J'
    """
    return "".join(character if character.isprintable() else "?" for character in text)
