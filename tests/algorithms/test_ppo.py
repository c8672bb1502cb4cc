"""PPO: its settings, its objective by hand, what reaches what, every kind of environment, and that it learns."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import advantage
from advantage.algorithms import ppo
from advantage.errors import UserError
from advantage.settings import resolve
from advantage.trajectory import Batch, Evaluation
from tests.algorithms.memory_run import MemoryRun
from tests.control.scripted import Echo, Masked

SMALL: dict[str, Any] = {
    "num_envs": 2,
    "num_steps": 16,
    "minibatch_size": 12,
    "epochs": 2,
    "network": (16,),
    "steps": 64,
}


class Salary(gym.Env[Any, Any]):
    """A reward of 1 a step, whatever is done; every state looks the same. Ends after `length` steps."""

    def __init__(self, length: int, terminates: bool = False) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.length, self.terminates = length, terminates

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == self.length
        return np.ones(1, np.float32), 1.0, over and self.terminates, over and not self.terminates, {}


# Settings.


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"epochs": "some"}, "epochs is 'some'; it must be a whole number"),
        ({"minibatch_size": 0}, "minibatch_size is 0; it must be at least 1"),
        ({"minibatch_size": 2000}, "minibatch_size is 2000; a rollout has num_envs × num_steps = 1024 steps"),
        ({"num_envs": 1, "num_steps": 8, "minibatch_size": 9}, "num_envs × num_steps = 8 steps"),
        ({"eps_low": -0.1}, "eps_low is -0.1; it must be at least 0"),
        ({"eps_high": "lin_-0.1"}, "eps_high is lin_-0.1; it must be at least 0"),
        ({"eps_high": "exp_0.1"}, "eps_high is 'exp_0.1'; it must be a number or a schedule"),
        ({"dual_clip": 1.0}, "dual_clip is 1.0; it must be above 1"),
        ({"value_clip": 0}, "value_clip is 0.0; it must be above 0"),
        ({"target_kl": 0}, "target_kl is 0.0; it must be above 0"),
        ({"target_kl": math.nan}, "target_kl is nan; it must be finite"),
        ({"gamma": 1.5}, "gamma is 1.5; it must be in 0 … 1"),
        ({"gae_lambda": -1}, "gae_lambda is -1.0; it must be in 0 … 1"),
        ({"numerics": "trl"}, "numerics is 'trl'; it must be one of advantage, sb3"),
        ({"clip_range": 0.2}, "clip_range is called eps_low and eps_high here"),
        ({"n_epochs": 4}, "n_epochs is called epochs here"),
        ({"clip_range_vf": 0.2}, "clip_range_vf is called value_clip here"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(ppo.Settings, given)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_text_and_values_give_the_same_settings() -> None:
    as_text = {"eps_low": "lin_0.3", "dual_clip": "3", "value_clip": "none", "minibatch_size": "1024", "network": "8,8"}
    as_values = {"eps_low": "lin_0.3", "dual_clip": 3.0, "value_clip": None, "minibatch_size": 1024, "network": (8, 8)}
    assert resolve(ppo.Settings, as_text) == ppo.Settings(**as_values)


# The objective, by hand, on four rows.

# Ratios 1.5, 0.5, 0.9, 3 against advantages 1, −2, 1, −1:    clipped at ±0.2   1.2, −1.6, 0.9, −3    mean −0.625
# ½ error² of the values 1, 2, 0, 4 against 0, 2, 2, 0:                         0.5, 0, 2, 8          mean  2.625
# entropies                                                                     0.1, 0.2, 0.3, 0.4    mean  0.25
POLICY, CRITIC, ENTROPY = -0.625, 2.625, 0.25


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


@pytest.fixture
def said() -> Evaluation:
    return Evaluation(column(1.5, 0.5, 0.9, 3.0).log() - 1.0, column(0.1, 0.2, 0.3, 0.4), column(1.0, 2.0, 0.0, 4.0))


@pytest.fixture
def batch() -> Batch:
    mask = torch.ones(4, 1, dtype=torch.bool)
    columns = {
        "advantages": column(1.0, -2.0, 1.0, -1.0),
        "returns": column(0.0, 2.0, 2.0, 0.0),
        "values_old": column(0.5, 0.0, 0.0, 1.0),
        "logp_old": column(0.0, 0.0, 0.0, 0.0) - 1.0,
    }
    return Batch.of_rows({"observation": column(0, 0, 0, 0)}, column(0, 0, 0, 0), mask, **columns)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"vf_coef": 0.0}, POLICY),
        ({"vf_coef": 0.4}, POLICY - 0.4 * CRITIC),
        ({"vf_coef": 0.4, "ent_coef": 0.2}, POLICY - 0.4 * CRITIC + 0.2 * ENTROPY),
        ({"vf_coef": 0.0, "eps_high": 0.6}, POLICY + (1.5 - 1.2) / 4),
        ({"vf_coef": 0.0, "eps_low": 0.6}, POLICY + (1.6 - 1.0) / 4),
        ({"vf_coef": 0.0, "dual_clip": 2.0}, POLICY + (3.0 - 2.0) / 4),
        # Values held within 0.5 of the old ones: 1, 0.5, 0, 1.5; their ½ error²: 0.5, 1.125, 2, 1.125.
        ({"vf_coef": 1.0, "value_clip": 0.5}, POLICY - (0.5 + 1.125 + 2.0 + 8.0) / 4),
        ({"vf_coef": 1.0, "value_clip": 0.5, "numerics": "sb3"}, POLICY - (0.5 + 1.125 + 2.0 + 1.125) / 4),
    ],
)
def test_the_objective_by_hand(said: Evaluation, batch: Batch, settings: dict[str, Any], expected: float) -> None:
    assert float(ppo.objective(said, batch, ppo.Settings(**settings))) == pytest.approx(expected, abs=1e-12)


def test_a_micro_batch_adds_its_share(said: Evaluation, batch: Batch) -> None:
    now = ppo.Settings(ent_coef=0.2)
    parts = [slice(0, 1), slice(1, 4)]
    shares = [
        ppo.objective(Evaluation(said.logp[rows], said.entropy[rows], said.values[rows]), batch.rows(rows), now)
        for rows in parts
    ]
    assert float(sum(shares)) == pytest.approx(float(ppo.objective(said, batch, now)), abs=1e-12)


def test_advantages_are_normalised_in_the_minibatch(batch: Batch) -> None:
    two = batch.rows(slice(0, 2)).replace(advantages=column(1.0, 3.0))
    assert ppo.normalized(two, ppo.Settings()).advantages.tolist() == [[pytest.approx(-1)], [pytest.approx(1)]]
    spread = [[pytest.approx(-math.sqrt(0.5))], [pytest.approx(math.sqrt(0.5))]]
    assert ppo.normalized(two, ppo.Settings(numerics="sb3")).advantages.tolist() == spread
    assert ppo.normalized(two, ppo.Settings(normalize_advantages=False)) is two


def test_a_lone_or_equal_advantage_has_no_spread(batch: Batch) -> None:
    lone = batch.rows(slice(1, 2))
    assert ppo.normalized(lone, ppo.Settings()).advantages.tolist() == [[0.0]]
    assert ppo.normalized(lone, ppo.Settings(numerics="sb3")) is lone
    equal = batch.replace(advantages=column(7.1, 7.1, 7.1, 7.1))
    for numerics in ("advantage", "sb3"):
        assert not ppo.normalized(equal, ppo.Settings(numerics=numerics)).advantages.any()


def test_the_kl_that_stops_an_update(batch: Batch) -> None:
    twice = Evaluation(batch.logp_old + math.log(2.0))  # KL = ρ − 1 − log ρ = 1 − log 2
    kl = 1.0 - math.log(2.0)
    assert ppo.within_target_kl(ppo.Settings()) is None
    assert ppo.within_target_kl(ppo.Settings(target_kl=1.01 * kl / 1.5))(twice, batch)
    assert not ppo.within_target_kl(ppo.Settings(target_kl=0.99 * kl / 1.5))(twice, batch)


# What reaches what: `train` itself, in environments whose returns are known.


def trained(target: Any, updates: int = 1, **settings: Any) -> MemoryRun:
    run = MemoryRun(updates)
    ppo.train(target, ppo.Settings(**SMALL | settings), run)
    return run


def test_gamma_and_lambda_reach_the_estimate() -> None:
    two_steps = functools.partial(Salary, 2, terminates=True)
    only_reward = trained(two_steps, gamma=0.0, gae_lambda=0.9).logged[0]
    assert abs(only_reward["train/value_mean"]) > 0.1
    assert only_reward["train/return_mean"] == pytest.approx(1.0)
    whole_return = trained(two_steps, gamma=0.5, gae_lambda=1.0).logged[0]
    assert whole_return["train/return_mean"] == pytest.approx((1.5 + 1.0) / 2)  # the critic has no say
    run = trained(two_steps, gamma=0.5, gae_lambda=0.0)
    (rollout,) = run.rollouts
    assert rollout.rewards is not None and rollout.next_values is not None
    one_step = rollout.rewards + 0.5 * rollout.next_values.where(~rollout.terminated, 0.0)
    assert run.logged[0]["train/return_mean"] == pytest.approx(float(one_step.mean()))


@pytest.mark.parametrize(("numerics", "left"), [("advantage", [1.0, 0.75, 0.5, 0.25]), ("sb3", [0.75, 0.5, 0.25, 0.0])])
def test_schedules_fall_over_the_budget(numerics: str, left: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    right = ppo.objective

    def watched(new: Evaluation, batch: Batch, now: ppo.Settings) -> torch.Tensor:
        seen.append([now.learning_rate, now.eps_low, now.eps_high, now.ent_coef, now.vf_coef])
        return right(new, batch, now)

    monkeypatch.setattr(ppo, "objective", watched)
    schedules = {"learning_rate": "lin_1e-3", "eps_low": "lin_0.2", "eps_high": "lin_0.4", "ent_coef": "lin_0.1"}
    run = trained(lambda: Salary(5), 4, **schedules, steps=128, vf_coef=0.7, minibatch_size=32, numerics=numerics)
    assert seen[::2] == [pytest.approx([1e-3 * r, 0.2 * r, 0.4 * r, 0.1 * r, 0.7]) for r in left]
    assert [row["train/learning_rate"] for row in run.logged] == pytest.approx([1e-3 * r for r in left])


def test_a_schedule_never_falls_below_zero() -> None:
    run = trained(lambda: Salary(5), 3, learning_rate="lin_1e-3", steps=80, numerics="sb3")
    assert [row["train/learning_rate"] for row in run.logged] == pytest.approx([1e-3 * 0.6, 1e-3 * 0.2, 0.0])


@pytest.fixture
def rows_asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each batch that the objective was asked for."""
    rows: list[int] = []
    right = ppo.objective
    monkeypatch.setattr(ppo, "objective", lambda new, batch, now: rows.append(len(batch)) or right(new, batch, now))
    return rows


