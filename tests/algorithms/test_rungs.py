"""Every rung of the ladder from one end to the other: spaces, networks, masks, bad settings, resume, what it says."""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import advantage
from advantage.algorithms import module
from advantage.cli import main
from advantage.errors import UserError
from advantage.runs.keys import definition
from advantage.settings import resolve
from advantage.trajectory import Rollout
from advantage.views.explain import explain, render
from advantage.views.report import write_report
from tests.algorithms.test_ppo import ENDS_TO_END, masked
from tests.control.scripted import Echo
from tests.test_resume import whole_and_killed

RUNGS: dict[str, dict[str, Any]] = {
    "reinforce": {"episodes": 3},
    "actor_critic_mc": {"episodes": 3},
    "actor_critic_td": {"num_steps": 8, "record_every": 1},
    "a2c": {"num_steps": 4, "record_every": 1},
    "ppo_penalty": {"num_steps": 16, "minibatch_size": 12, "epochs": 2},
}
SMALL: dict[str, Any] = {"num_envs": 2, "network": (16,), "steps": 64}
OF_PPO = ("value clip", "target KL", "dual clip")
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "R(τ)": ("reinforce", {"psi": "trajectory"}),
    "running mean": ("reinforce", {"baseline": "running_mean"}),
    "V": ("reinforce", {"baseline": "value", "discount_from_start": True, "normalize_advantages": True}),
    "one mean for all": ("actor_critic_mc", {"baseline": "running_mean"}),
    "no scales": ("actor_critic_mc", {"normalize_returns": False, "normalize_advantages": False}),
    "Q": ("actor_critic_td", {"critic": "q", "share_trunk": True}),
    "Q − V": ("actor_critic_td", {"critic": "q_minus_v", "critic_target": "lambda_return"}),
    "returns for the critic": ("actor_critic_td", {"critic_target": "return"}),
    "λ": ("a2c", {"gae_lambda": 0.9, "critic_target": "td", "optimizer": "rmsprop_tf"}),
    "Adam": ("a2c", {"optimizer": "adam", "micro_batch": 3}),
    "a high price": ("ppo_penalty", {"beta": 50.0, "ent_coef": 0.01}),
}
ONE_WAY = ("an id", "layer norm", "no hidden layer", "sb3", "environment arguments", "processes", "constructors")
CASES = [case for case in ENDS_TO_END if case not in OF_PPO]
ONE_A_RUNG = [(name, case) for name in RUNGS for case in CASES if name in ("reinforce", "a2c") or case not in ONE_WAY]


def trained(name: str, target: Any, path: Path, **settings: Any) -> advantage.Run:
    return advantage.train(name, target, run_dir=path, quiet=True, **{**SMALL, **RUNGS[name], **settings})


def check(run: advantage.Run, mask: Any = None) -> None:
    """It ran to its end, left numbers with a meaning, and acts."""
    metrics, status = run.metrics(), run.reader.status()
    assert status["state"] == "finished" and status["steps"] >= 64
    if run.reader.config["algorithm"] != "a2c":  # which never scores what it did
        assert metrics["train/first_ratio_error"].max() < 1e-5
    assert np.isfinite(metrics["train/policy_gradient_loss"]).all()
    assert [name for name in metrics if "/" in name and definition(name) == ("", "")] == []
    policy = run.policy
    policy.observation_space.seed(0)
    observation = policy.observation_space.sample()
    assert policy.action_space.contains(policy.act(observation, action_mask=mask))
    assert math.isfinite(policy.value(observation))


