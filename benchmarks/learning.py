"""PPO over seeds with the tuned settings: train, evaluate 100 deterministic episodes, print a table beside the peers.

    python benchmarks/learning.py CartPole-v1 LunarLander-v3 "LunarLander-v3 continuous=true" --seeds 5 --workers 2

Runs are kept in --out and skipped when they are there, so that an interrupted benchmark continues.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import advantage
from advantage.views.curves import interquartile_mean, stratified_bootstrap

PEERS = {  # the peers' own record at the same budget: PPO in rl-zoo3's benchmark.md
    "CartPole-v1": "500 at 100k",
    "LunarLander-v3": "242 ± 32 at 1M",
    "LunarLander-v3 continuous=true": "271 ± 32 at 1M",
    "Acrobot-v1": "−73.5 at 1M",
    "Pendulum-v1": "−172 at 100k, with gSDE",
    "MountainCar-v0": "−110 at 1M",
}


def main() -> None:
    """Trains what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environments", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    options = parser.parse_args()
    jobs = [(name, seed) for name in options.environments for seed in range(options.seeds)]
    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(lambda job: train(*job, options.out), jobs))
    print("| environment | seeds | steps | mean return of each seed | IQM, 95 % bootstrap | the zoo's record |")
    print("|---|---|---|---|---|---|")
    for name in options.environments:
        print(row(name, [folder(name, seed, options.out) for seed in range(options.seeds)]))


def train(name: str, seed: int, out: Path) -> None:
    """One run in a process of its own, unless it is there."""
    path = folder(name, seed, out)
    if path.exists():
        if advantage.load(path).reader.status()["state"] == "finished":
            return
        command = ["resume", str(path)]
    else:
        environment, *arguments = name.split()
        command = ["train", "ppo", environment, "--seed", str(seed), "--run-dir", str(path)]
        command += [word for argument in arguments for word in ("--env", argument)]
    subprocess.run([sys.executable, "-m", "advantage.cli", *command, "--quiet"], check=True)


def folder(name: str, seed: int, out: Path) -> Path:
    """Where the run of an environment and a seed is kept."""
    return out / f"{name.replace(' ', '-').replace('=', '-')}-s{seed}"


def row(name: str, paths: list[Path]) -> str:
    """A line of the table: 100 deterministic episodes of each seed's last policy."""
    runs = [advantage.load(path) for path in paths]
    means = np.array([run.evaluate(episodes=100, seed=10_000).mean for run in runs])
    low, high = stratified_bootstrap([means], interquartile_mean, 10_000, 0.95, np.random.default_rng(0))
    steps = int(runs[0].metrics()["env_steps"][-1])
    each = ", ".join(f"{mean:.1f}" for mean in means)
    iqm = float(interquartile_mean(means))
    return f"| {name} | {len(runs)} | {steps:,} | {each} | {iqm:.1f} [{low:.1f}, {high:.1f}] | {PEERS.get(name, '–')} |"


if __name__ == "__main__":
    main()
