"""What a run will do, known in full before it begins: defaults, measured settings, a file, the user, in this order."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advantage import pipeline
from advantage.algorithms import ALGORITHMS, find, module, tuned
from advantage.errors import UserError
from advantage.settings import plain_value, resolve, to_dict, to_toml

if TYPE_CHECKING:
    from advantage.runs.reader import RunReader

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
    seed = whole("seed", filed_seed if seed is None else seed, 0)
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


def recorded(reader: RunReader, env: Any) -> Plan:
    """The plan that a run's config.toml records.

    Raises:
        UserError: it had a Python object for its target, which is not given again; settings that cannot be.
    """
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


def whole(name: str, value: Any, low: int) -> int:
    """A whole number from `low`.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) < 2**63:
        most = f" to {2**63 - 1:,}" if isinstance(value, Integral) and int(value) > 0 else ""
        raise UserError(f"{name} is {value!r}; it must be a whole number from {low}{most}")
    return int(value)


def _object_name(target: Any) -> str:
    if isinstance(target, list | tuple):
        return f"{len(target)} x {_object_name(target[0])}" if target else "nothing"
    kind = target if callable(target) and hasattr(target, "__name__") else type(target)
    return str(kind.__name__)
