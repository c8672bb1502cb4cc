"""Whether every algorithm of control still learns CartPole as well as it did: one comparison of seeds with a record.

A change that alters no number gives the record itself; one that only reshuffles random numbers passes with 99 %
confidence for all algorithms together; one that makes learning worse than chance explains fails. After a change that is
meant to alter learning, `python -m tests.algorithms.test_learning` writes the record anew (some minutes of one core).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import advantage

RECORD = Path(__file__).with_name("learning.json")
SEEDS = 10
CONFIDENCE = 0.99
CASES: dict[str, dict[str, Any]] = {  # the tuned settings of CartPole, cut short where learning is steepest
    "reinforce": {"steps": 20_000},
    "actor_critic_mc": {"steps": 20_000},
    "actor_critic_td": {"steps": 20_000},
    "a2c": {"steps": 30_000},
    "ppo_penalty": {"steps": 20_000},
    "ppo": {"steps": 20_000},
    "trpo": {"steps": 20_000},
    "off_policy_pg": {"steps": 40_000, "log_episodes": 300, "eval_every": 10_000, "eval_episodes": 10},
    "dqn": {"steps": 15_000},
}


def learnt(algorithm: str, seed: int, **changes: Any) -> float:
    """Mean return over the second half of a run: a level and how soon it is reached, in one number."""
    settings = {**CASES[algorithm], **changes}
    with tempfile.TemporaryDirectory() as folder:
        run = advantage.train(algorithm, "CartPole-v1", seed=seed, run_dir=f"{folder}/run", quiet=True, **settings)
        columns = run.metrics()
    name = "eval/mean_reward" if algorithm == "off_policy_pg" else "rollout/ep_rew_mean"
    seen = np.isfinite(columns[name])
    points = np.linspace(0.5, 1.0, 21) * settings["steps"]
    return float(np.interp(points, columns["env_steps"][seen], columns[name][seen]).mean())


def worse(now: list[float], before: list[float]) -> float:
    """p of returns as low as these or lower, were they drawn like those before: the one-sided Mann–Whitney test."""
    return float(stats.mannwhitneyu(now, before, alternative="less", method="exact").pvalue)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", CASES)
def test_it_learns_no_worse_than_it_did(algorithm: str) -> None:
    """Ten seeds against the ten of the record; the chance of an error is shared among the algorithms (Bonferroni)."""
    before = json.loads(RECORD.read_text(encoding="utf-8"))[algorithm]
    now = [learnt(algorithm, seed) for seed in range(SEEDS)]
    print(f"{algorithm}: median {np.median(now):.0f}, of the record {np.median(before):.0f}")
    assert worse(now, before) > (1.0 - CONFIDENCE) / len(CASES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "harm"),
    [("ppo", {"learning_rate": "lin_1e-4"}), ("ppo", {"gamma": 0.5}), ("dqn", {"gradient_steps": 8})],
    ids=str,
)
def test_worse_learning_is_noticed(algorithm: str, harm: dict[str, Any]) -> None:
    """A tenth of the step size, a horizon of two steps, a sixteenth of the steps: each is told from chance."""
    before = json.loads(RECORD.read_text(encoding="utf-8"))[algorithm]
    now = [learnt(algorithm, seed, **harm) for seed in range(SEEDS)]
    assert worse(now, before) < (1.0 - CONFIDENCE) / len(CASES)


def test_the_record_has_every_algorithm_and_seed() -> None:
    """And is written by the cases that stand here."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert {name: len(returns) for name, returns in record.items()} == dict.fromkeys(CASES, SEEDS)


def write_record() -> None:
    """Trains all cases and writes what came of them."""
    found = {name: [round(learnt(name, seed), 2) for seed in range(SEEDS)] for name in CASES}
    lines = [f'  "{name}": {json.dumps(returns)}' for name, returns in found.items()]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write_record()
