"""Returns beside Stable-Baselines3 and sb3-contrib: the same settings, steps, seeds and episodes, in one run.

    python -m benchmarks.returns ppo a2c trpo dqn --seeds 5 --workers 2

Ours and theirs train with the settings of tuned.toml, each run in a process of its own with one thread. The last policy
of each plays 100 episodes without noise, whose seeds are the same for all. What is finished is kept in --out and
skipped, and ours goes on where it was stopped; a folder's name says the steps and has a digest of the settings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import advantage
from advantage.algorithms import find
from advantage.errors import UserError, nearest
from advantage.experiments.processes import Job, work
from advantage.planning import plan
from advantage.runs import durable
from advantage.runs.progress import progress
from advantage.settings import to_dict, to_toml
from advantage.views.curves import Array, interquartile_mean, stratified_bootstrap
from advantage.views.statistics import improvement
from benchmarks.peers import check, make

CASES = ("ppo CartPole-v1", "a2c CartPole-v1", "trpo CartPole-v1", "dqn CartPole-v1")
SIDES = ("ours", "theirs")
EPISODES, FIRST_SEED = 100, 10_000
RESAMPLES, CONFIDENCE = 10_000, 0.95


@dataclass(frozen=True)
class Case:
    """An algorithm on an environment with the settings of both sides."""

    algorithm: str
    environment: str
    settings: Any

    @property
    def folder(self) -> str:
        """Other settings have another one."""
        digest = hashlib.sha256(to_toml(to_dict(self.settings)).encode()).hexdigest()[:8]
        return f"{self.algorithm}-{self.environment}-{self.settings.steps}-{digest}"


def main() -> int:
    """Trains what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", help=f"of {', '.join(algorithms())}; none for all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="budget of every run (that of tuned.toml)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("runs/returns"))
    parser.add_argument("--dry-run", action="store_true", help="print the settings and start nothing")
    parser.add_argument("--child", nargs=3, metavar=("SIDE", "CASE", "SEED"))
    options = parser.parse_args()
    try:
        if options.child:
            side, name, seed = options.child
            run(side, planned(name, options.steps), int(seed), options.out)
            return 0
        cases = chosen(options.algorithms, options.steps)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if options.dry_run:
        print("\n".join(to_toml({f"{case.algorithm} {case.environment}": to_dict(case.settings)}) for case in cases))
        return 0
    return beside(cases, options)


def algorithms() -> list[str]:
    """Those of which there are cases."""
    return list(dict.fromkeys(name.split()[0] for name in CASES))


def chosen(names: Sequence[str], steps: int | None) -> list[Case]:
    """The cases of these algorithms, or all.

    Raises:
        UserError: an algorithm without one, or settings that cannot be.
    """
    for name in names:
        if name not in algorithms():
            raise UserError(f"there are no returns of {name!r}; {nearest(name, algorithms())}")
    return [planned(name, steps) for name in CASES if not names or name.split()[0] in names]


def planned(name: str, steps: int | None) -> Case:
    """A case with all of its settings.

    Raises:
        UserError: settings that cannot be, or that the peer cannot have.
    """
    algorithm, environment = name.split()
    find(algorithm)
    settings = plan(algorithm, environment, 0, {} if steps is None else {"steps": steps}).settings
    check(algorithm, settings)
    return Case(algorithm, environment, settings)


def beside(cases: Sequence[Case], options: argparse.Namespace) -> int:
    """Trains what is missing; prints the rows of what is whole, and what failed."""
    seeds = range(options.seeds)
    jobs = [
        Job(f"{case.algorithm} {case.environment}, {side}, seed {seed}", words(side, case, seed, options))
        for case in cases
        for seed in seeds
        for side in SIDES
        if not result(options.out, side, case, seed).exists()
    ]
    try:
        failed = work(jobs, options.workers, 0, progress(quiet=False))
    except KeyboardInterrupt as stopped:
        print(stopped, file=sys.stderr)
        return 130
    print(
        f"| algorithm, environment | steps | seeds | mean return of each seed | SB3 | IQM, {CONFIDENCE:.0%} bootstrap"
        f" | SB3 | P(ours above theirs), {CONFIDENCE:.0%} |\n|---|---|---|---|---|---|---|---|"
    )
    for case in cases:
        paths = {side: [result(options.out, side, case, seed) for seed in seeds] for side in SIDES}
        if all(path.exists() for paths_of_one in paths.values() for path in paths_of_one):
            print(row(case, *(list(map(read, paths[side])) for side in SIDES)))
    for name, error in failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 1 if failed else 0


