"""`advantage sweep FILE.toml`: a grid or a list of settings × seeds, one run each, side by side in the end.

algorithm = "ppo"
target = "CartPole-v1"

[settings]                       # of every run
steps = 50_000

[grid]                           # every combination; or [[runs]], a table of settings a run
learning_rate = [3e-4, 1e-3]
gae_lambda = [0.8, 0.95]
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from advantage.algorithms import find
from advantage.errors import UserError, nearest
from advantage.experiments.plans import Experiment, check_targets, claim, planned, run_all
from advantage.runs.reader import RunReader
from advantage.settings import to_dict, written
from advantage.views.columns import read_columns
from advantage.views.compare import UNSEEN, Comparison, compare

KNOWN = ("algorithm", "target", "seeds", "settings", "grid", "runs")
HEAD = ("algorithm", "target")  # what a grid or a run may also vary
SEEDS = 3
DRAWN = 8  # curves in the picture; all are in the table


@dataclass(frozen=True)
class Choice:
    """One way to train: an algorithm, a target, and the settings that are not left to their defaults.

    Attributes:
        name: of its runs' folders, without the seed.
    """

    name: str
    algorithm: str
    target: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """What a file asks for."""

    choices: tuple[Choice, ...]
    seeds: int


@dataclass(frozen=True)
class Outcome:
    """What came of a sweep.

    Attributes:
        out: its folder.
        comparison: of its runs, the best settings first; None where no run has begun.
        failed: what the runs that failed said, by their names.
    """

    out: Path
    comparison: Comparison | None
    failed: dict[str, str]


def read(path: str | Path, seeds: int | None = None) -> Sweep:
    """The sweep that a file describes.

    Args:
        path: the file.
        seeds: 0 … seeds − 1 of each; None for the file's own number, else 3.

    Raises:
        UserError: no such file, no TOML, an unknown name, an empty grid, a value in the place of a list, the same
            settings twice.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such sweep file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as TOML: {error}") from error
    try:
        _check_names(content)
        asked = content.get("seeds", SEEDS) if seeds is None else seeds
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            raise UserError(f"seeds is {asked!r}; it must be a whole number from 1")
        fixed = {name: content[name] for name in HEAD if name in content} | content.get("settings", {})
        choices = [_choice(i, fixed, varied) for i, varied in enumerate(_varied(content), start=1)]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Sweep(tuple(choices), asked)


def run(path: str | Path, seeds: int | None, workers: int, out: str | Path | None, quiet: bool = False) -> Outcome:
    """Trains what is missing of a sweep, then compares its runs.

    Args:
        path, seeds: as for `read`.
        workers: processes at once, ≥ 1.
        out: the folder; None for runs/sweep-<name of the file>.
        quiet: no progress.

    Raises:
        UserError: whatever can be known to be wrong before the first run.
        Interrupted: the user asked to stop; the same call goes on.
    """
    asked = read(path, seeds)
    experiments = plan(path, asked)
    folder = Path("runs") / f"sweep-{Path(path).stem}" if out is None else Path(out)
    claim(folder, "sweep", {"runs": [experiment.told() for experiment in experiments if experiment.plan.seed == 0]})
    failed = run_all(experiments, folder, workers, quiet)
    begun = [folder / each.name for each in experiments if (folder / each.name / "config.toml").exists()]
    return Outcome(folder, _compared(begun, folder) if begun else None, failed)


def plan(path: str | Path, asked: Sweep) -> list[Experiment]:
    """Its runs, seed by seed, so that every choice has its first run early.

    Raises:
        UserError: an unknown algorithm, setting or environment, a value that cannot be, two choices that are one.
    """
    try:
        experiments = [
            planned(f"{choice.name}-s{seed}", choice.algorithm, choice.target, seed, choice.settings)
            for seed in range(asked.seeds)
            for choice in asked.choices
        ]
        _check_different(experiments[: len(asked.choices)])
        check_targets(experiments)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return experiments


def _check_names(content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if name not in KNOWN:
            hint = "env is called target here" if name == "env" else nearest(name, KNOWN)
            raise UserError(f"{name} is no part of a sweep file (a setting stands in [settings]); {hint}")
        if name in ("settings", "grid") and not isinstance(value, dict):
            raise UserError(f"{name} is {value!r}; it must be a table: [{name}]")
    if "grid" in content and "runs" in content:
        raise UserError("[grid] and [[runs]] are two ways to say what varies; give one of them")


def _varied(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What each choice has beside the fixed settings."""
    if "runs" in content:
        runs = content["runs"]
        if not isinstance(runs, list) or not all(isinstance(one, dict) for one in runs):
            raise UserError(f"runs is {runs!r}; write [[runs]] above the settings of each")
        if not runs:
            raise UserError("runs is empty; there is nothing to sweep over")
        yield from runs
        return
    grid = content.get("grid", {})
    for name, values in grid.items():
        if not isinstance(values, list):
            raise UserError(f"grid.{name} is {values!r}; it must be a list (what is fixed stands in [settings])")
        if not values:
            raise UserError(f"grid.{name} is empty; give at least one value")
    if not grid:
        raise UserError("nothing varies: give [grid] with a list a setting, or [[runs]] with a table a run")
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _choice(number: int, fixed: Mapping[str, Any], varied: Mapping[str, Any]) -> Choice:
    together = {**fixed, **varied}
    for name in HEAD:
        if not isinstance(together.get(name), str):
            raise UserError(f"{name} is {together.get(name)!r}; name what is trained: {name} = …")
    find(together["algorithm"])
    if "seed" in together:
        raise UserError("seed is no setting; seeds = N, or --seeds N, runs 0 … N − 1 of each")
    words = "_".join(re.sub(r"[^\w.]+", "-", f"{name}-{written(value)}").strip("-") for name, value in varied.items())
    settings = {name: value for name, value in together.items() if name not in HEAD}
    return Choice(f"{number:02d}-{words[:60]}".rstrip("-_."), together["algorithm"], together["target"], settings)


def _check_different(experiments: Sequence[Experiment]) -> None:
    seen: dict[str, str] = {}
    for experiment in experiments:
        settings = {name: value for name, value in to_dict(experiment.plan.settings).items() if name not in UNSEEN}
        about = repr((experiment.plan.algorithm, experiment.plan.target, sorted(settings.items())))
        name = experiment.name.removesuffix("-s0")
        if about in seen:
            raise UserError(f"{seen[about]} and {name} are the same settings; leave one out")
        seen[about] = name


def _compared(paths: Sequence[Path], out: Path) -> Comparison:
    """All runs side by side, best settings first; the best of them drawn."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.name.rpartition("-s")[0], []).append(path)
    ranked = sorted(groups.values(), key=_rank)
    suffix = ".png" if importlib.util.find_spec("matplotlib") else ".html"
    several = len({RunReader(path).config["target"] for path in paths}) > 1
    drawn = ranked if several else ranked[:DRAWN]
    picture = compare([path for group in drawn for path in group], out / f"sweep{suffix}").picture
    found = compare([path for group in ranked for path in group])
    notes = (*found.notes, f"the picture has the best {DRAWN} of {len(ranked)}") if drawn != ranked else found.notes
    return replace(found, picture=picture, notes=notes)


def _rank(paths: Sequence[Path]) -> tuple[str, float]:
    """By target, then the best mean score first; last what has none."""
    columns = [read_columns(RunReader(path)) for path in paths]
    scores = [last for each in columns if (last := each.last(each.score.name)) is not None]
    sign = 1.0 if columns[0].score.lower else -1.0
    return RunReader(paths[0]).config["target"], sign * float(np.mean(scores)) if scores else np.inf