def test_every_row_is_trained_on_in_every_epoch(rows_asked: list[int]) -> None:
    assert trained(lambda: Salary(5)).logged[0]["train/minibatches"] == 6
    assert rows_asked == [12, 12, 8] * 2


def test_an_update_stops_for_good_at_the_target_kl(rows_asked: list[int]) -> None:
    """The first minibatch has a KL of 0 and is stepped; the second has one above any target as small as this."""
    (row,) = trained(functools.partial(Echo, spaces.Box(-1, 1, (2,)), spaces.Discrete(3)), target_kl=1e-12).logged
    assert (row["train/minibatches"], row["train/stopped_early"]) == (1, 1)
    assert rows_asked == [12, 12]


def test_micro_batches_change_nothing_but_rounding() -> None:
    target = functools.partial(Echo, spaces.Box(-1, 1, (2,)), spaces.Discrete(3))
    whole, parts = trained(target, 2), trained(target, 2, micro_batch=5)
    for name, parameter in whole.kept["policy"].named_parameters():
        torch.testing.assert_close(parameter, parts.kept["policy"].get_parameter(name), rtol=1e-4, atol=1e-6)


def test_forbidden_actions_are_never_taken_nor_praised() -> None:
    masks = [[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 1, 0]]
    run = trained(functools.partial(Masked, masks), 2)
    for rollout in run.rollouts:
        allowed = rollout.context["action_mask"].gather(-1, rollout.actions[..., None])
        assert allowed.all() and torch.isfinite(rollout.logp_old).all()
        assert not rollout.context["action_mask"].all()
        alone = rollout.context["action_mask"].sum(-1) == 1
        assert (rollout.logp_old[alone] == 0).all()


