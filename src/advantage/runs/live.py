"""A run while it trains: what an algorithm sees of everything around it.

    with LiveRun(directory) as run:
        run.keep(policy=policy, optimizer=optimizer)
        for update in run.updates(steps):
            ...
            run.log(scalars, rollout, episodes)

Between two updates the rows are written, the tripwires looked at, a due evaluation and a due checkpoint made, Ctrl-C
honoured and progress drawn. None of it changes a bit of the training.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

import numpy as np

from advantage import watch
from advantage.errors import NonFinite, RunFailed, Tripped, UserError, in_a_line, typed
from advantage.runs import checkpoint, machine, saved
from advantage.runs.database import Database
from advantage.runs.directory import RunDirectory
from advantage.runs.interrupt import Interrupted, Interrupts
from advantage.runs.moment import Logged, Update
from advantage.runs.progress import progress
from advantage.runs.segments import Segments
from advantage.runs.state import refuse_non_finite, restore, snapshot
from advantage.runs.streams import Streams
from advantage.trajectory import Batch, Episode, Rollout, Sample

EPISODES = 100  # episodes in the running mean of the return, SB3's number
PULSE = 1.0  # seconds between two commits of rows and two heartbeats


class LiveRun:
    """A run in progress; a context manager that leaves the directory in a true state however it is left.

    Args:
        directory: the locked directory; its config names the seed.
        checkpoint_every: seconds between checkpoints, >= 0, more where one takes long; 0 checkpoints every update.
        keep_checkpoints: how many stay, >= 1.
        eval_every: steps between held-out evaluations, >= 1; None evaluates at the end only.
        record_every: updates from one that is recorded to the next, >= 1; the first is, and the last.
        quiet: say nothing on standard error.
        resume: continue from the last whole checkpoint.
        clock: what the run counts: the environment steps of its rollouts (control), or its updates (language, where the
            steps of a rollout are tokens).
        opening: notes by their source, said when the first update begins: set-up that failed has said nothing.

    Attributes:
        steps: steps done, on the run's clock.
        resumed: whether a checkpoint was found to continue from.

    Raises:
        UserError: a setting out of range; no checkpoint of the run is whole.
        RunFailed: the database cannot be written, or is none.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        checkpoint_every: float = 10.0,
        keep_checkpoints: int = 2,
        eval_every: int | None = None,
        record_every: int = 1,
        quiet: bool = False,
        resume: bool = False,
        clock: Literal["env_steps", "updates"] = "env_steps",
        opening: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if not 0 <= checkpoint_every < math.inf:
            raise UserError(f"checkpoint_every = {checkpoint_every}: seconds, 0 or more")
        counts = {"keep_checkpoints": keep_checkpoints, "eval_every": eval_every, "record_every": record_every}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UserError(f"{name} = {count}: at least 1")
        self.directory, self.path = directory, directory.path
        self.steps, self.resumed = 0, False
        self._checkpoint_every, self._keep_checkpoints = checkpoint_every, keep_checkpoints
        self._pause, self._opening = checkpoint_every, opening
        self._eval_every, self._record_every, self._resume, self._clock = eval_every, record_every, resume, clock
        self._streams = Streams(int(directory.config["seed"]))
        self._progress = progress(quiet, clock)
        self._interrupts = Interrupts()
        self._checkpoint: checkpoint.Checkpoint | None = None
        self._kept: dict[str, Any] = {}
        self._segments = Segments(self.path / "checkpoints")
        self._evaluate: Callable[[], Mapping[str, float]] | None = None
        self._measure: Callable[[Rollout | Batch], Mapping[str, float]] = lambda _: {}
        self._logged: Logged | None = None
        self._tidies: list[Callable[[], object]] = []
        self._drawn: set[str] = set()
        self._phases: dict[str, float] = {}
        self._row: dict[str, float] = {}
        self._update = self._tokens = self._total = 0
        self._best: float | None = None
        self._active: set[str] = set()
        self._stage: Literal["set-up", "in update", "after update", "finished"] = "set-up"

    # What an algorithm calls.

    def seed(self, name: str) -> int:
        """The sub-seed of a name, in [0, 2^63)."""
        return self._streams.sub_seed(name)

    def rng(self, name: str) -> np.random.Generator:
        """The generator of a name for the present update, counter-based: nothing of it needs saving.

        Raises:
            RuntimeError: asked for twice in one update (the numbers would repeat), or outside the updates.
        """
        if self._stage != "in update":
            raise RuntimeError(f"rng({name!r}) belongs to an update; outside of them use seed({name!r})")
        if name in self._drawn:
            raise RuntimeError(f"rng({name!r}) was asked for twice in one update; its numbers would repeat")
        self._drawn.add(name)
        return self._streams.rng(name, self._update)

    def keep(self, **things: Any) -> None:
        """Name what a resumed run needs, and restore it here when it is one.

        A thing is a module, an optimiser, or has `state()` and `restore()`; what only grows has its rows written once
        (`segments.Growing`). Those called `policy` and `normalizer` go into policy/ and best/ too.
        """
        for name, thing in things.items():
            if name in self._kept:
                raise ValueError(f"{name} is kept already")
            self._kept[name] = thing
            if self._checkpoint is not None:
                restore(thing, self._checkpoint.state(name))
                for line in getattr(thing, "notes", ()):  # what could not be restored exactly, said by the thing itself
                    self.note("note", name, line)
            self._segments.keep(name, thing, self._checkpoint.pieces(name) if self._checkpoint else {})

    def held_out(self, evaluate: Callable[[], Mapping[str, float]]) -> None:
        """Have `evaluate` called every `eval_every` steps and at the end; the best `eval/mean_reward` makes best/."""
        self._evaluate = evaluate

    def between(self, tidy: Callable[[], object]) -> None:
        """Have a function called after every update, whose result nothing depends on."""
        self._tidies.append(tidy)

    def also_log(self, measure: Callable[[Rollout | Batch], Mapping[str, float]]) -> None:
        """Have `measure` called with the data of each update, after it; its numbers are logged with the others."""
        self._measure = measure

    def updates(self, total: int) -> Iterator[Update]:
        """The updates up to `total` steps; a resumed run begins where its checkpoint stands.

        Raises:
            Interrupted: the user asked to stop; everything is kept.
            RunFailed: a tripwire stopped the run, or its directory cannot be written.
        """
        self._total = total
        self._say_differences()
        for source, text in self._opening.items():
            self.note("note", source, text)
        self._began, self._began_at = time.monotonic(), self.steps
        self._checkpointed = self._pulsed = self._began
        self._interrupts.patient = True
        self._progress.start(self.steps, total)
        while self.steps < total:
            self._drawn.clear()
            self._phases.clear()
            self._logged = None
            self._stage = "in update"
            yield Update(self._update, self.steps, total)
            self._complete()
            for tidy in self._tidies:
                tidy()
        self._interrupts.patient = False
        self._stage = "finished"

    def log(
        self,
        scalars: Mapping[str, float],
        data: Rollout | Batch,
        episodes: Sequence[Episode] = (),
        samples: Sequence[Sample] = (),
        steps: int | None = None,
    ) -> None:
        """Hand over what an update was made of and what came of it; once, at its end.

        Args:
            scalars: its numbers by name.
            data: its rollout, which is kept for `explain`; or its batch, where the data were given.
            episodes, samples: those that ended, and those that were drawn, in it.
            steps: environment steps that it took, where some of them are not in its rollout; None for the rollout's.
        """
        self._logged = Logged({name: float(value) for name, value in scalars.items()}, data, episodes, samples, steps)

    @property
    def due(self) -> bool:
        """Whether this update's numbers are recorded: where they are not, nobody needs to compute them."""
        return self._update % self._record_every == 0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to this update's `time/<name>`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            key = f"time/{name}"
            self._phases[key] = self._phases.get(key, 0.0) + time.perf_counter() - started

    def note(self, level: str, source: str, text: str) -> None:
        """Record an event (`level` is note, warn or stop) and say it. A resumed run repeats no event of its set-up."""
        self._progress.line(f"{level}: {source}: {text}")
        if self._stage != "set-up" or not self._database.has_event(source, text):
            self._database.event(self._tick, level, source, text)

    # The rhythm between two updates.

    def _complete(self) -> None:
        if self._logged is None:
            raise RuntimeError("run.log(...) is the last line of every update")
        logged, before, due = self._logged, self.steps, self.due
        self._count(logged)
        measured = self._measure(logged.data)
        last, every = self.steps >= self._total, self._eval_every
        evaluating = self._evaluate and (last or (every and self.steps // every > before // every))
        if due or last or evaluating:
            self._row = {**self._own_scalars(), **self._phases, **logged.scalars, **measured}
            self._write(self._row)
            refuse_non_finite(self._kept, self._update)
            self._inspect()
        if self._evaluate and evaluating:
            self._hold_out(self._evaluate, self._row)
        interrupted = self._interrupts.asked  # asked once: what comes after this line waits for the next update
        if last or interrupted or time.monotonic() - self._checkpointed >= self._pause:
            if not due:
                refuse_non_finite(self._kept, self._update)
            self._commit(logged.data, before)
        self._pulse()
        self._progress.draw(self.steps, self._row, self._per_second())
        if interrupted and not last:
            raise Interrupted(f"stopped at step {self.steps}; `advantage resume {typed(self.path)}` continues")

    def _count(self, logged: Logged) -> None:
        self._stage = "after update"
        self._update += 1
        self.directory.begun = True
        made = logged.data.steps if isinstance(logged.data, Rollout) else logged.data.tokens
        if self._clock == "env_steps":
            self.steps += made if logged.steps is None else logged.steps
        else:
            self.steps += 1
            self._tokens += made
        self._episodes.extend((episode.total_reward, episode.length) for episode in logged.episodes)
        self._database.episodes(self._update, self._clocks[0], logged.episodes)
        self._database.completions(self._update, logged.samples)

    @property
    def _clocks(self) -> tuple[int | None, int | None]:  # environment steps, tokens: the one that the run counts
        return (self.steps, None) if self._clock == "env_steps" else (None, self._tokens)

    def _own_scalars(self) -> dict[str, float]:
        """What the run itself knows: the running mean over episodes, and the time."""
        own: dict[str, float] = {}
        if self._episodes:
            rewards, lengths = zip(*self._episodes, strict=True)
            own["rollout/ep_rew_mean"] = sum(rewards) / len(rewards)
            own["rollout/ep_len_mean"] = sum(lengths) / len(lengths)
        if self._clock == "env_steps":
            own["time/fps"] = self._per_second()
            own["time/total_timesteps"] = float(self.steps)
        else:
            own["num_tokens"] = float(self._tokens)
        return own

    def _write(self, row: dict[str, float]) -> None:
        self._database.tick(self._update, *self._clocks, self._wall_time())
        self._database.scalars(self._update, row)
        self._history.append(row)

    def _inspect(self) -> None:
        """Each tripwire speaks when it begins to see something; one of level stop ends the run."""
        findings = watch.inspect(list(self._history))
        for finding in findings:
            if finding.tripwire not in self._active:
                self.note(finding.level, finding.tripwire, finding.text)
        self._active = {finding.tripwire for finding in findings}
        for finding in findings:
            if finding.level == "stop":
                raise Tripped(f"{finding.tripwire}: {finding.text}; stopped at step {self.steps}, {self._last_good()}")

    def _hold_out(self, evaluate: Callable[[], Mapping[str, float]], row: dict[str, float]) -> None:
        """Evaluate; `row` (the newest of the history) takes the results too."""
        with self.phase("evaluate"):
            results = {name: float(value) for name, value in evaluate().items()}
        results["time/evaluate"] = self._phases["time/evaluate"]
        self._database.scalars(self._update, results)
        row.update(results)
        score = results["eval/mean_reward"]
        if math.isfinite(score) and (self._best is None or score > self._best):
            self._best = score
            with self._disk_errors("best/"):
                states = {name: snapshot(self._kept[name]) for name in saved.PARTS if name in self._kept}
                saved.write_policy(self.path / "best", states, self._about(), self._kept.get("policy"))

    def _commit(self, data: Rollout | Batch, before: int) -> None:
        """Rows, rollout/ and policy/ first: a checkpoint that is there never promises what is not."""
        started = time.monotonic()
        self._database.flush()
        states = {name: snapshot(thing) for name, thing in self._kept.items()}
        counters = {"update": self._update, "steps": self.steps, "tokens": self._tokens, "total": self._total}
        run = {**counters, "best": self._best, "active": sorted(self._active)}
        about = {"written": time.time(), "wall_time": self._wall_time(), "attempt": self._database.attempt}
        with self._disk_errors(f"checkpoint step-{self.steps}"):
            if isinstance(data, Rollout):
                saved.write_rollout(self.path / "rollout", data, {**self._about(), "began": before})
            saved.write_policy(self.path / "policy", states, self._about(), self._kept.get("policy"))
            folder, keep, pieces = self.path / "checkpoints", self._keep_checkpoints, self._segments.extend()
            checkpoint.commit(folder, self.steps, states, run, machine.describe(), about, keep, pieces)
        self._checkpointed = time.monotonic()
        if self._checkpoint_every:  # a large model's checkpoints take a tenth of the time at most
            self._pause = max(self._checkpoint_every, 9.0 * (self._checkpointed - started))

    def _pulse(self) -> None:
        if time.monotonic() - self._pulsed >= PULSE:
            self._database.flush()
            with self._disk_errors("status.json"):
                self._status("running")
            self._pulsed = time.monotonic()

    # Beginning and end.

    def __enter__(self) -> Self:
        torn = self._find() if self._resume else []
        self._database = Database(self.path / "metrics.sqlite", self._update, machine.versions())
        with contextlib.ExitStack() as undo:
            undo.callback(self._database.close)
            self._history = deque(self._database.history(watch.HISTORY), watch.HISTORY)
            self._episodes = deque(self._database.last_episodes(EPISODES), EPISODES)
            self._entered = time.monotonic()
            with self._disk_errors("status.json"):
                self._status("running")
            undo.pop_all()
        self._interrupts.install()
        if self._resume:
            self._say_start(torn)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._interrupts.remove()
        self._progress.stop()
        stopped = error is None or isinstance(error, KeyboardInterrupt)
        state = "failed" if not stopped else "finished" if self._stage == "finished" else "stopped"
        said = None if error is None or stopped else in_a_line(error)
        if said and not isinstance(error, Tripped):
            self._database.event(self._tick, "stop", "non_finite" if isinstance(error, NonFinite) else "error", said)
        # A full disk must not hide the error that is on its way.
        guard = contextlib.nullcontext() if error is None else contextlib.suppress(RunFailed, sqlite3.Error)
        with guard:
            self._database.close()
        with guard, self._disk_errors("status.json"):
            self._status(state, said)

    def _find(self) -> list[str]:
        """Take up the last whole checkpoint; returns a line for each later one that is torn."""
        for folder in ("", "checkpoints", "policy", "best", "rollout"):
            checkpoint.sweep(self.path / folder)
        self._checkpoint, torn = checkpoint.latest(self.path / "checkpoints")
        if self._checkpoint:
            run = self._checkpoint.body["run"]
            self.resumed = True
            self.steps, self._update, self._tokens = run["steps"], run["update"], run["tokens"]
            self._best, self._active = run["best"], set(run["active"])
            self._total = run.get("total", 0)  # until updates() says what it is now: a set-up may fail before
        return torn

    def _say_start(self, torn: list[str]) -> None:
        start = (
            f"goes on from step-{self.steps}" if self.resumed else "no checkpoint was made: starts from the beginning"
        )
        self._progress.line(f"{self.path}: {start}")
        for line in torn:
            self.note("warn", "checkpoint", f"{line}; used step-{self.steps} instead")
        if (rows := self._database.ticks()) < (due := -(-self._update // self._record_every)):
            text = f"metrics.sqlite holds {rows} of the {due} updates before step-{self.steps}"
            self.note("warn", "database", text)

    def _say_differences(self) -> None:
        before = self._checkpoint.body["machine"] if self._checkpoint else machine.describe()
        if differs := machine.differences(before, machine.describe()):
            self.note("note", "machine", f"bits may differ from those of an uninterrupted run: {differs}")

    def _status(self, state: str, error: str | None = None) -> None:
        reached = {"update": self._update, "steps": self.steps, "total": self._total}
        self.directory.write_status(state, attempt=self._database.attempt, **reached, error=error)

    @property
    def _tick(self) -> int:
        """The update that an event belongs to; one that is not completed is never part of a checkpoint."""
        return self._update + (self._stage == "in update")

    def _about(self) -> dict[str, Any]:
        """What a policy file says about itself; nothing in it differs between an interrupted run and another."""
        config = self.directory.config
        named = {name: config[name] for name in ("format", "algorithm", "target", "seed")}
        return {**named, "update": self._update, "steps": self.steps, "total": self._total}

    def _wall_time(self) -> float:
        before = self._checkpoint.body["about"]["wall_time"] if self._checkpoint else 0.0
        return float(before + time.monotonic() - self._entered)

    def _per_second(self) -> float:
        return (self.steps - self._began_at) / max(time.monotonic() - self._began, 1e-9)

    def _last_good(self) -> str:
        found = checkpoint.found(self.path / "checkpoints")
        return f"the last good checkpoint is {found[-1][1].name}" if found else "there is no checkpoint yet"

    @contextlib.contextmanager
    def _disk_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFailed(
                f"{self.path}: cannot write {what}: {error.strerror or error}; {self._last_good()}"
            ) from error
