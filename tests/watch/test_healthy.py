"""Healthy runs give no warning: PPO with its tuned settings, and language models on the packaged one, for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import advantage
from advantage.runs.reader import RunReader
from advantage.views.doctor import diagnose
from advantage.watch.critic import EXPLAINED_UPDATES, OVERFIT_UPDATES
from advantage.watch.learning import GRADIENT_PAST, GRADIENT_UPDATES

# The tuned rollouts of these two are so long that no window of the tripwires would fill: silence would say nothing.
SHORT: dict[str, Any] = {"num_steps": 128}
LONGEST_WINDOW = max(EXPLAINED_UPDATES, OVERFIT_UPDATES, GRADIENT_PAST + GRADIENT_UPDATES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "seed", "steps", "settings"),
    [
        ("CartPole-v1", 0, 50_000, {}),
        ("CartPole-v1", 1, 50_000, {}),
        ("CartPole-v1", 2, 50_000, {}),
        ("Pendulum-v1", 2, 100_000, SHORT),  # explains 0.999 of its returns while its loss still falls
        ("LunarLander-v3", 0, 150_000, SHORT),
    ],
)
def test_no_warning(environment: str, seed: int, steps: int, settings: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    advantage.train("ppo", environment, seed=seed, steps=steps, run_dir=run, quiet=True, **settings)
    found = diagnose(run)
    assert found.update > LONGEST_WINDOW
    assert [event for event in RunReader(run).events() if event["level"] != "note"] == []
    assert [symptom for symptom in found.symptoms if symptom.level != "note"] == []


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sft", "grpo", "dapo", "rlhf"])
def test_no_warning_in_language(algorithm: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    advantage.train(algorithm, "tiny", task="sort", steps=60, batch_size=16, threads=1, run_dir=run, quiet=True)
    assert [symptom for symptom in diagnose(run).symptoms if symptom.level != "note"] == []