# From one end to the other, two updates each.

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
PARTS = spaces.Dict(where=BOX, what=spaces.Discrete(3, start=2), flags=spaces.MultiBinary(2))
ACTIONS = spaces.Tuple((spaces.Discrete(2), spaces.Box(-2.0, 1.0, (2,), np.float32), spaces.MultiDiscrete([2, 3])))


def masked() -> gym.Env[Any, Any]:
    return gym.wrappers.TransformReward(Masked([[1, 0, 1], [0, 1, 0], [1, 1, 1]]), lambda _: 1.0)


CONSTRUCTORS = [functools.partial(gym.make, "CartPole-v1", max_episode_steps=limit) for limit in (7, 30)]
ENDS_TO_END: dict[str, tuple[Any, dict[str, Any]]] = {
    "an id": ("CartPole-v1", {}),
    "action masks": (masked, {}),
    "Dict observation": (functools.partial(Echo, PARTS, spaces.Discrete(2)), {}),
    "Tuple action": (functools.partial(Echo, BOX, ACTIONS), {}),
    "Dict action": (functools.partial(Echo, BOX, spaces.Dict(a=spaces.Discrete(2), b=BOX)), {}),
    "Discrete from -1": (functools.partial(Echo, spaces.Discrete(3, start=5), spaces.Discrete(3, start=-1)), {}),
    "MultiDiscrete": (functools.partial(Echo, BOX, spaces.MultiDiscrete([2, 3])), {}),
    "MultiBinary": (functools.partial(Echo, BOX, spaces.MultiBinary((2, 2))), {}),
    "Box": ("Pendulum-v1", {}),
    "Box, rescaled": ("Pendulum-v1", {"action_bounds": "rescale"}),
    "Box, spread of the state": ("Pendulum-v1", {"state_dependent_std": True, "log_std_init": -0.5}),
    "everything normalised": ("CartPole-v1", {"normalize_observations": True, "normalize_rewards": True}),
    "advantages raw": ("CartPole-v1", {"normalize_advantages": False}),
    "value clip": ("CartPole-v1", {"value_clip": 0.2}),
    "target KL": ("CartPole-v1", {"target_kl": 0.01}),
    "dual clip": ("CartPole-v1", {"dual_clip": 3.0}),
    "shared trunk": ("CartPole-v1", {"share_trunk": True}),
    "layer norm": ("CartPole-v1", {"layer_norm": True, "activation": "silu"}),
    "no hidden layer": ("CartPole-v1", {"network": ()}),
    "micro-batches": ("CartPole-v1", {"micro_batch": 5}),
    "sb3": ("CartPole-v1", {"numerics": "sb3"}),
    "environment arguments": ("FrozenLake-v1", {"env_args": {"is_slippery": False}}),
    "processes": ("CartPole-v1", {"vectorization": "async"}),
    "an instance": (Echo(BOX, spaces.Discrete(2)), {"num_envs": 1, "num_steps": 32}),
    "a constructor": (functools.partial(Salary, 5), {}),
    "constructors": (CONSTRUCTORS, {}),
}