@pytest.mark.parametrize(("name", "case"), ONE_A_RUNG)
def test_from_one_end_to_the_other(name: str, case: str, tmp_path: Path) -> None:
    target, settings = ENDS_TO_END[case]
    own = {"num_envs": 1} if isinstance(target, Echo) else {}
    given = {key: value for key, value in settings.items() if key not in ("num_steps", "num_envs")}
    run = trained(name, target, tmp_path / "run", **given | own)
    check(run, np.array([0, 1, 1]) if case == "action masks" else None)


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str, tmp_path: Path) -> None:
    name, settings = FORMS[form]
    run = trained(name, "CartPole-v1", tmp_path / "run", **settings)
    check(run)
    found = explain(run.path)
    assert {"reward", "weight", "policy gradient"} < {rung.name for rung in found.rungs} or name in (
        "a2c",
        "ppo_penalty",
    )


def test_q_with_masks(tmp_path: Path) -> None:
    run = trained("actor_critic_td", masked, tmp_path / "run", critic="q_minus_v")
    check(run, np.array([0, 1, 1]))


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("reinforce", {"psi": "q"}, "psi is 'q'; it must be one of trajectory, reward_to_go"),
        ("reinforce", {"episodes": 0}, "episodes is 0; it must be at least 1"),
        ("reinforce", {"psi": "trajectory", "discount_from_start": True}, "give psi=reward_to_go"),
        ("reinforce", {"num_steps": 5}, "there is no setting 'num_steps'"),
        ("reinforce", {"num_episodes": 5}, "num_episodes is called episodes here"),
        ("actor_critic_mc", {"baseline": "none"}, "baseline is 'none'; it must be one of running_mean, value"),
        ("actor_critic_td", {"n_step": 0}, "n_step is 0; it must be at least 1"),
        ("actor_critic_td", {"critic": "a"}, "critic is 'a'; it must be one of v, q, q_minus_v"),
        ("actor_critic_td", {"n_steps": 5}, "n_steps is called num_steps here"),
        ("a2c", {"optimizer": "sgd"}, "optimizer is 'sgd'; it must be one of rmsprop, rmsprop_tf, adam"),
        ("a2c", {"rms_alpha": 2}, "rms_alpha is 2.0; it must be in 0 … 1"),
        ("a2c", {"use_rms_prop": True}, "use_rms_prop is called optimizer here"),
        ("a2c", {"critic_target": "n_step"}, "critic_target is 'n_step'; it must be one of lambda_return, return, td"),
        ("a2c", {"record_every": 0}, "record_every is 0; it must be at least 1"),
        ("ppo_penalty", {"beta": 0}, "beta is 0.0; it must be above 0"),
        ("ppo_penalty", {"target_kl": 0}, "target_kl is 0.0; it must be above 0"),
        ("ppo_penalty", {"target_kl": "none"}, "target_kl is 'none'; it must be a number"),
        ("ppo_penalty", {"eps_low": 0.2}, "there is no setting 'eps_low'"),
        ("ppo_penalty", {"minibatch_size": 5000}, "a rollout has num_envs × num_steps = 1024 steps"),
    ],
)
def test_what_cannot_be_is_refused(name: str, given: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(module(name).Settings, given)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_q_of_continuous_actions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    code = main(["train", "actor_critic_td", "Pendulum-v1", "--set", "critic=q", "--run-dir", str(path)])
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1 and "Discrete" in said and not path.exists()


# --- metrics now and then ---


def test_every_tenth_update_leaves_a_row_and_the_last(tmp_path: Path) -> None:
    runs = [
        trained("a2c", "CartPole-v1", tmp_path / str(every), steps=23 * 8, record_every=every, checkpoint_every=0)
        for every in (1, 10)
    ]
    all_rows, some = (run.metrics() for run in runs)
    assert some["update"].tolist() == [1, 11, 21, all_rows["update"][-1]]
    chosen = np.isin(all_rows["update"], some["update"])
    for name in ("env_steps", "rollout/ep_rew_mean", "time/total_timesteps"):
        np.testing.assert_array_equal(all_rows[name][chosen], some[name])
    np.testing.assert_array_equal(all_rows["train/value_loss"][chosen][:3], some["train/value_loss"][:3])
    assert runs[0].reader.episodes()["return"].tolist() == runs[1].reader.episodes()["return"].tolist()
    one, other = ((run.path / "policy" / "policy.safetensors").read_bytes() for run in runs)
    assert one == other
    assert advantage.views.doctor.diagnose(runs[1].path).update == all_rows["update"][-1]


def test_a_resumed_run_leaves_the_rows_of_one_that_was_not(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e-3, "record_every": 4, "checkpoint_every": 0}
    whole = trained("a2c", "CartPole-v1", tmp_path / "whole", steps=240, **settings)
    parts = trained("a2c", "CartPole-v1", tmp_path / "parts", steps=104, **settings)
    parts = advantage.resume(parts.path, steps=240, quiet=True)
    kept = np.isin(parts.metrics()["update"], whole.metrics()["update"])  # the first part's last update has a row too
    for name in ("update", "train/value_loss", "rollout/ep_rew_mean"):
        np.testing.assert_array_equal(whole.metrics()[name], parts.metrics()[name][kept])
    one, other = ((run.path / "policy" / "policy.safetensors").read_bytes() for run in (whole, parts))
    assert one == other


STATEFUL: dict[str, dict[str, Any]] = {
    "reinforce": {"baseline": "running_mean"},
    "actor_critic_mc": {},
    "actor_critic_td": {},
    "a2c": {"normalize_observations": True, "normalize_rewards": True},
    "ppo_penalty": {"target_kl": 1e-4},
}


@pytest.mark.parametrize("name", STATEFUL)
def test_what_a_rung_keeps_is_all_that_it_needs(name: str, tmp_path: Path) -> None:
    """A run in two parts leaves the bytes of one in one part: baselines, scales and prices go on where they stood."""
    settings = {"learning_rate": 1e-3, "checkpoint_every": 0, **STATEFUL[name]}
    whole = trained(name, "CartPole-v1", tmp_path / "whole", steps=400, **settings)
    parts = trained(name, "CartPole-v1", tmp_path / "parts", steps=200, **settings)
    parts = advantage.resume(parts.path, steps=400, quiet=True)
    for file in sorted((whole.path / "policy").glob("*.safetensors")):
        assert file.read_bytes() == (parts.path / "policy" / file.name).read_bytes()


def command(name: str, path: Path) -> list[str]:
    options = ["--steps", "6000", "--checkpoint-every", "0", "--quiet", "--seed", "3", "--run-dir", str(path)]
    given = {**SMALL, **RUNGS[name], **STATEFUL[name], "network": "16"}
    del given["steps"]
    pairs = [word for key, value in given.items() for word in ("--set", f"{key}={value}".replace("True", "true"))]
    return [sys.executable, "-m", "advantage.cli", "train", name, "CartPole-v1", *options, *pairs]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in STATEFUL])
