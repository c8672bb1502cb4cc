"""DQN killed and resumed leaves the bytes of one that was not, what it remembers included."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import advantage
from advantage.runs import checkpoint, tensors
from tests.test_resume import whole_and_killed

CASES = {
    "uniform": ["--set", "eval_every=1500", "--set", "eval_episodes=2"],
    "prioritized, 3 steps, environments of their own reset": [
        *("--set", "replay=prioritized", "--set", "n_step=3", "--set", "num_envs=3", "--set", "vectorization=auto"),
        *("--set", "normalize_observations=true", "--set", "tau=0.1"),
    ],
}
SHARED = ["network=16", "buffer_size=1500", "learning_starts=200", "train_every=8", "gradient_steps=4", "log_every=100"]


def command(case: str, run: Path) -> list[str]:
    shared = [word for pair in SHARED for word in ("--set", pair)]
    options = [*shared, *CASES[case], "--steps", "4000", "--checkpoint-every", "0", "--quiet", "--seed", "3"]
    return [sys.executable, "-m", "advantage.cli", "train", "dqn", "CartPole-v1", *options, "--run-dir", str(run)]


def remembered(run: Path) -> dict[str, Any]:
    """The last checkpoint's state of everything, and the rows of its pieces put together."""
    found, _ = checkpoint.latest(run / "checkpoints")
    assert found is not None
    states = {f"{name}/{key}": value for name in found.body["scalars"] for key, value in found.state(name).items()}
    added, pieces = found.body["scalars"]["replay"]["added"], sorted(found.pieces("replay"), key=span)
    rows = [tensors.read(found.path.parent / piece)[0] for piece in pieces]
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    first = added - min(added, 1500) - span(pieces[0])[0]
    return states | {f"rows/{name}": column[first:] for name, column in joined.items()}


def span(piece: str) -> tuple[int, int]:
    *_, first, end = piece.removesuffix(".safetensors").split("-")
    return int(first), int(end)


@pytest.mark.parametrize("case", ["uniform", pytest.param(list(CASES)[1], marks=pytest.mark.slow)])
def test_sigkill_and_resume_leave_identical_bytes(case: str, tmp_path: Path) -> None:
    whole, killed = whole_and_killed(lambda run: command(case, run), tmp_path)
    one, other = remembered(whole), remembered(killed)
    assert one.keys() == other.keys() and len(one["rows/actions"]) == 1500
    for name, value in one.items():
        if name.endswith("action_space"):  # generators that nothing draws from and nobody seeds
            continue
        assert np.array_equal(np.asarray(value), np.asarray(other[name])), name


def test_a_checkpoint_writes_only_what_is_new(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"network": (8,), "learning_starts": 100, "log_every": 100, "buffer_size": 50_000}
    run = advantage.train(
        "dqn", "LunarLander-v3", run_dir=tmp_path / "run", steps=3000, quiet=True, checkpoint_every=0, **settings
    )
    pieces = [path.stat() for path in (run.path / "checkpoints" / "segments").iterdir()]
    last = max((run.path / "checkpoints").glob("step-*"), key=lambda path: path.stat().st_mtime)
    own = sum(path.stat().st_size for path in last.iterdir())
    assert len(pieces) == 30 and len({status.st_mtime_ns for status in pieces}) == 30
    assert own < 0.3 * sum(status.st_size for status in pieces)
