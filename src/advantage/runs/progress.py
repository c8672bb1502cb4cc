"""Where a run is, on standard error: a bar on a terminal, a plain line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol

from advantage.runs.kinds import kind_of

PAUSE = 5.0  # seconds between two plain lines


class Progress(Protocol):
    """What a run tells its user."""

    def start(self, steps: int, total: int) -> None: ...
    def draw(self, steps: int, row: Mapping[str, float], per_second: float) -> None: ...
    def line(self, text: str) -> None: ...
    def stop(self) -> None: ...


def progress(quiet: bool, clock: str = "env_steps") -> Progress:
    """The one that fits the terminal; `clock` is what the run counts, "env_steps" or "updates"."""
    if quiet:
        return Silent()
    return Bar(clock) if sys.stderr.isatty() else Lines(clock)


class Silent:
    """Says nothing; what was to be said is in the run directory."""

    def start(self, steps: int, total: int) -> None:
        pass

    def draw(self, steps: int, row: Mapping[str, float], per_second: float) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def stop(self) -> None:
        pass


class Lines:
    """A line of text every few seconds, and one at the end."""

    def __init__(self, clock: str = "env_steps") -> None:
        self._clock = clock
        self._total = 0
        self._last = 0.0
        self._unsaid = ""

    def start(self, steps: int, total: int) -> None:
        self._total = total
        self._last = time.monotonic()

    def draw(self, steps: int, row: Mapping[str, float], per_second: float) -> None:
        step = kind_of(self._clock, row).step
        said = standing(self._clock, row, per_second, self._total - steps)
        self._unsaid = f"{step} {steps:,} of {self._total:,}  {said}"
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
    """A rich bar: steps, score, steps/s, time left."""

    def __init__(self, clock: str = "env_steps") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[said]}", markup=False))
        self._bar = RichProgress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self._task = self._bar.add_task("", total=None, said="")
        self._clock = clock
        self._total = 0

    def start(self, steps: int, total: int) -> None:
        self._total = total
        self._bar.update(self._task, completed=steps, total=total)
        self._bar.start()

    def draw(self, steps: int, row: Mapping[str, float], per_second: float) -> None:
        said = standing(self._clock, row, per_second, self._total - steps)
        self._bar.update(self._task, completed=steps, said=said)

    def line(self, text: str) -> None:
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        self._bar.stop()


def standing(clock: str, row: Mapping[str, float], per_second: float, steps_left: int) -> str:
    """The score of the last update, the speed, and the time that is left.

    >>> standing("updates", {"reward": 0.25, "train/loss": 0.0}, 0.5, 10)
    'reward 0.25  0.5 updates/s  0:20 left'
    """
    kind = kind_of(clock, row)
    score = kind.score(row)
    said = f"{score.word} {row[score.name]:.5g}  " if score.name in row else ""
    speed = f"{per_second:,.0f}" if per_second >= 10 or clock == "env_steps" else f"{per_second:.2g}"
    left = duration(steps_left / per_second) if per_second > 0 else "?"
    return f"{said}{speed} {kind.step}s/s  {left} left"


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
