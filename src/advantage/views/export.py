"""A finished or running run in the formats of other tools: TensorBoard event files, or CSV."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from advantage.errors import UserError, nearest
from advantage.runs import durable
from advantage.runs.reader import RunReader
from advantage.views.columns import Columns, read_columns

FORMATS = ("csv", "tensorboard")
CLOCKS = ("update", "env_steps", "tokens", "wall_time", "attempt")
SUFFIX = ".advantage"  # of our event files, so that a second export replaces the first and nothing else


def export(run_dir: str | Path, to: Literal["tensorboard", "csv"], out: str | Path | None = None) -> Path:
    """Write the metrics of a run for another tool; writing again replaces what was exported before.

    Args:
        to: "csv": metrics.csv (a row an update, empty where a metric has no value) and episodes.csv (a row an episode);
            "tensorboard": one event file, at the environment steps (in language: updates) and wall times of the run.
        out: the directory for them; None for `csv` or `tensorboard` in the run directory.

    Returns:
        The directory.

    Raises:
        UserError: not a run, another format, an extra that is missing, or a directory that cannot be written.
    """
    if to not in FORMATS:
        raise UserError(f"there is no export to {to!r}; {nearest(to, FORMATS)}")
    reader = RunReader(run_dir)
    folder = reader.path / to if out is None else Path(out)
    writer: Any = _event_writer() if to == "tensorboard" else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if to == "csv":
            _write_csv(reader, folder)
        else:
            _write_events(reader, folder, writer)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return folder


def _write_csv(reader: RunReader, folder: Path) -> None:
    columns = read_columns(reader)
    names = [*CLOCKS, *sorted(name for name in columns.table if name not in CLOCKS)]
    _rows(folder / "metrics.csv", names, _metric_rows(columns, names))
    episodes = reader.episodes()
    _rows(folder / "episodes.csv", list(episodes), zip(*(column.tolist() for column in episodes.values()), strict=True))


def _metric_rows(columns: Columns, names: Sequence[str]) -> Iterator[list[str]]:
    """A row an update: nothing where a metric was not recorded, 'nan', 'inf' or '-inf' where it was not finite."""
    lists = {name: columns.table[name].tolist() for name in names}
    for i, update in enumerate(lists["update"]):
        yield [_cell(lists[name][i], columns.special.get(name, {}).get(update)) for name in names]


def _cell(value: float, special: str | None) -> str:
    if special is not None:
        return special
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _rows(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    def write(draft: Path) -> None:
        with draft.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *rows])

    durable.replace(path, write)


def _event_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError('tensorboard is missing: pip install "advantage[tensorboard]"; csv needs no extra') from None
    return SummaryWriter


def _write_events(reader: RunReader, folder: Path, writer: Any) -> None:
    columns = read_columns(reader)
    for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
        old.unlink()
    starts = {attempt["attempt"]: attempt["started"] for attempt in reader.attempts()}
    table = columns.table
    times = _wall_times(table["attempt"].tolist(), table["wall_time"].tolist(), starts)
    with writer(str(folder), filename_suffix=SUFFIX) as events:
        config = (reader.path / "config.toml").read_text(encoding="utf-8")
        events.add_text("config", textwrap.indent(config, "    "))  # indented: code, in which no markup counts
        for name in sorted(name for name in table if name not in CLOCKS):
            special = columns.special.get(name, {})
            points = zip(table["update"].tolist(), columns.steps.tolist(), table[name].tolist(), times, strict=True)
            for update, step, value, time in points:
                if update in special or not math.isnan(value):
                    events.add_scalar(name, value, int(step), time)


def _wall_times(attempts: Sequence[float], seconds: Sequence[float], starts: dict[int, float]) -> list[float]:
    """Seconds since 1970 of each update: its attempt's start, and the seconds of training since then.

    The run's own clock leaves out the pauses between attempts; here they are put back.
    """
    before, times, attempt, base = 0.0, [], None, 0.0
    for number, second in zip(attempts, seconds, strict=True):
        if number != attempt:
            attempt, base = number, before
        times.append(starts.get(int(number), 0.0) + second - base)
        before = second
    return times
