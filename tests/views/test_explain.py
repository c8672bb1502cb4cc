"""The ladder of a decision: its two roads to GAE agree, its values cancel, its numbers are the run's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import advantage
from advantage.errors import UserError
from advantage.trajectory import Rollout
from advantage.update import estimate
from advantage.views.explain import explain, render
from advantage.views.ladder import SHOWN


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> advantage.Run:
    """A run of a few updates whose rollouts cross ends of episodes and rows that only reset."""
    path = tmp_path_factory.mktemp("explain") / "run"
    return advantage.train("ppo", "CartPole-v1", seed=1, steps=1500, run_dir=path, quiet=True, num_steps=64)


def rollout(run: advantage.Run) -> Rollout:
    return Rollout(**run.reader.rollout()[0])


def test_both_roads_to_gae_agree_on_every_decision(run: advantage.Run) -> None:
    collected = rollout(run)
    advantages, returns = estimate(collected, 0.98, 0.8)
    for stream, step in collected.mask.nonzero().tolist()[::37]:
        rungs = {rung.name: rung for rung in explain(run.path, stream=stream, step=step).rungs}
        mean, recursion = rungs["GAE, weighted mean"], rungs["GAE, recursion"]
        assert mean.value == pytest.approx(recursion.value, abs=2e-5)
        assert mean.inputs["weights sum to"] == pytest.approx(1.0)
        assert recursion.value == pytest.approx(float(advantages[stream, step]), abs=1e-6)
        assert rungs["critic's target"].value == pytest.approx(float(returns[stream, step]), abs=1e-5)
        for name, rung in rungs.items():
            if name.endswith("-step advantage"):  # what is left when the values between the ends have cancelled
                inputs = dict(rung.inputs)
                start = inputs.pop("V(s_t)")
                assert rung.value == pytest.approx(sum(inputs.values()) - start, abs=2e-5)


def test_shares_of_the_gradient_sum_to_one(run: advantage.Run) -> None:
    shares = [
        explain(run.path, stream=stream, step=step).rungs[-1].value
        for stream, step in rollout(run).mask.nonzero().tolist()
    ]
    assert np.all(np.array(shares) >= 0.0)
    assert sum(shares) == pytest.approx(1.0, abs=1e-4)


def test_the_clip_says_which_side_the_min_chose(run: advantage.Run) -> None:
    for stream, step in rollout(run).mask.nonzero().tolist()[::11]:
        rungs = {rung.name: rung for rung in explain(run.path, stream=stream, step=step).rungs}
        gradient = rungs["share of the gradient"].value
        if "no gradient" in str(rungs["clipped surrogate"].inputs["min chose"]):
            assert gradient == 0.0
            assert rungs["clipped surrogate"].value < rungs["clipped surrogate"].inputs["ρÂ"]
        else:
            assert gradient > 0.0 or rungs["normalised"].value == 0.0


def test_the_table_is_for_people(run: advantage.Run) -> None:
    text = render(explain(run.path, stream=2, step=3))
    assert "TD residual" in text and "min(ρÂ" in text
    assert text.count("-step advantage") <= SHOWN


@pytest.mark.parametrize(
    ("place", "told"),
    [({"stream": 99}, "stream 99"), ({"step": 64}, "steps 0 … 63"), ({"update": 1}, "kept is that of update")],
)
def test_a_place_that_is_not_there(run: advantage.Run, place: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        explain(run.path, **place)


def test_a_row_that_only_resets(run: advantage.Run) -> None:
    stream, step = torch.nonzero(~rollout(run).mask)[0].tolist()
    with pytest.raises(UserError, match="only resets"):
        explain(run.path, stream=stream, step=step)


def test_without_a_step_it_takes_the_first_decision(run: advantage.Run) -> None:
    first = int(rollout(run).mask[2].int().argmax())
    assert explain(run.path, stream=2).step == first


def test_the_rungs_use_the_dialect_s_schedule_and_the_dual_clip(tmp_path: Path) -> None:
    settings = {"numerics": "sb3", "eps_low": "lin_0.2", "eps_high": "lin_0.2", "dual_clip": 1.0001}
    other = advantage.train(
        "ppo", "CartPole-v1", steps=1024, run_dir=tmp_path / "r", quiet=True, num_envs=8, num_steps=64, **settings
    )
    found = next(rung for rung in explain(other.path).rungs if rung.name == "clipped surrogate")
    assert "clip(ρ, 1, 1)" in found.formula  # read behind the last rollout, where nothing is left of the budget
