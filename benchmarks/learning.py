"""Every algorithm of control over seeds: train, evaluate 100 deterministic episodes, print a table.

    python -m benchmarks.learning --seeds 5 --workers 2
    python -m benchmarks.learning "a2c CartPole-v1" "ppo LunarLander-v3 continuous=true" --seeds 5

Settings are the tuned ones where there are any. Runs are kept in --out and skipped when they are there, so that
an interrupted benchmark continues.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import advantage
from advantage.errors import UserError
from advantage.views.curves import interquartile_mean, stratified_bootstrap

LANDER = ("LunarLander-v3", "LunarLander-v3 continuous=true")
FIRST_RUNGS = ("reinforce", "actor_critic_mc", "actor_critic_td")
RECORDS = {  # benchmark.md of rl-baselines3-zoo: mean and deviation of the episodes of one run, of LunarLander v2
    "ppo CartPole-v1": "500 at 100k",
    "ppo LunarLander-v3": "242 ± 32 at 1M",
    "ppo LunarLander-v3 continuous=true": "271 ± 32 at 1M",
    "ppo Acrobot-v1": "−73.5 ± 18 at 1M",
    "ppo Pendulum-v1": "−172 ± 104 at 100k, with gSDE",
    "ppo MountainCar-v0": "−110 ± 19 at 1M",
    "a2c CartPole-v1": "500 at 500k",
    "a2c LunarLander-v3": "156 ± 80 at 200k",
    "a2c LunarLander-v3 continuous=true": "84 ± 146 at 5M",
    "a2c Acrobot-v1": "−83.4 ± 17 at 500k",
    "a2c MountainCar-v0": "−111 ± 24 at 1M",
    "trpo CartPole-v1": "500 at 100k",
    "trpo LunarLander-v3": "133 ± 112 at 200k",
    "trpo LunarLander-v3 continuous=true": "262 ± 21 at 200k",
    "trpo Acrobot-v1": "−83.1 ± 19 at 100k",
    "trpo MountainCar-v0": "−107 ± 13 at 100k",
    "dqn CartPole-v1": "500 at 50k",
    "dqn Acrobot-v1": "−76.6 ± 12 at 100k",
    "dqn MountainCar-v0": "−101 ± 10 at 120k",
}
CASES = [
    *(f"{name} CartPole-v1" for name in (*FIRST_RUNGS, "a2c", "ppo_penalty", "ppo", "trpo", "off_policy_pg", "dqn")),
    *(f"{name} {env}" for env in ("Acrobot-v1", "MountainCar-v0") for name in ("a2c", "ppo", "trpo", "dqn")),
    *(f"{name} {env}" for env in LANDER for name in (*FIRST_RUNGS, "a2c", "ppo", "trpo")),
    "ppo Pendulum-v1",
]


def main() -> None:
    """Trains what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE", help="algorithm, environment, arguments")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--table-only", action="store_true", help="train nothing; leave out what has not finished")
    options = parser.parse_args()
    if not options.table_only:
        jobs = [(case, seed) for case in options.cases for seed in range(options.seeds)]
        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda job: train(*job, options.out), jobs))
    print(
        "| algorithm, environment | seeds | steps | mean return of each seed | IQM, 95 % bootstrap | the zoo's record |"
    )
    print("|---|---|---|---|---|---|")
    for case in options.cases:
        paths = [folder(case, seed, options.out) for seed in range(options.seeds)]
        if all(map(finished, paths)):
            print(row(case, paths), flush=True)


def train(case: str, seed: int, out: Path) -> None:
    """One run in a process of its own with one thread, unless it is there."""
    path = folder(case, seed, out)
    if finished(path):
        return
    algorithm, environment, *arguments = case.split()
    command = ["train", algorithm, environment, "--seed", str(seed), "--run-dir", str(path)]
    command += [word for argument in arguments for word in ("--env", argument)]
    if path.exists():
        command = ["resume", str(path)]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "advantage.cli", *command, "--quiet"], check=True, env=environ)


def finished(path: Path) -> bool:
    """Whether there is a run that came to its end."""
    try:
        return bool(advantage.load(path).reader.status()["state"] == "finished")
    except UserError:
        return False


def folder(case: str, seed: int, out: Path) -> Path:
    """Where the run of a case and a seed is kept."""
    return out / f"{case.replace(' ', '-').replace('=', '-')}-s{seed}"


def row(case: str, paths: list[Path]) -> str:
    """A line of the table: 100 deterministic episodes of each seed's last policy."""
    runs = [advantage.load(path) for path in paths]
    means = np.array([run.evaluate(episodes=100, seed=10_000).mean for run in runs])
    low, high = stratified_bootstrap([means], interquartile_mean, 10_000, 0.95, np.random.default_rng(0))
    steps = int(runs[0].metrics()["env_steps"][-1])
    each = ", ".join(f"{mean:.1f}" for mean in means)
    iqm = float(interquartile_mean(means))
    band = f"{iqm:.1f} [{low:.1f}, {high:.1f}]"
    return f"| {case} | {len(runs)} | {steps:,} | {each} | {band} | {RECORDS.get(case, '–')} |"


if __name__ == "__main__":
    main()
