"""A training of a language model that is killed and resumed leaves the bytes of one that was not.

It is killed in the middle of whatever it does: sampling, judging, drawing again, scoring, an optimiser step, writing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import advantage

SAMPLED = ["task=add", "batch_size=4", "num_generations=4", "learning_rate=3e-4"]
CASES = {
    "grpo": [*SAMPLED, "beta=0.02", "epochs=2", "minibatch_size=8"],
    "dapo": [*SAMPLED, "overlong_cache=2", "eval_every=10", "eval_episodes=4"],
    "sft": ["task=mix", "batch_size=8", "eval_every=10", "eval_episodes=4"],
    "dpo": ["batch_size=8"],
}
STEPS = {"grpo": 30, "dapo": 30, "sft": 60, "dpo": 40}
EVERYTHING_BUT_TIMES = {
    "scalars": """SELECT tick, name, value, special FROM scalars JOIN keys ON keys.id = key
                  WHERE name NOT LIKE 'time/%' ORDER BY tick, name""",
    "ticks": "SELECT id, env_steps, tokens FROM ticks ORDER BY id",
    "events": "SELECT tick, level, tripwire, text FROM events ORDER BY id",
    "completions": """SELECT tick, step, "group", "index", prompt, completion, reward, finish_reason FROM completions
                      ORDER BY step, "group", "index" """,
}


def pairs(folder: Path) -> Path:
    """Sums with a right and a wrong answer, once the same, which is noted; an epoch of them ends within the run."""
    path = folder / "pairs.jsonl"
    lines = [
        {"prompt": f"{i}+{i + 3}=", "chosen": str(2 * i + 3), "rejected": str(3 * i + 1)} for i in range(50)
    ]  # i = 2 is the one
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(algorithm: str, run: Path) -> list[str]:
    chosen = [*CASES[algorithm], "threads=1", "keep_checkpoints=1"]
    if algorithm == "dpo":
        chosen.append(f"data={pairs(run.parent)}")
    options = ["--steps", str(STEPS[algorithm]), "--checkpoint-every", "0", "--quiet", "--seed", "3"]
    settings = [word for setting in chosen for word in ("--set", setting)]
    return [*advantage_of("train", algorithm, "tiny"), *options, *settings, "--run-dir", str(run)]


def advantage_of(*words: str) -> list[str]:
    return [sys.executable, "-m", "advantage.cli", *words]


def rows(run: Path) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(run / "metrics.sqlite") as database:
        return {name: database.execute(query).fetchall() for name, query in EVERYTHING_BUT_TIMES.items()}


def files(run: Path) -> dict[str, bytes]:
    """The policies, the last rollout and what a reference said, byte for byte."""
    found = [path for folder in ("policy", "best", "rollout") for path in (run / folder).glob("*")]
    found += run.glob("*.safetensors")
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(found)}


def in_set_up(run: Path) -> Callable[[], bool]:
    return (run / "config.toml").exists


def after_an_update(run: Path) -> Callable[[], bool]:
    before = set((run / "checkpoints").glob("step-*"))
    return lambda: bool(set((run / "checkpoints").glob("step-*")) - before)


SLOW = [pytest.param(algorithm, marks=pytest.mark.slow) for algorithm in ("dapo", "sft", "dpo")]


@pytest.mark.parametrize("algorithm", ["grpo", *SLOW])
def test_sigkill_and_resume_leave_identical_bytes(algorithm: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(algorithm, whole), check=True)
    moments = random.Random(algorithm)
    process, kills = subprocess.Popen(command(algorithm, killed)), 0
    whens = [after_an_update, after_an_update] if algorithm == "grpo" else [in_set_up, *[after_an_update] * 3]
    for when in whens:
        _wait(process, when(killed))
        time.sleep(moments.uniform(0.0, 0.7))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        process = subprocess.Popen(advantage_of("resume", str(killed), "--quiet"))
    assert process.wait() == 0
    assert kills and len(advantage.load(killed).reader.attempts()) > 1, "nothing was killed"
    print(f"{algorithm}: killed {kills} times")
    expected = files(whole)
    assert {"policy/model.safetensors", "policy/tokenizer.json"} <= set(expected)
    assert ("reference.safetensors" in expected) == (algorithm == "dpo")
    assert expected == files(killed)
    recorded = rows(whole)
    assert recorded == rows(killed)
    assert recorded["scalars"] and len(recorded["ticks"]) == STEPS[algorithm]
    assert bool(recorded["completions"]) == (algorithm in ("grpo", "dapo"))
    assert bool(recorded["events"]) or algorithm != "dpo"


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Until it is so, or the process has ended by itself."""
    for _ in range(2400):
        if ready() or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError("nothing came of the run")