def words(side: str, case: Case, seed: int, options: argparse.Namespace) -> tuple[str, ...]:
    """The command line of a run."""
    about = (side, f"{case.algorithm} {case.environment}", str(seed))
    steps, out = str(case.settings.steps), str(options.out)
    return ("-m", "benchmarks.returns", "--steps", steps, "--out", out, "--child", *about)


def result(out: Path, side: str, case: Case, seed: int) -> Path:
    """The file with what a finished run earned."""
    return out / case.folder / f"{side}-s{seed}.json"


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def run(side: str, case: Case, seed: int, out: Path) -> None:
    """One run of one library, evaluated and kept."""
    path = result(out, side, case, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    steps, act = ours(case, seed, path.with_suffix("")) if side == "ours" else theirs(case, seed)
    returns = play(act, case.environment, case.settings.env_args)
    text = json.dumps({"steps": steps, "returns": returns.tolist()}, allow_nan=False)
    durable.replace(path, lambda draft: draft.write_text(text))


def ours(case: Case, seed: int, path: Path) -> tuple[int, Callable[[Any], Any]]:
    """Trains ours in a run directory, or goes on there: the steps, and the policy as a function."""
    if (path / "config.toml").exists():
        trained = advantage.resume(path, quiet=True)
    else:
        shutil.rmtree(path, ignore_errors=True)  # what a kill left of its making
        given = vars(case.settings)
        trained = advantage.train(case.algorithm, case.environment, seed=seed, run_dir=path, quiet=True, **given)
    return int(trained.metrics()["env_steps"][-1]), trained.policy.act


def theirs(case: Case, seed: int) -> tuple[int, Callable[[Any], Any]]:
    """Trains theirs: the steps, and the policy as a function."""
    model = make(case.algorithm, case.environment, case.settings, seed)
    model.learn(case.settings.steps)
    moments = model.get_vec_normalize_env()
    seen = moments.normalize_obs if moments is not None else np.asarray
    return model.num_timesteps, lambda observations: model.predict(seen(observations), deterministic=True)[0]


def play(act: Callable[[Any], Any], environment: str, arguments: dict[str, Any]) -> Array:
    """Returns of `EPISODES` episodes side by side, (episodes,); each begins from a seed of its own."""
    envs = [gym.make(environment, **arguments) for _ in range(EPISODES)]
    observations = np.stack([env.reset(seed=FIRST_SEED + index)[0] for index, env in enumerate(envs)])
    returns, going = np.zeros(EPISODES), list(range(EPISODES))
    while going:
        actions, left = act(observations[going]), []
        for index, action in zip(going, actions, strict=True):
            observations[index], reward, terminated, truncated, _ = envs[index].step(action)
            returns[index] += reward
            if not (terminated or truncated):
                left.append(index)
        going = left
    for env in envs:
        env.close()
    return returns


def row(case: Case, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """A line of the table."""
    means = [np.array([np.mean(one["returns"]) for one in side]) for side in (ours, theirs)]
    each = [", ".join(f"{mean:.1f}" for mean in side) for side in means]
    chance = improvement(means[:1], means[1:], RESAMPLES, CONFIDENCE, np.random.default_rng(0))
    certain = (
        f"{chance.value:.2f}" if chance.low is None else f"{chance.value:.2f} [{chance.low:.2f}, {chance.high:.2f}]"
    )
    about = [f"{case.algorithm} {case.environment}", f"{case.settings.steps:,}", str(len(ours))]
    return f"| {' | '.join([*about, *each, *map(middle, means), certain])} |"


def middle(means: Array) -> str:
    """The interquartile mean over the seeds with its interval; one seed has none."""
    iqm = float(interquartile_mean(means))
    if len(means) == 1:
        return f"{iqm:.1f}"
    low, high = stratified_bootstrap([means], interquartile_mean, RESAMPLES, CONFIDENCE, np.random.default_rng(0))
    return f"{iqm:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