@pytest.mark.parametrize("case", ENDS_TO_END)
def test_from_one_end_to_the_other(case: str, tmp_path: Path) -> None:
    target, settings = ENDS_TO_END[case]
    run = advantage.train("ppo", target, run_dir=tmp_path / "run", quiet=True, **SMALL | settings)
    metrics = run.metrics()
    assert run.reader.status()["state"] == "finished" and run.reader.status()["steps"] >= 64
    assert len(metrics["train/first_ratio_error"]) >= 2
    assert metrics["train/first_ratio_error"].max() < 1e-5
    assert metrics["train/gradient_norm"].min() > 0
    policy = run.policy
    policy.observation_space.seed(0)
    observation = policy.observation_space.sample()
    mask = np.array([0, 1, 1]) if case == "action masks" else None
    assert policy.action_space.contains(policy.act(observation, action_mask=mask))
    assert policy.action_space.contains(policy.act(observation, deterministic=False, action_mask=mask))
    assert math.isfinite(policy.value(observation))
    assert len(run.evaluate(episodes=3).returns) == 3


def test_evaluations_are_held_out(tmp_path: Path) -> None:
    run = advantage.train(
        "ppo", "CartPole-v1", run_dir=tmp_path / "run", quiet=True, eval_every=1, eval_episodes=2, **SMALL
    )
    assert np.isfinite(run.metrics()["eval/mean_reward"]).all() and (tmp_path / "run" / "best").is_dir()
    alone = advantage.train("ppo", "CartPole-v1", run_dir=tmp_path / "alone", quiet=True, **SMALL)
    same = [name for name in alone.metrics() if name.startswith(("train/", "rollout/"))]
    for name in same:
        np.testing.assert_array_equal(run.metrics()[name], alone.metrics()[name])


