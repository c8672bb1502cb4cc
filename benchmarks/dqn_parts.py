"""What DQN's two parts do: CartPole without a replay, without a target network, without both, and with both.

    python -m benchmarks.dqn_parts --picture docs/dqn_replay_target.png       # some minutes of one core

Everything else is equal: settings, seeds, minibatches, number of optimiser steps. Without a replay the buffer holds as
many steps as a minibatch has, the newest ones: neighbours of one another. Without a target network the copy is renewed
before every optimiser step, and the target is the network's own. Runs are kept in --out; what is there is not done
again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import advantage
from advantage.views.curves import Curve, band, interquartile_mean, stratified_bootstrap
from advantage.views.picture import Panel, write_png

MINIBATCH = 32
SHARED: dict[str, Any] = {  # a step a step: an optimiser step for every 4 of the environment, in all arms
    "steps": 30_000,
    "vectorization": "sync",
    "learning_rate": 1e-3,
    "network": "64,64",
    "minibatch_size": MINIBATCH,
    "learning_starts": 500,
    "train_every": 4,
    "gradient_steps": 1,
    "buffer_size": 30_000,
    "target_update_every": 500,
    "epsilon_fraction": 0.3,
    "epsilon_end": 0.05,
    "log_every": 500,
    "eval_every": 1_000,
    "eval_episodes": 10,
    "checkpoint_every": 60,
}
NEWEST = {"buffer_size": MINIBATCH}
OWN = {"target_update_every": 4}
ARMS: dict[str, dict[str, Any]] = {
    "replay and target network": {},
    "no target network": OWN,
    "no replay": NEWEST,
    "neither": NEWEST | OWN,
}


def main() -> None:
    """Trains what is missing, prints the table, draws the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/dqn_parts"))
    parser.add_argument("--picture", type=Path, help="a .png")
    options = parser.parse_args()
    paths = {arm: [run(arm, seed, options.out) for seed in range(options.seeds)] for arm in ARMS}
    print("| | seeds | held-out return, mean over the run | IQM at the end, 95 % bootstrap | largest max_a Q |")
    print("|---|---|---|---|---|")
    for arm, of_arm in paths.items():
        print(row(arm, of_arm))
    if options.picture:
        draw(paths, options.picture)


def run(arm: str, seed: int, out: Path) -> Path:
    """One run in a process of its own, unless it is there."""
    path = out / f"{arm.replace(' ', '-')}-s{seed}"
    if path.exists():
        if advantage.load(path).reader.status()["state"] == "finished":
            return path
        command = ["resume", str(path)]
    else:
        command = ["train", "dqn", "CartPole-v1", "--seed", str(seed), "--run-dir", str(path)]
        command += [word for name, value in (SHARED | ARMS[arm]).items() for word in ("--set", f"{name}={value}")]
    subprocess.run([sys.executable, "-m", "advantage.cli", *command, "--quiet"], check=True)
    return path


def curve(path: Path) -> Curve:
    """The held-out returns of a run."""
    table = advantage.load(path).metrics()
    there = np.isfinite(table["eval/mean_reward"])
    return Curve(table["env_steps"][there], table["eval/mean_reward"][there])


def row(arm: str, paths: Sequence[Path]) -> str:
    """A line of the table."""
    curves = [curve(path) for path in paths]
    last = np.array([each.values[-1] for each in curves])
    low, high = stratified_bootstrap([last], interquartile_mean, 10_000, 0.95, np.random.default_rng(0))
    mean = np.mean([each.values.mean() for each in curves])
    size = max(float(np.nanmax(advantage.load(path).metrics()["train/value_size"])) for path in paths)
    iqm = float(interquartile_mean(last))
    return f"| {arm} | {len(paths)} | {mean:.0f} | {iqm:.0f} [{low:.0f}, {high:.0f}] | {size:.3g} |"


def draw(paths: dict[str, list[Path]], out: Path) -> None:
    """A curve an arm over its seeds."""
    bands = {
        arm: band([curve(path) for path in of_arm], interquartile_mean, 2000, 0.95, np.random.default_rng(0))
        for arm, of_arm in paths.items()
    }
    seeds = len(next(iter(paths.values())))
    panel = Panel("DQN on CartPole-v1", "held-out return, greedy", "environment steps", bands)
    write_png([panel], f"interquartile mean of {seeds} seeds, 95 % bootstrap", out)


if __name__ == "__main__":
    main()