def test_sigkill_and_resume_leave_identical_bytes(name: str, tmp_path: Path) -> None:
    whole_and_killed(lambda run: command(name, run), tmp_path)


# --- explain ---


def run_of(name: str, path: Path, **settings: Any) -> tuple[advantage.Run, Rollout]:
    run = trained(name, "CartPole-v1", path, steps=300, **settings)
    return run, Rollout(**run.reader.rollout()[0])


@pytest.mark.parametrize("name", RUNGS)
def test_shares_of_the_gradient_sum_to_one_and_the_weight_is_the_algorithm_s(name: str, tmp_path: Path) -> None:
    run, rollout = run_of(name, tmp_path / "run", normalize_advantages=False)
    settings, algorithm = resolve(module(name).Settings, run.reader.config["settings"]), module(name)
    shares = []
    for stream, step in rollout.mask.nonzero().tolist():
        rungs = {rung.name: rung for rung in explain(run.path, stream=stream, step=step).rungs}
        shares.append(rungs["share of the gradient"].value)
        if hasattr(algorithm, "credit"):
            psi, _ = algorithm.credit(rollout, settings)
            assert rungs["weight"].value == pytest.approx(float(psi[stream, step]), abs=1e-6)
        assert ("ratio" in rungs) == (name == "ppo_penalty")
        assert "clipped surrogate" not in rungs
    assert sum(shares) == pytest.approx(1.0, abs=1e-4)


