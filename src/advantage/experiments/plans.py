"""A run of an experiment: planned before anything is made, done in a process of its own, not done twice."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from advantage.errors import UserError
from advantage.experiments.processes import Job, work
from advantage.planning import Plan, check_target, plan
from advantage.runs import durable
from advantage.runs.directory import read_status
from advantage.runs.progress import progress
from advantage.runs.reader import RunReader
from advantage.settings import to_toml, written


@dataclass(frozen=True)
class Experiment:
    """A run that is to be.

    Attributes:
        name: of its folder.
        plan: all that it will do.
        given: names of the settings that are not left to their defaults.
    """

    name: str
    plan: Plan
    given: tuple[str, ...]

    def words(self, path: Path) -> tuple[str, ...]:
        """The command line that begins it."""
        settings = [word for name in self.given for word in ("--set", f"{name}={self._text(name)}")]
        head = ("-m", "advantage.cli", "train", self.plan.algorithm, self.plan.target, "--seed", str(self.plan.seed))
        return (*head, "--run-dir", str(path), "--quiet", *settings)

    def told(self) -> dict[str, Any]:
        """What it is, without its seed, as a table of the experiment's own file."""
        settings = {name: self._text(name) for name in self.given}
        return {"algorithm": self.plan.algorithm, "target": self.plan.target, "settings": settings}

    def _text(self, name: str) -> str:
        table, dot, own = name.partition(".")
        value = getattr(self.plan.settings, table)
        return written(value[own] if dot else value)


def planned(name: str, algorithm: str, target: str, seed: int, given: Mapping[str, Any]) -> Experiment:
    """The run of these settings, with one thread unless they say otherwise.

    Raises:
        UserError: an algorithm, a setting or a value that cannot be.
    """
    settings = {"threads": 1, **given}
    return Experiment(name, plan(algorithm, target, seed, settings), tuple(settings))


def check_targets(experiments: Sequence[Experiment]) -> None:
    """Looks for every environment or model once.

    Raises:
        UserError: one is not there, or lacks an argument.
    """
    seen = set()
    for experiment in experiments:
        settings = experiment.plan.settings
        about = (experiment.plan.world, experiment.plan.target, repr(getattr(settings, "env_args", None)))
        if about not in seen:
            check_target(experiment.plan)
            seen.add(about)


def claim(out: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Makes the folder of an experiment, or finds that it is this one's already.

    Args:
        out: the folder.
        kind: "sweep" or "ladder"; the folder's file KIND.toml says what it holds.
        content: of that file, without the seeds: more of them may be asked for later.

    Raises:
        UserError: the folder holds something else, or cannot be made.
    """
    path, text = out / f"{kind}.toml", to_toml(content)
    try:
        if path.exists():
            if tomllib.loads(path.read_text(encoding="utf-8")) != tomllib.loads(text):
                raise UserError(f"{out}: holds another {kind}, which {path} tells; give another --out")
            return
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UserError(f"{out}: not empty, and it has no {path.name}; give another --out")
        durable.replace(path, lambda draft: draft.write_text(text, encoding="utf-8"))
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out}: a file is in the way; give another --out") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{out}: {error}; give another --out") from error


def run_all(experiments: Sequence[Experiment], out: Path, workers: int, quiet: bool) -> dict[str, str]:
    """Does what is missing: what is finished is kept, what was stopped goes on exactly.

    Returns:
        What the runs that failed said, by their names.

    Raises:
        UserError: another process does one of them now.
        Interrupted: the user asked to stop.
    """
    jobs = [job for experiment in experiments if (job := _job(experiment, out / experiment.name)) is not None]
    totals = {experiment.name: experiment.plan.settings.steps for experiment in experiments}
    steps = sum(totals[job.name] - _reached(out / job.name) for job in jobs)
    clock = "updates" if experiments and experiments[0].plan.world == "language" else "env_steps"
    return work(jobs, workers, steps, progress(quiet, clock))


def _job(experiment: Experiment, path: Path) -> Job | None:
    """What is left to do of a run; None where it is finished."""
    reached = partial(_reached, path)
    if not (path / "config.toml").exists():
        shutil.rmtree(path, ignore_errors=True)  # what a kill left of its making
        return Job(experiment.name, experiment.words(path), reached)
    status = RunReader(path).status()
    if status["state"] == "finished":
        return None
    if status["state"] == "running":
        raise UserError(f"{path}: in use by process {status.get('pid')}; wait for it or stop it")
    return Job(experiment.name, ("-m", "advantage.cli", "resume", str(path), "--quiet"), reached)


def _reached(path: Path) -> int:
    return int(read_status(path).get("steps") or 0)
