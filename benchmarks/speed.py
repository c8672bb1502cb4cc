"""Steps per second and peak memory beside Stable-Baselines3, the same settings, one core, in one run.

    python -m benchmarks.speed --pairs 3

Ours and theirs take turns, each in a process of its own pinned to one core; quoted are the medians, and the median of
the pairs' ratios. Ours is timed with all that a run does (metrics, checkpoints, tripwires), theirs without logging. The
environments render nothing. Both are timed over whole rollouts behind the first, which pays for imports and warming up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

STEPS = {
    "ppo CartPole-v1": 50_000, "ppo LunarLander-v3": 81_920, "a2c CartPole-v1": 50_000, "trpo CartPole-v1": 50_000,
    "dqn CartPole-v1": 12_000,
}  # fmt: skip
OURS: dict[str, dict[str, Any]] = {  # the zoo's settings where the tuned ones are others
    "ppo CartPole-v1": {"num_steps": 32, "minibatch_size": 256, "epochs": 20},
    "ppo LunarLander-v3": {},
    "a2c CartPole-v1": {
        "num_envs": 8, "num_steps": 5, "gae_lambda": 1.0, "gamma": 0.99, "learning_rate": 7e-4, "vf_coef": 1.0,
        "optimizer": "rmsprop", "normalize_advantages": False,
    },
    "trpo CartPole-v1": {"num_envs": 2, "num_steps": 512, "gamma": 0.99, "gae_lambda": 0.98},
    "dqn CartPole-v1": {"learning_rate": 2.3e-3},
}  # fmt: skip
WARM = {"dqn": 1_536}  # steps behind which it is timed: DQN's first ones learn nothing


def ours(case: str, steps: int) -> float:
    """Steps per second of `advantage.train` with the zoo's settings."""
    import advantage

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/run"
        run = advantage.train(*case.split(), steps=steps, run_dir=path, quiet=True, **OURS[case])
        steps_done, seconds = run.metrics()["env_steps"], run.metrics()["wall_time"]
        first = int((steps_done < WARM.get(case.split(maxsplit=1)[0], 0)).sum())
        return float((steps_done[-1] - steps_done[first]) / (seconds[-1] - seconds[first]))


def theirs(case: str, steps: int) -> float:
    """Steps per second of Stable-Baselines3 with the zoo's settings."""
    import torch
    from sb3_contrib import TRPO
    from stable_baselines3 import A2C, DQN, PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)

    def linear(start: float) -> Callable[[float], float]:
        return lambda remaining: remaining * start

    zoo: dict[str, dict[str, Any]] = {
        "ppo CartPole-v1": {
            "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8,
            "learning_rate": linear(1e-3), "clip_range": linear(0.2),
        },
        "ppo LunarLander-v3": {
            "n_steps": 1024, "batch_size": 64, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01,
        },
        "a2c CartPole-v1": {},
        "trpo CartPole-v1": {
            "n_steps": 512, "batch_size": 512, "cg_damping": 1e-3, "gae_lambda": 0.98, "n_critic_updates": 20,
        },
        "dqn CartPole-v1": {
            "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000, "gamma": 0.99,
            "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]},
        },
    }  # fmt: skip
    algorithm, environment = case.split()
    count = {"trpo": 2, "dqn": 1}.get(algorithm) or {"CartPole-v1": 8, "LunarLander-v3": 16}[environment]
    envs = make_vec_env(environment, count, seed=0, env_kwargs={"render_mode": None})
    model = {"ppo": PPO, "a2c": A2C, "trpo": TRPO, "dqn": DQN}[algorithm](
        "MlpPolicy", envs, seed=0, device="cpu", **zoo[case]
    )
    model.learn(WARM.get(algorithm, 1))  # one rollout where there is no more to it
    before, started = model.num_timesteps, time.perf_counter()
    model.learn(steps - before, reset_num_timesteps=False)
    return (model.num_timesteps - before) / (time.perf_counter() - started)


def measure(who: str, case: str, core: int) -> dict[str, float]:
    """One library in a process of its own, pinned to a core."""
    command = [sys.executable, "-m", "benchmarks.speed", "--child", who, case, str(core)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def child(who: str, case: str, core: int) -> None:
    """What the pinned process does."""
    os.sched_setaffinity(0, {core})
    speed = {"ours": ours, "theirs": theirs}[who](case, STEPS[case])
    print(json.dumps({"speed": speed, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    """Measures in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=tuple(STEPS), default=list(STEPS))
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--child", nargs=3, metavar=("WHO", "CASE", "CORE"))
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1], int(options.child[2]))
        return
    print(
        f"Python {platform.python_version()}, torch {version('torch')},"
        f" stable-baselines3 {version('stable-baselines3')}"
    )
    print(
        "\n| algorithm, environment | steps/s | SB3 | ratio (each pair) | peak memory, MiB | SB3 |"
        "\n|---|---|---|---|---|---|"
    )
    for case in options.cases:
        pairs = [[measure(who, case, options.core) for who in ("ours", "theirs")] for _ in range(options.pairs)]
        print(row(case, pairs), flush=True)


def row(case: str, pairs: list[list[dict[str, float]]]) -> str:
    """A line of the table."""
    ratios = [a["speed"] / b["speed"] for a, b in pairs]
    a, b = ([statistics.median(pair[side][key] for pair in pairs) for key in ("speed", "memory")] for side in (0, 1))
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    ratio = f"{statistics.median(ratios):.2f} ({each})"
    return f"| {case} | {a[0]:,.0f} | {b[0]:,.0f} | {ratio} | {a[1]:.0f} | {b[1]:.0f} |"


if __name__ == "__main__":
    main()
