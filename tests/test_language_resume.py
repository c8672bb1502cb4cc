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
    "reward_model": ["batch_size=8", "centring=0.01"],
    "rlhf": ["task=add", "batch_size=8", "minibatch_size=4", "learning_rate=3e-4", "kl_target=0.5", "critic=copy"],
    "chain": ["task=add", "batch_size=8", "minibatch_size=4", "learning_rate=3e-4", "critic=reward_model"],
}
CASES["chain"] += [f"{phase}.{name}" for phase in ("sft", "reward_model") for name in ("steps=12", "batch_size=8")]
STEPS = {"grpo": 30, "dapo": 30, "sft": 60, "dpo": 40, "reward_model": 40, "rlhf": 30, "chain": 12}
SAMPLING = ("grpo", "dapo", "rlhf", "chain")
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


def answers(folder: Path) -> Path:
    """The same sums with the right answer alone."""
    path = folder / "answers.jsonl"
    lines = [{"prompt": f"{i}+{i + 3}=", "completion": str(2 * i + 3)} for i in range(50)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(case: str, run: Path, steps: int = 0) -> list[str]:
    """The words behind `advantage`."""
    chosen = [*CASES[case], "threads=1", "keep_checkpoints=1"]
    if case in ("dpo", "reward_model"):
        chosen.append(f"data={pairs(run.parent)}")
    if case == "chain":
        chosen += [f"sft_data={answers(run.parent)}", f"pairs={pairs(run.parent)}"]
    options = ["--steps", str(steps or STEPS[case]), "--checkpoint-every", "0", "--quiet", "--seed", "3"]
    settings = [word for setting in chosen for word in ("--set", setting)]
    algorithm = "rlhf" if case == "chain" else case
    return ["train", algorithm, "tiny", *options, *settings, "--run-dir", str(run)]


def advantage_of(*words: str) -> list[str]:
    return [sys.executable, "-m", "advantage.cli", *words]


def rows(run: Path) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(run / "metrics.sqlite") as database:
        return {name: database.execute(query).fetchall() for name, query in EVERYTHING_BUT_TIMES.items()}


def files(run: Path) -> dict[str, bytes]:
    """The policies, the last rollout, what a reference said and what a chain came to, byte for byte."""
    runs = (run, run / "sft", run / "reward_model")
    found = [path for one in runs for folder in ("policy", "best", "rollout") for path in (one / folder).glob("*")]
    found += [*run.glob("*.safetensors"), *run.glob("*.json")]
    found.remove(run / "status.json")
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(found)}


def in_set_up(run: Path) -> Callable[[], bool]:
    return (run / "config.toml").exists


def after_an_update(run: Path) -> Callable[[], bool]:
    """One of the run, or of a run in it."""

    def there() -> set[Path]:
        return {path for pattern in ("", "*/") for path in run.glob(f"{pattern}checkpoints/step-*")}

    before = there()
    return lambda: bool(there() - before)


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != "grpo"]


@pytest.mark.parametrize("algorithm", ["grpo", *SLOW])
def test_sigkill_and_resume_leave_identical_bytes(algorithm: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(advantage_of(*command(algorithm, whole)), check=True)
    moments = random.Random(algorithm)
    process, kills = subprocess.Popen(advantage_of(*command(algorithm, killed))), 0
    whens = [after_an_update, after_an_update] if algorithm == "grpo" else [in_set_up, *[after_an_update] * 3]
    for when in whens * (2 if algorithm == "chain" else 1):
        _wait(process, when(killed))
        time.sleep(moments.uniform(0.0, 2.0 if algorithm == "chain" else 0.7))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        process = subprocess.Popen(advantage_of("resume", str(killed), "--quiet"))
    assert process.wait() == 0
    attempts = [len(run.reader.attempts()) for run in advantage.load(killed).chain().values()]
    assert kills and max(attempts) > 1, "nothing was killed"
    print(f"{algorithm}: killed {kills} times, attempts {attempts}")
    expected = files(whole)
    assert {"policy/model.safetensors", "policy/tokenizer.json"} <= set(expected)
    assert ("reference.safetensors" in expected) == (algorithm == "dpo")
    assert expected == files(killed)
    recorded = rows(whole)
    assert recorded == rows(killed)
    assert recorded["scalars"] and len(recorded["ticks"]) == STEPS[algorithm]
    assert bool(recorded["completions"]) or algorithm not in SAMPLING
    assert bool(recorded["events"]) or algorithm not in ("dpo", "reward_model")
    for phase in ("sft", "reward_model") if algorithm == "chain" else ():
        assert rows(whole / phase) == rows(killed / phase)


INSIDE = """
import importlib, sys, time
from pathlib import Path
place, call, sign, *words = sys.argv[1:]
module, _, name = place.partition(":")
owner = importlib.import_module(module)
*path, last = name.split(".")
for step in path:
    owner = getattr(owner, step)
own, calls = getattr(owner, last), []

def stopping(*arguments, **named):
    calls.append(1)
    if len(calls) == int(call):
        Path(sign).touch()
        time.sleep(600)
    return own(*arguments, **named)

setattr(owner, last, stopping)
from advantage.cli import main
sys.exit(main(words))
"""
"""`advantage` that leaves a sign when it comes to a function for the n-th time, and waits there to be killed."""
PLACES = {
    "generation": ("advantage.language.decode:Decoder.advance", 9),  # of a token in the middle of a completion
    "reward": ("advantage.language.rewards:judge", 3),
    "scoring": ("advantage.algorithms.rlhf:said", 3),
    "step": ("advantage.adam:FlatAdam.step", 6),
}


@pytest.mark.slow
def test_sigkill_inside_generation_rewards_scoring_and_steps(tmp_path: Path) -> None:
    """Each in a run of its own, some updates after its first; the checkpoint before the kill is what goes on."""
    whole = tmp_path / "whole"
    subprocess.run(advantage_of(*command("rlhf", whole, steps=4)), check=True)
    for inside, (place, call) in PLACES.items():
        killed, sign = tmp_path / inside, tmp_path / f"{inside}.sign"
        words = [sys.executable, "-c", INSIDE, place, str(call), str(sign), *command("rlhf", killed, steps=4)]
        process = subprocess.Popen(words)
        _wait(process, sign.exists)
        assert process.poll() is None, f"it never came to {place} {call} times"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        reached = advantage.load(killed).reader.checkpoints()[-1][0]
        print(f"{inside}: killed behind update {reached}")
        assert 0 < reached < 4
        subprocess.run(advantage_of("resume", str(killed), "--quiet"), check=True)
        assert files(killed) == files(whole)
        assert rows(killed) == rows(whole)


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Until it is so, or the process has ended by itself."""
    for _ in range(2400):
        if ready() or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError("nothing came of the run")