def test_the_rungs_of_an_episode(tmp_path: Path) -> None:
    run, rollout = run_of("reinforce", tmp_path / "run", psi="trajectory", baseline="running_mean", gamma=0.9)
    stream = int(rollout.mask.sum(1).argmax())
    rungs = {rung.name: rung for rung in explain(run.path, stream=stream, step=2).rungs}
    rewards = rollout.rewards[stream][rollout.mask[stream]].tolist()
    whole = sum(0.9**t * reward for t, reward in enumerate(rewards))
    assert rungs["episode's return"].value == pytest.approx(whole, rel=1e-5)
    assert rungs["return"].value == pytest.approx(sum(0.9**t * r for t, r in enumerate(rewards[2:])), rel=1e-5)
    assert rungs["weight"].value == pytest.approx(whole - rungs["baseline"].value, rel=1e-5)
    assert rungs["baseline"].inputs == {} and "earlier" in rungs["baseline"].formula
    with pytest.raises(UserError, match="behind its episode's end"):
        explain(run.path, stream=int(rollout.mask.sum(1).argmin()), step=rollout.mask.shape[1] - 1)
    assert "R(τ)" in render(explain(run.path, stream=stream, step=2))


def test_the_price_of_the_kl_is_that_of_the_update(tmp_path: Path) -> None:
    run, _ = run_of("ppo_penalty", tmp_path / "run", target_kl=1e-5, learning_rate=1e-2)
    prices = run.metrics()["train/beta"]
    assert prices[-1] > prices[0]  # so small a target makes it double
    found = next(rung for rung in explain(run.path).rungs if rung.name == "price of the KL")
    assert found.inputs["β"] == prices[-1]


def test_schedules_are_read_where_the_update_began(tmp_path: Path) -> None:
    """An update's steps are more than its rollout's, where some were thrown away."""
    run, rollout = run_of("reinforce", tmp_path / "run", num_envs=3, ent_coef="lin_0.1")
    steps = run.metrics()["env_steps"]
    assert run.reader.rollout()[1]["began"] == (steps[-2] if len(steps) > 1 else 0)
    assert steps[-1] - run.reader.rollout()[1]["began"] > rollout.steps
    explain(run.path)


@pytest.mark.parametrize("name", RUNGS)
def test_doctor_and_report_read_every_rung(name: str, tmp_path: Path) -> None:
    run = trained(name, functools.partial(Echo, spaces.Box(-1, 1, (2,)), spaces.Discrete(2)), tmp_path / "run")
    assert advantage.views.doctor.diagnose(run.path).state == "finished"
    assert name in write_report(run.path).read_text(encoding="utf-8")


def test_nothing_non_finite_passes(tmp_path: Path) -> None:
    with pytest.raises(advantage.errors.RunFailed, match="objective"):
        trained("a2c", "CartPole-v1", tmp_path / "run", vf_coef=3e38, steps=4000, learning_rate=1e3)


# --- learning ---


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNGS)
def test_cartpole_is_learnt(name: str, tmp_path: Path) -> None:
    """With the tuned settings a seed reaches 475 as the mean of 100 deterministic episodes."""
    run = advantage.train(name, "CartPole-v1", seed=0, run_dir=tmp_path / "run", quiet=True)
    score = run.evaluate(episodes=100, seed=1000).mean
    print(f"{name}: {score}")
    assert score >= 475


def test_a_policy_that_is_loaded_knows_its_critic(tmp_path: Path) -> None:
    run = trained("actor_critic_td", "CartPole-v1", tmp_path / "run", critic="q")
    assert run.policy.network.value_head.out_features == 2
    assert torch.is_tensor(run.policy.network.value_head.weight)
