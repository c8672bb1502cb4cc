"""The library from Python: train, resume and load runs. The command line is a thin layer over it."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from advantage import pipeline
from advantage.algorithms import ALGORITHMS, find, module, tuned
from advantage.errors import RunFailed, UserError
from advantage.runs import memory
from advantage.runs.directory import RunDirectory, read_status
from advantage.runs.reader import RunReader
from advantage.settings import plain_value, resolve, to_dict, to_toml

if TYPE_CHECKING:
    import numpy as np


HEAD = {"format", "algorithm", "target", "seed", "command", "versions"}  # what stands above [settings]


@dataclass(frozen=True)
class Plan:
    """What a run will do, resolved and checked before anything is made."""

    algorithm: str
    target: Any
    seed: int
    settings: Any
    tuned: dict[str, Any]

    @property
    def world(self) -> str:
        """That of its algorithm: "control" or "language"."""
        return find(self.algorithm).world

    @property
    def target_name(self) -> str:
        """The target as config.toml names it; an object that Python was given cannot be found again by its name."""
        return self.target if isinstance(self.target, str) else f"python:{_object_name(self.target)}"

    def toml(self) -> str:
        """What `--dry-run` prints."""
        head = {"algorithm": self.algorithm, "target": self.target_name, "seed": self.seed}
        return to_toml({**head, "settings": to_dict(self.settings)})


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
    planned = _plan_of(reader, env)
    status = reader.status()
    completed = status.get("steps") or 0
    asked = None if steps is None else _whole("steps", steps, 1)
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
        planned = _plan_of(self.reader, self._env)
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
            _whole("episodes", episodes, 1)
        _whole("seed", seed, 0)
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


def plan(
    algorithm: str, target: Any, seed: int | None, given: Mapping[str, Any], config: str | Path | None = None
) -> Plan:
    """Everything that can be known before a run: defaults, then tuned, then the file's, then the given settings.

    Raises:
        UserError: an unknown algorithm or setting, a value of the wrong kind or out of range, an unreadable file.
    """
    if not isinstance(algorithm, str):
        raise UserError(f"algorithm is {algorithm!r}; it must be a name: {', '.join(ALGORITHMS)}")
    find(algorithm)
    best = tuned(algorithm, target) if isinstance(target, str) else {}
    filed, filed_seed = ({}, 0) if config is None else _read_settings(config)
    seed = _whole("seed", filed_seed if seed is None else seed, 0)
    chosen = _with({**best, **filed}, given)
    if find(algorithm).world == "control" and not isinstance(target, str):
        from advantage.control.targets import count

        if (own := count(target)) is not None:
            chosen.setdefault("num_envs", own)
    if find(algorithm).world == "language":
        target = _model_name(algorithm, target)
        chosen.update(_named(chosen))
    settings = resolve(module(algorithm).Settings, chosen)
    _check_group(algorithm, settings)
    pipeline.phases(settings, target)
    return Plan(algorithm, target, seed, settings, _as_tuned(best, settings))


def check_target(planned: Plan) -> None:
    """Looks for the environment and at the names of its arguments, or for the model and the task; none is made.

    Raises:
        UserError: an id that does not exist, an argument that it does not have, a missing extra; no such model folder,
            an unknown task.
    """
    if planned.world == "control":
        from advantage.control import targets

        targets.resolve(planned.target, planned.settings.num_envs, planned.settings.env_args, render_mode=None)
    else:
        from advantage.language.agent import check

        check(planned.target, planned.settings)


def recorded_settings(reader: RunReader) -> Any:
    """The settings that a run began with, from its config.toml.

    Raises:
        UserError: an algorithm that does not exist, or values that cannot be.
    """
    try:
        return resolve(module(reader.config["algorithm"]).Settings, reader.config["settings"])
    except UserError as error:
        raise UserError(f"{reader.path}/config.toml: {error}") from error


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
        quiet=quiet,
        resume=resume,
        clock="updates" if planned.world == "language" else "env_steps",
        opening=opening,
    ) as run:
        began_at = run.steps
        try:
            module(planned.algorithm).train(planned.target, settings, run)
        except UserError as error:
            if run.steps == began_at:
                raise
            raise RunFailed(str(error)) from error  # what only a later step could find: the run stays, and can go on
        except (MemoryError, RuntimeError) as error:
            if not memory.is_too_little(error):
                raise
            raise RunFailed(memory.ways_to_less(settings, directory.path)) from error


def _plan_of(reader: RunReader, env: Any) -> Plan:
    """The plan that a run's config.toml records."""
    config = reader.config
    target = config["target"]
    if target.startswith("python:"):
        if env is None:
            raise UserError(f"{reader.path} was given a Python object ({target[7:]}); give it again as env=")
        target = env
    settings = recorded_settings(reader)
    as_tuned = _as_tuned(tuned(config["algorithm"], config["target"]), settings)
    return Plan(config["algorithm"], target, config["seed"], settings, as_tuned)


