"""Steps per second and peak memory beside Stable-Baselines3 and sb3-contrib, the same settings, one core, in one run.

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
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

STEPS = {
    "ppo CartPole-v1": 50_000,
    "ppo LunarLander-v3": 81_920,
    "a2c CartPole-v1": 50_000,
    "trpo CartPole-v1": 50_000,
    "dqn CartPole-v1": 12_000,
}
SETTINGS: dict[str, dict[str, Any]] = {  # the zoo's, where the tuned ones are others
    "ppo CartPole-v1": {"num_steps": 32, "minibatch_size": 256, "epochs": 20},
    "ppo LunarLander-v3": {},
    "a2c CartPole-v1": {
        "num_envs": 8, "num_steps": 5, "gae_lambda": 1.0, "gamma": 0.99, "learning_rate": 7e-4, "vf_coef": 1.0,
        "optimizer": "rmsprop", "normalize_advantages": False,
    },
    "trpo CartPole-v1": {"num_envs": 2, "num_steps": 512, "gamma": 0.99, "gae_lambda": 0.98},
    "dqn CartPole-v1": {"learning_rate": 2.3e-3},
}  # fmt: skip
WARM = {"dqn": 1_536}  # steps behind which it is timed, else a rollout: both have begun to learn


def ours(case: str, steps: int) -> float:
    """Steps per second of `advantage.train`."""
    import advantage

    algorithm, environment = case.split()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/run"
        run = advantage.train(algorithm, environment, steps=steps, run_dir=path, quiet=True, **SETTINGS[case])
        steps_done, seconds = run.metrics()["env_steps"], run.metrics()["wall_time"]
        first = int((steps_done < WARM.get(algorithm, 1)).sum())
        return float((steps_done[-1] - steps_done[first]) / (seconds[-1] - seconds[first]))


def theirs(case: str, steps: int, settings: dict[str, Any]) -> float:
    """Steps per second of Stable-Baselines3 or sb3-contrib."""
    from benchmarks.peers import make

    algorithm, environment = case.split()
    model = make(algorithm, environment, SimpleNamespace(**settings), seed=0)
    model.learn(WARM.get(algorithm, 1))  # one rollout
    before, started = model.num_timesteps, time.perf_counter()
    model.learn(steps - before, reset_num_timesteps=False)
    return float((model.num_timesteps - before) / (time.perf_counter() - started))


def resolved(case: str) -> dict[str, Any]:
    """All settings of a case, which are one for both."""
    from advantage.planning import plan
    from benchmarks.peers import check

    algorithm, environment = case.split()
    settings = plan(algorithm, environment, 0, {"steps": STEPS[case], **SETTINGS[case]}).settings
    check(algorithm, settings)
    return vars(settings)


def measure(who: str, case: str, core: int, settings: dict[str, Any]) -> dict[str, float]:
    """One library in a process of its own, pinned to a core."""
    command = [sys.executable, "-m", "benchmarks.speed", "--child", who, case, str(core), json.dumps(settings)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def child(who: str, case: str, core: int, settings: dict[str, Any]) -> None:
    """What the pinned process does."""
    os.sched_setaffinity(0, {core})
    speed = ours(case, STEPS[case]) if who == "ours" else theirs(case, STEPS[case], settings)
    print(json.dumps({"speed": speed, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    """Measures in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    algorithms = dict.fromkeys(case.split()[0] for case in STEPS)
    parser.add_argument(
        "--cases", nargs="+", choices=(*STEPS, *algorithms), default=list(STEPS), metavar="CASE",
        help=f"of {', '.join(map(repr, STEPS))}; an algorithm stands for all that it has",
    )  # fmt: skip
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--child", nargs=4, metavar=("WHO", "CASE", "CORE", "SETTINGS"))
    options = parser.parse_args()
    if options.child:
        who, case, core, settings = options.child
        child(who, case, int(core), json.loads(settings))
        return
    print(
        f"Python {platform.python_version()}, torch {version('torch')},"
        f" stable-baselines3 {version('stable-baselines3')}, sb3-contrib {version('sb3-contrib')}"
    )
    print(
        "\n| algorithm, environment | steps/s | SB3 | ratio (each pair) | peak memory, MiB | SB3 |"
        "\n|---|---|---|---|---|---|",
        flush=True,
    )
    for case in (case for case in STEPS if {case, case.split()[0]} & {*options.cases}):
        core, settings = options.core, resolved(case)
        pairs = [[measure(who, case, core, settings) for who in ("ours", "theirs")] for _ in range(options.pairs)]
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
