"""TRPO and the policy gradient from a log: a run that is killed and resumed leaves the bytes of one that was not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.test_resume import whole_and_killed

CASES = {
    "trpo CartPole-v1": ["--steps", "30000", "--set", "eval_every=10000", "--set", "eval_episodes=2"],
    "trpo Pendulum-v1": ["--steps", "20000", "--set", "full_covariance=true", "--set", "normalize_observations=true"],
    "off_policy_pg CartPole-v1": ["--steps", "60000", "--set", "log_episodes=200", "--set", "eval_every=20000"],
}


def command(case: str, run: Path) -> list[str]:
    options = [*CASES[case], "--checkpoint-every", "0", "--quiet", "--seed", "3", "--run-dir", str(run)]
    return [sys.executable, "-m", "advantage.cli", "train", *case.split(), *options]


@pytest.mark.parametrize("case", ["trpo CartPole-v1", *(pytest.param(c, marks=pytest.mark.slow) for c in [*CASES][1:])])
def test_sigkill_and_resume_leave_identical_bytes(case: str, tmp_path: Path) -> None:
    whole_and_killed(lambda run: command(case, run), tmp_path)