def test_a_list_of_constructors_is_evaluated_in_all_of_them(tmp_path: Path) -> None:
    asked = {"eval_every": 1, "eval_episodes": 1}
    run = advantage.train("ppo", CONSTRUCTORS, run_dir=tmp_path / "run", quiet=True, **SMALL | asked)
    assert run.metrics()["eval/mean_ep_length"].max() <= 7  # one episode is owed: the first environment's


def test_an_instance_cannot_be_evaluated_while_it_is_trained_in(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="cannot be evaluated beside its training; give its constructor, or eval_every=0"
    ):
        advantage.train(
            "ppo",
            Echo(BOX, BOX),
            run_dir=tmp_path / "run",
            quiet=True,
            **SMALL | {"num_envs": 1, "minibatch_size": 8, "eval_every": 8},
        )
    assert not (tmp_path / "run").exists()


# Learning.


def value_of_a_salary() -> float:
    run = MemoryRun(59)
    large = {"minibatch_size": 1024, "epochs": 4, "learning_rate": "lin_1e-2", "network": (16,)}
    ppo.train(functools.partial(Salary, 13), ppo.Settings(steps=59 * 1024, gamma=0.9, **large), run)
    with torch.no_grad():
        return float(run.kept["policy"].value({"observation": torch.ones(1, 1)}))


def test_a_time_limit_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward 1 for ever is worth 1/(1 − 0.9) = 10, and a limit after 13 steps takes nothing of it; an end would."""
    assert value_of_a_salary() == pytest.approx(10.0, rel=0.03)
    right = ppo.estimate

    def limits_as_ends(rollout: Any, *how: Any) -> Any:
        return right(rollout.replace(terminated=rollout.terminated | rollout.truncated), *how)

    monkeypatch.setattr(ppo, "estimate", limits_as_ends)
    assert value_of_a_salary() < 6.0


@pytest.mark.slow
def test_cartpole_is_solved(tmp_path: Path) -> None:
    """At least 475 as the mean of 100 episodes, after 100,000 steps, for 5 seeds of 5.

    If 45 % of all seeds failed, five would succeed with a probability of 0.55⁵ = 5 %: five successes say with 95 %
    confidence that at least 55 % of the seeds reach it.
    """
    scores = []
    for seed in range(5):
        run = advantage.train("ppo", "CartPole-v1", seed=seed, run_dir=tmp_path / str(seed), quiet=True, steps=100_000)
        scores.append(run.evaluate(episodes=100, seed=1000 + seed).mean)
    print(f"CartPole-v1, means of 100 episodes: {scores}")
    assert min(scores) >= 475


def test_a_smaller_last_minibatch_is_said(tmp_path: Path) -> None:
    sizes = {"num_envs": 2, "num_steps": 50}
    run = advantage.train(
        "ppo", "CartPole-v1", steps=100, run_dir=tmp_path / "r", quiet=True, minibatch_size=64, **sizes
    )
    assert "last minibatch has 36 rows, not 64" in " ".join(event["text"] for event in run.reader.events())
