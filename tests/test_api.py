"""The library from Python, as a user of it would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import advantage
from advantage import planning
from advantage.errors import UserError

QUICK = {"steps": 600, "num_steps": 32, "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> advantage.Run:
    """A short run with evaluations."""
    path = tmp_path_factory.mktemp("api") / "run"
    return advantage.train("ppo", "CartPole-v1", run_dir=path, eval_every=256, eval_episodes=2, **QUICK)


def test_a_policy_acts_on_one_observation_and_on_many(run: advantage.Run) -> None:
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    actions = run.policy.act(observations)
    assert actions.shape == (5,) and set(actions.tolist()) <= {0, 1}
    assert [int(run.policy.act(observation)) for observation in observations] == actions.tolist()
    assert run.policy.value(observations).shape == (5,)
    assert run.policy.value(observations[0]) == pytest.approx(float(run.policy.value(observations)[0]), abs=1e-6)
    sampled = {int(run.policy.act(observations[0], deterministic=False)) for _ in range(200)}
    assert sampled == {0, 1}


def test_evaluation_repeats_itself_and_plays_what_act_says(run: advantage.Run) -> None:
    first, again = run.evaluate(episodes=5, seed=3), advantage.load(run.path).evaluate(episodes=5, seed=3)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert first.mean == pytest.approx(first.returns.mean()) and first.std == pytest.approx(first.returns.std())
    assert (first.returns == first.lengths).all()  # CartPole pays 1 a step


def test_the_best_policy_is_kept_beside_the_latest(run: advantage.Run) -> None:
    metrics = run.metrics()
    means = metrics["eval/mean_reward"]
    assert np.isfinite(means).sum() >= 2
    about = run.reader.policy("best")[1]
    assert about["update"] == int(metrics["update"][np.nanargmax(means)])
    run.evaluate(episodes=2, which="best")


def test_an_instance_and_constructors_and_their_resume(tmp_path: Path) -> None:
    single = advantage.train("ppo", gym.make("CartPole-v1"), run_dir=tmp_path / "one", **{**QUICK, "num_steps": 128})
    with pytest.raises(UserError, match="env="):
        advantage.resume(single.path, steps=900)
    assert "python:" in single.reader.config["target"]
    makers = [lambda: gym.make("CartPole-v1") for _ in range(3)]
    several = advantage.train("ppo", makers, run_dir=tmp_path / "three", **QUICK)
    longer = advantage.resume(several.path, steps=900, env=makers, quiet=True)
    assert longer.metrics()["env_steps"][-1] >= 900
    assert np.isfinite(longer.evaluate(episodes=3).mean)


def test_continuous_actions_stay_in_their_box(tmp_path: Path) -> None:
    settings = {**QUICK, "num_envs": 2, "minibatch_size": 32, "log_std_init": 1.0}
    run = advantage.train("ppo", "Pendulum-v1", run_dir=tmp_path / "run", **settings)
    observation = np.array([1.0, 0.0, 0.0], np.float32)
    actions = np.array([run.policy.act(observation, deterministic=False) for _ in range(50)])
    assert actions.shape == (50, 1) and np.abs(actions).max() == 2.0


def test_arguments_that_cannot_be(tmp_path: Path) -> None:
    for seed in (-1, 1.5, True, "x"):
        with pytest.raises(UserError, match="seed"):
            advantage.train("ppo", "CartPole-v1", seed=seed, run_dir=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="gae_lambda"):
        advantage.train("ppo", "CartPole-v1", run_dir=tmp_path / "run", lam=0.9)
    with pytest.raises(UserError, match="algorithm is None"):
        advantage.train(None, "CartPole-v1", run_dir=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"env_args\.wrapper is"):
        advantage.train("ppo", lambda: None, run_dir=tmp_path / "run", env_args={"wrapper": print})
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="no such run"):
        advantage.load(tmp_path / "run")


@pytest.mark.parametrize("steps", ["abc", 4600.5, True, 0])
def test_numbers_that_are_none(run: advantage.Run, steps: Any) -> None:
    with pytest.raises(UserError, match=f"steps is {steps!r}"):
        advantage.resume(run.path, steps=steps)
    with pytest.raises(UserError, match=f"episodes is {steps!r}"):
        run.evaluate(steps)


def test_evaluation_takes_nothing_of_the_other_world(run: advantage.Run) -> None:
    assert run.world == "control"
    with pytest.raises(UserError, match="task is for language models"):
        run.evaluate(2, task="add")


def test_another_environment_than_the_runs(tmp_path: Path) -> None:
    run = advantage.train("ppo", lambda: gym.make("CartPole-v1"), run_dir=tmp_path / "run", **QUICK)
    other = lambda: gym.make("Acrobot-v1")  # noqa: E731
    for act in (
        lambda: advantage.load(run.path, env=other).policy,
        lambda: advantage.resume(run.path, steps=9999, env=other),
    ):
        with pytest.raises(UserError, match="are not the run's"):
            act()


def test_a_run_is_known_by_what_it_is(run: advantage.Run) -> None:
    assert "ppo on CartPole-v1, finished" in repr(run)


def test_an_episode_as_a_moving_picture(run: advantage.Run, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("pygame")
    from advantage.control.video import record

    record(run.policy, tmp_path / "episode.gif", seed=0)
    with image.open(tmp_path / "episode.gif") as picture:
        assert picture.n_frames > 1
    with pytest.raises(UserError, match=r"\.mp4"):
        record(run.policy, tmp_path / "episode.mp4", seed=0)


def test_the_plan_says_how_many_environments_there_are() -> None:
    def make() -> gym.Env[Any, Any]:
        return gym.make("CartPole-v1")

    found = [planning.plan("ppo", target, 0, {}).settings.num_envs for target in ([make] * 3, make(), make)]
    assert found == [3, 1, 8]
