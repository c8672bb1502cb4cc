"""The ladder of a decision where action values are learnt: its numbers are the run's, its target that of a loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import advantage
from advantage.cli import main
from advantage.control.q_network import QNetwork
from advantage.errors import UserError
from advantage.runs import checkpoint
from advantage.runs.state import restore
from advantage.trajectory import Rollout
from advantage.views.explain import explain, render
from advantage.views.ladder import Rung

GAMMA = 0.98


@pytest.fixture(scope="module", params=[{}, {"n_step": 3, "double": True, "loss": "squared"}], ids=str)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> advantage.Run:
    """Updates whose rollouts cross ends of episodes, and rows that only reset."""
    path = tmp_path_factory.mktemp("explain") / "run"
    return advantage.train(
        "dqn", "CartPole-v1", seed=1, steps=900, run_dir=path, quiet=True, num_envs=2, gamma=GAMMA,
        learning_starts=100, network=(16,), log_every=150, epsilon_end=0.7, train_every=5, target_update_every=100,
        **request.param,
    )  # fmt: skip


def networks(run: advantage.Run) -> tuple[QNetwork, QNetwork]:
    online, frozen = run.agent().network, run.agent().network
    restore(frozen, checkpoint.latest(run.path / "checkpoints")[0].state("target"))  # type: ignore[union-attr]
    return online, frozen


def ladders(run: advantage.Run) -> list[tuple[tuple[int, int], dict[str, Rung]]]:
    rollout = Rollout(**run.reader.rollout()[0])
    places = [tuple(place) for place in rollout.mask.nonzero().tolist()]
    return [(place, {rung.name: rung for rung in explain(run.path, None, *place).rungs}) for place in places]


def test_every_rung_is_what_a_loop_gives(run: advantage.Run) -> None:
    rollout, settings = Rollout(**run.reader.rollout()[0]), run.reader.config["settings"]
    online, frozen = networks(run)
    q: Any = lambda net, seen: net({"observation": seen[None]})[0].detach()  # noqa: E731
    shares, terminated, explored = [], 0, set()
    for (stream, step), rungs in ladders(run):
        total, factor, t = 0.0, 1.0, step
        while True:
            total += factor * float(rollout.rewards[stream, t])  # type: ignore[index]
            factor *= 0.0 if rollout.terminated[stream, t] else GAMMA
            ends = rollout.terminated[stream, t] or rollout.truncated[stream, t] or t + 1 == rollout.mask.shape[1]
            if ends or t - step + 1 == settings["n_step"]:
                break
            t += 1
        after = rollout.context["following"]["observation"][stream, t]
        best = q(online if settings["double"] else frozen, after).argmax()
        expected = total + (factor * float(q(frozen, after)[best]) if factor else 0.0)
        mine = q(online, rollout.context["observation"][stream, step])
        action = int(rollout.actions[stream, step])
        assert rungs["action values"].value == pytest.approx(mine.tolist(), abs=1e-5)
        assert rungs["action"].value == action and rungs["action"].inputs["greedy"] == int(mine.argmax())
        assert rungs["target"].value == pytest.approx(expected, abs=1e-4)
        assert rungs["TD error"].value == pytest.approx(expected - float(mine[action]), abs=1e-4)
        assert ("values that follow" in rungs) == (factor > 0)
        assert ("n-step return" in rungs) == (settings["n_step"] > 1)
        shares.append(rungs["share of the gradient"].value)
        terminated += factor == 0
        explored.add(rungs["action"].inputs["chosen"])
    assert sum(shares) == pytest.approx(1.0, abs=1e-4) and min(shares) >= 0 and len(set(np.round(shares, 6))) > 3
    assert terminated > 0 and explored == {"explored", "greedy"}


def test_it_can_be_read(run: advantage.Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = render(explain(run.path))
    assert "Q(s_t, ·)" in text and "share of the gradient" in text
    for command in ("explain", "report", "doctor"):
        assert main([command, str(run.path), "--json"]) == 0
    capsys.readouterr()
    assert "TD error" in (run.path / "report.html").read_text(encoding="utf-8")


def test_without_its_checkpoint_there_is_no_target(run: advantage.Run, tmp_path: Path) -> None:
    last = max(run.path.glob("checkpoints/step-*"), key=lambda path: int(path.name[5:]))
    last.rename(tmp_path / "away")
    try:
        with pytest.raises(UserError, match="target network; resume the run first"):
            explain(run.path)
    finally:
        (tmp_path / "away").rename(last)


def test_the_network_is_that_behind_the_update(run: advantage.Run) -> None:
    online, frozen = networks(run)
    assert not torch.equal(online.head.weight, frozen.head.weight)
