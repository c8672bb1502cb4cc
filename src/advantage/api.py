"""The library from Python: train, resume and load runs. The command line is a thin layer over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from advantage import pipeline
from advantage.algorithms import find, for_any_actions, module
from advantage.errors import RunFailed, UnfitActions, UserError
from advantage.planning import Plan, check_target, plan, recorded, whole
from advantage.runs import memory
from advantage.runs.directory import RunDirectory, read_status
from advantage.runs.reader import RunReader
from advantage.settings import to_dict

if TYPE_CHECKING:
    import numpy as np


def train(
    algorithm: str,
    env_or_model: Any,
    *,
    seed: int | None = None,
    run_dir: str | Path | None = None,
    quiet: bool = False,
    config: str | Path | None = None,
    command: str | None = None,
    **settings: Any,
) -> Run:
    """Trains, and leaves a run directory.

    Args:
        algorithm: a name that `advantage algorithms` lists.
        env_or_model: a Gymnasium id, an environment, a constructor, or a list of constructors; or a language model: a
            folder, a name, or "tiny".
        seed: of every random stream, ≥ 0; None for the one that `config` names, else 0.
        run_dir: absent or empty; None for runs/<algorithm>-<target>-s<seed>-<short id>.
        quiet: no progress.
        config: a TOML file of settings, such as `--dry-run` prints; `settings` override it.
        command: what to record as the command, for the command line.
        settings: by name; the rest is tuned for the environment where we have measured one, else the default.

    Raises:
        UserError: a name, value or path that cannot be; nothing is left behind.
        RunFailed: the run began and could not go on; it can be resumed.
    """
    planned = plan(algorithm, env_or_model, seed, settings, config)
    if planned.world == "language":  # a control run makes its environments at once; a model takes seconds to load
        check_target(planned)
        pipeline.check(planned)
    command = command or f"advantage.train({algorithm!r}, {planned.target_name!r}, seed={planned.seed})"
    tables = {"settings": to_dict(planned.settings)}
    with RunDirectory.create(
        run_dir, algorithm=algorithm, target=planned.target_name, seed=planned.seed, command=command, tables=tables
    ) as directory:
        pipeline.run_phases(directory, planned, quiet, train, resume)
        _run(directory, pipeline.after(planned, directory.path), quiet=quiet, resume=False)
    pipeline.conclude(directory.path, planned)
    return Run(directory.path, env=None if isinstance(env_or_model, str) else env_or_model)


def resume(run_dir: str | Path, *, steps: int | None = None, env: Any = None, quiet: bool = False) -> Run:
    """Continues a run from its last whole checkpoint, exactly; `steps` sets a new total, also of a finished run.

    Schedules are read against the new total: a learning rate that had come down to 0 goes up again to where the run now
    stands in its longer budget.

    Args:
        run_dir: of the run.
        steps: the new total, more than the steps that are done; None keeps the one the run has.
        env: the environment, where the run was given a Python object.

    Raises:
        UserError: not a run, in use, no more steps than are done, or an environment that only Python can give.
        RunFailed: the run could not go on.
    """
    reader = RunReader(run_dir)
    planned = recorded(reader, env)
    status = reader.status()
    completed = status.get("steps") or 0
    asked = None if steps is None else whole("steps", steps, 1)
    if asked is not None and asked <= completed:
        raise UserError(f"steps is {asked}; the run has done {completed}, give more")
    total = asked or status.get("total") or planned.settings.steps
    if status["state"] == "finished" and total <= completed:
        pipeline.conclude(reader.path, planned)
        return Run(run_dir, env=env)
    planned = dataclasses.replace(planned, settings=dataclasses.replace(planned.settings, steps=total))
    torn = (reader.path / "status.json").exists() and not read_status(reader.path)
    opening = {"status": "status.json could not be read; the last checkpoint told the steps and the total"}
    with RunDirectory.open(run_dir) as directory:
        pipeline.run_phases(directory, planned, quiet, train, resume)
        begun = pipeline.after(planned, directory.path)
        _run(directory, begun, quiet=quiet, resume=True, opening=opening if torn else {})
    pipeline.conclude(reader.path, planned)
    return Run(run_dir, env=env)


def load(run_dir: str | Path, *, env: Any = None) -> Run:
    """Opens a run to look at it, to act with its policy, or to evaluate it.

    Raises:
        UserError: not a run, or one from a newer format.
    """
    return Run(run_dir, env=env)


class Run:
    """A run on disk, finished or not.

    Attributes:
        path: its directory.
        reader: its configuration, status, metrics, episodes and events.
    """

    def __init__(self, path: str | Path, env: Any = None) -> None:
        self.path = Path(path)
        self.reader = RunReader(path)
        self._env = env

    @property
    def world(self) -> str:
        """That of its algorithm: "control" or "language"."""
        return find(self.reader.config["algorithm"]).world

    @cached_property
    def policy(self) -> Any:
        """The latest policy, ready to use.

        In control an `Agent` with its normaliser: `.act(observation)`, `.value(observation)`. In language a
        `LanguageAgent`: `.generate(prompt)`.
        """
        return self.agent()

    def agent(self, which: int | str = "last") -> Any:
        """The policy "last", "best" by held-out evaluation, or of the checkpoint of a step; see `policy`."""
        planned = recorded(self.reader, self._env)
        if planned.world == "language":
            from advantage.language.agent import LanguageAgent

            begun = pipeline.after(planned, self.path)
            return LanguageAgent.of_run(self.reader, begun.target, planned.settings, which)
        from advantage.control.agent import Agent

        states, _ = self.reader.policy(which)  # type: ignore[arg-type]
        return Agent.of(planned.target, planned.settings, states)

    def evaluate(self, episodes: int | None = None, seed: int = 1, which: int | str = "last", **asked: Any) -> Any:
        """What the policy is worth on what it was not trained on: `.returns`, `.mean`, `.std`.

        In control a `Score` of deterministic whole episodes in fresh environments; in language an `Accuracy` of greedy
        answers to held-out prompts, whose mean is the share that is right, with its `.interval`.

        Args:
            episodes: how many, ≥ 1; None for 100. In language prompts, None for the run's `eval_episodes`.
            seed: of the environments, or of the samples, ≥ 0.
            which: as for `agent`.
            asked: in language `task`, whose prompts are asked (the run's own), and `samples` a prompt, for `.pass_at`.
        """
        if episodes is not None:
            whole("episodes", episodes, 1)
        whole("seed", seed, 0)
        if self.world == "language":
            return self.agent(which).evaluate(episodes, seed, **asked)
        if asked:
            raise UserError(f"{next(iter(asked))} is for language models; {self.path} is a run in an environment")
        return self.agent(which).evaluate(100 if episodes is None else episodes, seed)

    def chain(self) -> dict[str, Run]:
        """The runs that came before this one in its directory, by name, and this one, which is last."""
        before = {name: self.path / name for name in pipeline.DATA if (self.path / name / "config.toml").exists()}
        return {name: Run(path) for name, path in before.items()} | {self.reader.config["algorithm"]: self}

    def evaluation(self) -> dict[str, Any]:
        """What the end of a chain found: `accuracy`, of each model its mean and 95 % interval; empty for a lone run."""
        return pipeline.evaluation(self.path)

    def metrics(self) -> dict[str, np.ndarray]:
        """One array a metric, one entry an update; NaN where an update has none."""
        return self.reader.metrics()

    def __repr__(self) -> str:
        """What it is and where."""
        config = self.reader.config
        return f"Run({str(self.path)!r}: {config['algorithm']} on {config['target']}, {self.reader.status()['state']})"


def _run(
    directory: RunDirectory,
    planned: Plan,
    *,
    quiet: bool,
    resume: bool,
    opening: Mapping[str, str] = MappingProxyType({}),
) -> None:
    from advantage.runs.live import LiveRun

    settings = planned.settings
    names = ", ".join(planned.tuned)
    if names:
        opening = {**opening, "settings": f"tuned for {directory.config['target']} in algorithms/tuned.toml: {names}"}
    with LiveRun(
        directory,
        checkpoint_every=settings.checkpoint_every,
        keep_checkpoints=settings.keep_checkpoints,
        eval_every=settings.eval_every or None,
        record_every=getattr(settings, "record_every", 1),
        quiet=quiet,
        resume=resume,
        clock="updates" if planned.world == "language" else "env_steps",
        opening=opening,
    ) as run:
        began_at = run.steps
        try:
            module(planned.algorithm).train(planned.target, settings, run)
        except UnfitActions as error:
            others = " or ".join(for_any_actions())
            raise UserError(f"{planned.algorithm} {error}; {others} can be trained on them") from error
        except UserError as error:
            if run.steps == began_at:
                raise
            raise RunFailed(str(error)) from error  # what only a later step could find: the run stays, and can go on
        except (MemoryError, RuntimeError) as error:
            if not memory.is_too_little(error):
                raise
            raise RunFailed(memory.ways_to_less(settings, directory.path)) from error
