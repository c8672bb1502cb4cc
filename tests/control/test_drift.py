"""How far an update moved the policy: exact, logged by choice, changing nothing, and the same in a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import advantage
from advantage.control.drift import Drift
from advantage.control.policy import ActorCritic
from advantage.runs.reader import RunReader
from advantage.trajectory import Batch, Rollout

QUICK: dict[str, Any] = {
    "steps": 512,
    "num_envs": 2,
    "num_steps": 64,
    "network": (8,),
    "quiet": True,
    "record_every": 1,
}


class Coin(torch.nn.Module):
    """A policy whose probabilities are its parameter, whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(2))

    def evaluate(self, batch: Batch) -> Any:
        from types import SimpleNamespace

        from advantage.control.distributions import Categorical

        rows = batch.actions.shape[0] * batch.actions.shape[1]
        return SimpleNamespace(distribution=Categorical.of_logits(self.logits.expand(rows, 2), None))


def test_the_kl_is_that_of_the_old_against_the_new() -> None:
    coin = Coin()
    drift = Drift(coin)
    rollout = Rollout({}, torch.zeros(2, 3), *(torch.ones(2, 3, dtype=torch.bool) for _ in range(3)))
    with torch.no_grad():
        coin.logits.copy_(torch.log(torch.tensor([0.9, 0.1])))
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert drift.measure(rollout)["train/kl"] == pytest.approx(expected, rel=1e-5)
    assert drift.measure(rollout)["train/kl"] == pytest.approx(0.0, abs=1e-7)  # from the new one on


@pytest.mark.parametrize("algorithm", ["reinforce", "actor_critic_td", "a2c", "ppo"])
def test_it_is_logged_for_every_update_and_changes_no_bit(algorithm: str, tmp_path: Path) -> None:
    settings = {name: value for name, value in QUICK.items() if algorithm != "reinforce" or name != "num_steps"}
    own = {"minibatch_size": 64} if algorithm == "ppo" else {}
    policies = []
    for log in (False, True):
        run = advantage.train(algorithm, "CartPole-v1", run_dir=tmp_path / str(log), log_kl=log, **settings, **own)
        policies.append({path.name: path.read_bytes() for path in (run.path / "policy").glob("*.safetensors")})
    assert policies[0] == policies[1]
    kl = run.metrics()["train/kl"]
    assert np.isfinite(kl).all() and (kl > 0).all()
    assert "train/kl" not in RunReader(tmp_path / "False").metrics()


def test_a_resumed_run_knows_the_policy_before(tmp_path: Path) -> None:
    common = QUICK | {"log_kl": True, "learning_rate": 1e-3}
    whole = advantage.train("a2c", "CartPole-v1", run_dir=tmp_path / "whole", **common)
    advantage.train("a2c", "CartPole-v1", run_dir=tmp_path / "part", **common | {"steps": 256})
    part = advantage.resume(tmp_path / "part", steps=512, quiet=True)
    np.testing.assert_array_equal(part.metrics()["train/kl"], whole.metrics()["train/kl"])


def test_the_old_policy_is_no_parameter_of_training() -> None:
    assert not any(parameter.requires_grad for parameter in Drift(Coin()).old.parameters())
    assert issubclass(ActorCritic, torch.nn.Module)  # what is copied