def _as_tuned(best: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """What of the measured settings a run has."""
    found = to_dict(settings)
    return {name: value for name, value in best.items() if found.get(name) == value}


def _model_name(algorithm: str, target: Any) -> str:
    if not isinstance(target, str | Path):
        raise UserError(
            f"{algorithm} trains a model by its name or folder, not a {_object_name(target)};"
            " save it with save_pretrained and give the folder"
        )
    return str(target)


def _with(chosen: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen settings under the given ones, of which `table.name` stands for a name in a table.

    >>> _with({"sft": {"batch_size": 4}}, {"sft.steps": "30"})
    {'sft': {'batch_size': 4, 'steps': 30}}
    """
    found = dict(chosen)
    for name, value in sorted(given.items(), key=lambda item: "." in item[0]):
        table, dot, own = name.partition(".")
        if dot:
            before = found.get(table, {})
            found[table] = {**before, own: plain_value(value)} if isinstance(before, Mapping) else before
        elif isinstance(value, Mapping):
            found[name] = {key: plain_value(item) for key, item in value.items()}
        else:
            found[name] = value
    return found


def _named(chosen: Mapping[str, Any]) -> dict[str, str]:
    """The settings that name data and rewards, as text: a resumed run has to find them again.

    Raises:
        UserError: an object in the place of a name.
    """
    found = {}
    files = ("data", "sft_data", "pairs")
    for name in (*files, "task", "rewards", "gold"):
        value = chosen.get(name, "")
        if name == "rewards" and isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            value = ",".join(re.sub(r"(?<!\\),", r"\,", one) for one in value)
        if not isinstance(value, str | Path):
            ways = "a file of JSON Lines" if name in files else "a task's name" if name == "task" else "module:function"
            raise UserError(
                f"{name} is a {_object_name(value)}; name it ({ways}), so that a resumed run finds it again"
            )
        if name in chosen:
            found[name] = str(value)
    return found


def _check_group(algorithm: str, settings: Any) -> None:
    """Refuses groups that a minibatch would part, and groups of one where the algorithm's baseline leaves nothing.

    Raises:
        UserError: they are such.
    """
    size, group = getattr(settings, "minibatch_size", None), getattr(settings, "num_generations", 1)
    if size is not None and size < group:
        raise UserError(
            f"minibatch_size is {size}, below num_generations {group}; a prompt's completions stay together:"
            f" give {group} or more, or none for all"
        )
    stages = getattr(module(algorithm), "STAGES", None)
    if stages is None or group > 1:
        return
    import torch

    advantages = stages.advantages(torch.tensor([0.0, 1.0]), torch.arange(2), torch.ones(2, dtype=torch.bool), settings)
    if not advantages.any():
        raise UserError(
            f"num_generations is 1; {algorithm} compares a prompt's completions, and one alone teaches nothing:"
            " give 2 or more"
        )


def _read_settings(path: str | Path) -> tuple[dict[str, Any], Any]:
    """Settings and seed of a TOML file: its top-level names and 0, or its [settings] and the seed that stands above."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such settings file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as TOML: {error}") from error
    if "settings" not in content:
        return content, 0
    table = content.pop("settings")
    if not isinstance(table, dict):
        raise UserError(f"{path}: settings is {table!r}; it must be a table")
    if lost := ", ".join(sorted(content.keys() - HEAD)):
        raise UserError(f"{path}: {lost} stands beside [settings]; a setting belongs into it")
    return table, content.get("seed", 0)


def _whole(name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) < 2**63:
        raise UserError(f"{name} is {value!r}; it must be a whole number from {low}")
    return int(value)


def _object_name(target: Any) -> str:
    if isinstance(target, list | tuple):
        return f"{len(target)} x {_object_name(target[0])}" if target else "nothing"
    kind = target if callable(target) and hasattr(target, "__name__") else type(target)
    return str(kind.__name__)
