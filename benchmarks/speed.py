"""Steps per second and peak memory of PPO and DQN beside Stable-Baselines3, the same settings, one core, in one run.

    python -m benchmarks.speed --pairs 3 [--only dqn]

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

STEPS = {"CartPole-v1": 50_000, "LunarLander-v3": 81_920, "dqn CartPole-v1": 12_000}
OURS: dict[str, dict[str, Any]] = {  # the zoo's settings where the tuned ones are others
    "CartPole-v1": {"num_steps": 32, "minibatch_size": 256, "epochs": 20},
    "LunarLander-v3": {},
    "dqn CartPole-v1": {"learning_rate": 2.3e-3},
}
WARM = 1_536  # steps of DQN behind which it is timed: both have begun to learn


def ours(environment: str, steps: int) -> float:
    """Steps per second of `advantage.train` with the zoo's settings."""
    import advantage

    algorithm, _, environment = environment.rpartition(" ")
    given = OURS[f"{algorithm} {environment}".strip()]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/run"
        run = advantage.train(algorithm or "ppo", environment, steps=steps, run_dir=path, quiet=True, **given)
        steps_done, seconds = run.metrics()["env_steps"], run.metrics()["wall_time"]
        first = int((steps_done < WARM).sum()) if algorithm == "dqn" else 0
        return float((steps_done[-1] - steps_done[first]) / (seconds[-1] - seconds[first]))


def theirs(environment: str, steps: int) -> float:
    """Steps per second of Stable-Baselines3 with the zoo's settings."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    if environment.startswith("dqn "):
        return their_dqn(environment.removeprefix("dqn "), steps)

    def linear(start: float) -> Callable[[float], float]:
        return lambda remaining: remaining * start

    zoo: dict[str, dict[str, Any]] = {
        "CartPole-v1": {
            "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8,
            "learning_rate": linear(1e-3), "clip_range": linear(0.2),
        },
        "LunarLander-v3": {
            "n_steps": 1024, "batch_size": 64, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01,
        },
    }  # fmt: skip
    envs = make_vec_env(
        environment, {"CartPole-v1": 8, "LunarLander-v3": 16}[environment], seed=0, env_kwargs={"render_mode": None}
    )
    model = PPO("MlpPolicy", envs, seed=0, device="cpu", **zoo[environment])
    model.learn(1)  # one rollout
    before, started = model.num_timesteps, time.perf_counter()
    model.learn(steps - before, reset_num_timesteps=False)
    return (model.num_timesteps - before) / (time.perf_counter() - started)


def their_dqn(environment: str, steps: int) -> float:
    """Steps per second of Stable-Baselines3's DQN with the zoo's settings."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    model = DQN(
        "MlpPolicy", make_vec_env(environment, 1, seed=0, env_kwargs={"render_mode": None}), seed=0, device="cpu",
        learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000, gamma=0.99,
        target_update_interval=10, train_freq=256, gradient_steps=128, exploration_fraction=0.16,
        exploration_final_eps=0.04, policy_kwargs={"net_arch": [256, 256]},
    )  # fmt: skip
    model.learn(WARM)
    before, started = model.num_timesteps, time.perf_counter()
    model.learn(steps - before, reset_num_timesteps=False)
    return (model.num_timesteps - before) / (time.perf_counter() - started)


def measure(who: str, environment: str, core: int) -> dict[str, float]:
    """One library in a process of its own, pinned to a core."""
    command = [sys.executable, "-m", "benchmarks.speed", "--child", who, environment, str(core)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def child(who: str, environment: str, core: int) -> None:
    """What the pinned process does."""
    os.sched_setaffinity(0, {core})
    speed = {"ours": ours, "theirs": theirs}[who](environment, STEPS[environment])
    print(json.dumps({"speed": speed, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    """Measures in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--only", default="", help="the cases whose name begins so")
    parser.add_argument("--child", nargs=3, metavar=("WHO", "ENV", "CORE"))
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1], int(options.child[2]))
        return
    print(
        f"Python {platform.python_version()}, torch {version('torch')},"
        f" stable-baselines3 {version('stable-baselines3')}"
    )
    print("\n| environment | steps/s | SB3 | ratio (each pair) | peak memory, MiB | SB3 |\n|---|---|---|---|---|---|")
    for environment in filter(lambda name: name.startswith(options.only), STEPS):
        pairs = [[measure(who, environment, options.core) for who in ("ours", "theirs")] for _ in range(options.pairs)]
        print(row(environment, pairs), flush=True)


def row(environment: str, pairs: list[list[dict[str, float]]]) -> str:
    """A line of the table."""
    ratios = [a["speed"] / b["speed"] for a, b in pairs]
    a, b = ([statistics.median(pair[side][key] for pair in pairs) for key in ("speed", "memory")] for side in (0, 1))
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    ratio = f"{statistics.median(ratios):.2f} ({each})"
    return f"| {environment} | {a[0]:,.0f} | {b[0]:,.0f} | {ratio} | {a[1]:.0f} | {b[1]:.0f} |"


if __name__ == "__main__":
    main()
