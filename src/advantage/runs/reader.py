"""Reading a run: no live process is needed, none is disturbed, and torch is imported only for tensors."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from advantage.errors import UserError
from advantage.runs import checkpoint
from advantage.runs.database import check_version
from advantage.runs.directory import COUNTS, read_config, read_status
from advantage.runs.lock import is_held

if TYPE_CHECKING:
    from advantage.runs.state import State

Column = np.ndarray[Any, Any]


class RunReader:
    """A run, finished or not.

    Attributes:
        path: the directory.
        config: the content of config.toml.

    Raises:
        UserError: not a run, or from a newer format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = read_config(self.path)

    def status(self) -> dict[str, Any]:
        """What status.json says: `state`, `heartbeat` (s since 1970), `pid`, `host`, `attempt`, `update`, `steps`,
        `total`, `error`.

        A run that says that it runs and whose process is gone has the state "killed"; one that never began, "new".
        Where status.json is lost or torn, the last whole checkpoint says how far the run came.
        """
        status = read_status(self.path) or self._counted()
        if status["state"] == "running" and not is_held(self.path / "lock"):
            status["state"] = "killed"
        return status

    def total(self) -> int | None:
        """Steps of the whole run: what `resume --steps` set last, else what config.toml says."""
        total: int | None = self.status().get("total") or self.config["settings"].get("steps")
        return total

    def metrics(self) -> dict[str, Column]:
        """One column a metric, one entry an update (NaN where it has none).

        Before them `update`, `env_steps`, `tokens`, `wall_time` (seconds of training) and `attempt`.
        """
        ticks = self._rows("SELECT id, env_steps, tokens, wall_time, attempt FROM ticks ORDER BY id")
        names = ("update", "env_steps", "tokens", "wall_time", "attempt")
        table = {name: np.array([row[i] for row in ticks], dtype=np.float64) for i, name in enumerate(names)}
        place = {row[0]: position for position, row in enumerate(ticks)}
        columns = {name: np.full(len(ticks), np.nan) for (name,) in self._rows("SELECT name FROM keys ORDER BY name")}
        scalars = self._rows("SELECT tick, name, coalesce(value, special) FROM scalars JOIN keys ON keys.id = key")
        for tick, name, value in scalars:
            if tick in place:
                columns[name][place[tick]] = float(value)
        return {**table, **columns}

    def episodes(self) -> dict[str, Column]:
        """The finished episodes in order: `update`, `env_steps`, `stream`, `return`, `length`, `ended`."""
        rows = self._rows("SELECT tick, env_steps, stream, return, length, ended FROM episodes ORDER BY id")
        names = ("update", "env_steps", "stream", "return", "length", "ended")
        return {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}

    def completions(self, first: int, last: int) -> list[dict[str, Any]]:
        """The texts of some updates (from 1, both ends included) in order; of a reward model those that it scored.

        Each has `update`, `group` (of the prompt), `index`, `prompt`, `completion`, `reward` (None where it has none)
        and `finish_reason`; of a scored text the last is what is said of it: chosen, rejected, right or wrong.
        """
        names = ("update", "group", "index", "prompt", "completion", "reward", "finish_reason")
        columns = 'tick, "group", "index", prompt, completion, reward, finish_reason'
        where = f"WHERE tick BETWEEN {int(first)} AND {int(last)}"
        rows = self._rows(f'SELECT {columns} FROM completions {where} ORDER BY tick, "group", "index"')
        return [dict(zip(names, row, strict=True)) for row in rows]

    def events(self) -> list[dict[str, Any]]:
        """What a person should know, in order: `update`, `level` (note, warn, stop), `tripwire`, `text`."""
        names = ("update", "level", "tripwire", "text")
        rows = self._rows("SELECT tick, level, tripwire, text FROM events ORDER BY id")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def keys(self) -> dict[str, tuple[str, str]]:
        """Unit and meaning of each metric of the run."""
        rows = self._rows("SELECT name, unit, meaning FROM keys ORDER BY name")
        return {name: (unit, meaning) for name, unit, meaning in rows}

    def attempts(self) -> list[dict[str, Any]]:
        """The start and each resume: `attempt`, `started` (since 1970), `host`, `pid`, `from_update`, `versions`."""
        names = ("attempt", "started", "host", "pid", "from_update", "versions")
        rows = self._rows("SELECT id, started, host, pid, from_tick, versions FROM attempts ORDER BY id")
        return [dict(zip(names, (*row[:-1], json.loads(row[-1])), strict=True)) for row in rows]

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Step and folder of each checkpoint, ascending; their content is verified when it is read."""
        return checkpoint.found(self.path / "checkpoints")

    def policy(self, which: int | Literal["last", "best"] = "last") -> tuple[dict[str, State], dict[str, Any]]:
        """The states of the parts that act (`policy`, perhaps `normalizer`), for `state.restore`; `update` and `steps`.

        Args:
            which: the latest, the best by held-out evaluation, or the checkpoint of a step.

        Raises:
            UserError: there is none, or the checkpoint is torn.
        """
        from advantage.runs import saved

        if isinstance(which, str):
            return saved.read_policy(self.path / ("policy" if which == "last" else "best"))
        steps = dict(self.checkpoints())
        if which not in steps:
            raise UserError(f"{self.path}: no checkpoint {which}, there are {', '.join(map(str, steps)) or 'none'}")
        try:
            found = checkpoint.load(steps[which])
        except checkpoint.Torn as error:
            raise UserError(str(error)) from error
        states = {part: found.state(part) for part in saved.PARTS if part in found.body["scalars"]}
        return states, {"update": found.body["run"]["update"], "steps": found.step}

    def rollout(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of the rollout of the last checkpointed update, as trees of tensors, and its `update` and `steps`.

        Raises:
            UserError: there is none yet.
        """
        from advantage.runs import saved

        return saved.read_rollout(self.path / "rollout")

    def _counted(self) -> dict[str, Any]:
        """The counters of the last whole checkpoint, of a run that may be running; or a new one's state."""
        found, _ = checkpoint.latest(self.path / "checkpoints")
        if found is None:
            return {"state": "new"}
        run = found.body["run"]
        return {"state": "running", **{name: run.get(name) for name in COUNTS}}

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query, through a connection that cannot write; none where the run has no database yet."""
        path = self.path / "metrics.sqlite"
        if not path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30.0)) as connection:
                if check_version(path, connection):
                    return connection.execute(query).fetchall()
        except sqlite3.Error as error:
            raise UserError(f"{path}: cannot be read: {error}") from error
        if updates := self.status().get("update"):  # of a run that just begins the tables may not be there yet
            raise UserError(f"{path}: cannot be read: it has no tables, and the run has completed {updates:,} updates")
        return []
