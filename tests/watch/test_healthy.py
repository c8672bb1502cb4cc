"""Healthy runs give no warning: PPO with its tuned settings, for real."""

from __future__ import annotations

from pathlib import Path

import pytest

import advantage
from advantage.doctor import diagnose
from advantage.runs.reader import RunReader


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "seed", "steps"),
    [
        ("CartPole-v1", 0, 50_000),
        ("CartPole-v1", 1, 50_000),
        ("CartPole-v1", 2, 50_000),
        ("Pendulum-v1", 0, 60_000),
        ("LunarLander-v3", 0, 150_000),
    ],
)
def test_no_warning(environment: str, seed: int, steps: int, tmp_path: Path) -> None:
    advantage.train("ppo", environment, seed=seed, steps=steps, run_dir=tmp_path / "run", quiet=True)
    events = RunReader(tmp_path / "run").events()
    assert [event for event in events if event["level"] != "note"] == []
    assert [symptom for symptom in diagnose(tmp_path / "run").symptoms if symptom.level != "note"] == []
