"""The benchmarks beside peers: our settings in their words, the episodes that both play, the rows that are printed."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy

from advantage.algorithms import module
from advantage.errors import UserError
from advantage.planning import plan
from benchmarks import peers, returns, speed
from tests.algorithms import test_a2c_parity, test_ppo_parity, test_trpo_parity

BOX = gym.spaces.Box(-1.0, 1.0, (3,))


def settings_of(algorithm: str, **given: Any) -> Any:
    return plan(algorithm, "CartPole-v1", 0, given).settings


def parameters(kind: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(kind.__init__).parameters)


def library(algorithm: str) -> Any:
    package, name = peers.PEERS[algorithm]
    return getattr(importlib.import_module(package), name)


@pytest.mark.parametrize("algorithm", peers.PEERS)
def test_every_word_is_a_parameter_of_theirs(algorithm: str) -> None:
    assert set(peers.WORDS[algorithm].values()) <= set(parameters(library(algorithm)))
    policy = DQNPolicy if algorithm == "dqn" else ActorCriticPolicy
    assert {*peers.POLICY[algorithm].values(), "optimizer_class", "optimizer_kwargs"} <= set(parameters(policy))
    assert set(peers.NORMALIZE.values()) <= set(parameters(VecNormalize))


@pytest.mark.parametrize("algorithm", peers.PEERS)
def test_every_parameter_of_theirs_is_said_or_known(algorithm: str) -> None:
    """What stays at their default is what has no part here: noise of the state, logs, buffers of another kind."""
    left = set(parameters(library(algorithm))) - {*peers.constructor(algorithm, settings_of(algorithm))}
    known = {"self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "stats_window_size"}
    known |= {"_init_setup_model", "use_sde", "sde_sample_freq", "sub_sampling_factor", "optimize_memory_usage"}
    known |= {f"{kind}_buffer_{what}" for kind in ("rollout", "replay") for what in ("class", "kwargs")}
    assert left - known == ({"rms_prop_eps"} if algorithm == "a2c" else set())


@pytest.mark.parametrize("algorithm", peers.PEERS)
def test_every_word_is_a_setting_of_ours(algorithm: str) -> None:
    names = {field.name for field in module(algorithm).Settings.__dataclass_fields__.values()}
    assert {*peers.WORDS[algorithm], *peers.POLICY[algorithm]} <= names


def plain(value: Any) -> Any:
    """A schedule as its values along the way."""
    return [value(left) for left in (1.0, 0.3, 0.0)] if isinstance(value, LinearSchedule) else value


def assert_same(mine: dict[str, Any], proven: dict[str, Any]) -> None:
    policy = proven.pop("policy_kwargs")
    del proven["policy"]
    assert {name: plain(mine[name]) for name in proven} == {name: plain(value) for name, value in proven.items()}
    assert {name: mine["policy_kwargs"][name] for name in policy} == policy


@pytest.mark.parametrize("variation", sorted(set(test_ppo_parity.VARIATIONS) - {"shared trunk"}))
def test_ppo_is_called_as_where_its_updates_are_equal(variation: str) -> None:
    settings = module("ppo").Settings(**test_ppo_parity.PLAIN | test_ppo_parity.VARIATIONS[variation])
    proven = test_ppo_parity.translated(settings, BOX) | test_ppo_parity.of_ppo(settings)
    assert_same(peers.constructor("ppo", settings), proven)


@pytest.mark.parametrize("variation", sorted(set(test_a2c_parity.VARIATIONS) - {"shared trunk"}))
def test_a2c_is_called_as_where_its_updates_are_equal(variation: str) -> None:
    settings = module("a2c").Settings(**test_a2c_parity.PLAIN | test_a2c_parity.VARIATIONS[variation])
    proven = test_a2c_parity.in_their_words(settings, BOX)
    proven["policy_kwargs"].get("optimizer_kwargs", {}).pop("weight_decay", None)  # 0, torch's default too
    assert_same(peers.constructor("a2c", settings), proven | {"use_rms_prop": False})


def test_trpo_is_called_as_where_its_updates_are_equal() -> None:
    settings = module("trpo").Settings(**test_trpo_parity.PLAIN)
    assert_same(peers.constructor("trpo", settings), test_trpo_parity.translated(settings, BOX))


@pytest.mark.parametrize("algorithm", peers.PEERS)
def test_theirs_is_what_was_asked_for(algorithm: str) -> None:
    settings = settings_of(algorithm, num_envs=4, gamma=0.9, adam_eps=1e-3, network=(7, 5), activation="relu")
    model = peers.make(algorithm, "CartPole-v1", settings, seed=4)
    kinds = {"a2c": torch.optim.RMSprop}
    (group,) = model.policy.optimizer.param_groups
    assert type(model.policy.optimizer) is kinds.get(algorithm, torch.optim.Adam) and group["eps"] == 1e-3
    assert (model.n_envs, model.gamma, model.seed) == (4, 0.9, 4)
    sizes = [layer.out_features for layer in model.policy.modules() if isinstance(layer, torch.nn.Linear)]
    assert sizes[:2] == [7, 5] and any(isinstance(layer, torch.nn.ReLU) for layer in model.policy.modules())


def test_normalisation_is_wrapped_around_their_environments() -> None:
    settings = settings_of("ppo", normalize_rewards=True, reward_clip=3.0, observation_clip=4.0, gamma=0.9)
    envs = peers.make("ppo", "CartPole-v1", settings, seed=0).get_vec_normalize_env()
    assert (envs.norm_obs, envs.norm_reward) == (False, True)
    assert (envs.clip_obs, envs.clip_reward, envs.gamma) == (4.0, 3.0, 0.9)
    assert peers.make("ppo", "CartPole-v1", settings_of("ppo"), seed=0).get_vec_normalize_env() is None


@pytest.mark.parametrize(
    ("algorithm", "given", "told"),
    [
        ("ppo", {"dual_clip": 3.0}, "dual_clip is 3.0"),
        ("ppo", {"eps_high": "lin_0.28"}, "one clip_range"),
        ("ppo", {"ent_coef": "lin_0.01"}, "takes a number"),
        ("ppo", {"learning_rate": "cos_1e-3"}, "has no word"),
        ("a2c", {"share_trunk": True}, "share_trunk is True"),
        ("trpo", {"step": "natural"}, "step is 'natural'"),
        ("trpo", {"max_grad_norm": 1.0}, "max_grad_norm is 1.0"),
    ],
)
def test_what_theirs_cannot_have_is_refused(algorithm: str, given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        peers.check(algorithm, settings_of(algorithm, **given))


def leaning(observations: np.ndarray) -> np.ndarray:
    return (observations[:, 2] + observations[:, 3] > 0).astype(int)


def test_episodes_side_by_side_are_the_episodes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returns, "EPISODES", 5)
    alone = []
    for seed in range(returns.FIRST_SEED, returns.FIRST_SEED + 5):
        env, total, going = gym.make("CartPole-v1"), 0.0, True
        seen = env.reset(seed=seed)[0]
        while going:
            seen, reward, terminated, truncated, _ = env.step(int(leaning(seen[None])[0]))
            total, going = total + float(reward), not (terminated or truncated)
        alone.append(total)
    assert returns.play(leaning, "CartPole-v1", {}).tolist() == alone and len(set(alone)) > 1


def of_means(*means: float) -> list[dict[str, Any]]:
    return [{"steps": 1, "returns": [mean - 1.0, mean + 1.0]} for mean in means]


def test_a_row_says_what_both_earned() -> None:
    case = returns.planned("ppo CartPole-v1", 4000)
    cells = returns.row(case, of_means(9.0, 1.0, 2.0, 3.0, 4.0), of_means(0.5, 3.5, 0.0, 0.0, 0.0)).split(" | ")
    assert cells[:3] == ["| ppo CartPole-v1", "4,000", "5"]
    assert cells[3:5] == ["9.0, 1.0, 2.0, 3.0, 4.0", "0.5, 3.5, 0.0, 0.0, 0.0"]
    assert cells[5].startswith("3.0 [") and cells[6].startswith("0.2 [")
    assert cells[7].startswith("0.88 [")  # 22 of the 25 pairs
    assert returns.row(case, of_means(2.0), of_means(1.0)).endswith(" | 2.0 | 1.0 | 2.0 | 1.0 | 1.00 |")


def test_other_settings_are_kept_apart() -> None:
    case = returns.planned("ppo CartPole-v1", None)
    assert case.folder == returns.planned("ppo CartPole-v1", case.settings.steps).folder
    assert case.folder != replace(case, settings=replace(case.settings, gamma=0.5)).folder


@pytest.mark.parametrize("side", returns.SIDES)
def test_a_run_is_kept_and_not_done_again(side: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returns, "EPISODES", 3)
    case = returns.planned("ppo CartPole-v1", 512)
    returns.run(side, case, 7, tmp_path)
    kept = json.loads(returns.result(tmp_path, side, case, 7).read_text())
    assert kept["steps"] >= 512 and len(kept["returns"]) == 3
    asked: list[Any] = []
    monkeypatch.setattr(returns, "work", lambda jobs, *_: asked.extend(jobs) or {})
    options = argparse.Namespace(seeds=8, workers=1, out=tmp_path)
    assert returns.beside([case], options) == 0
    assert len(asked) == 15 and not any(f"{side}, seed 7" in job.name for job in asked)


def test_a_child_trains_what_the_parent_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(returns, "run", lambda *given: heard.append(given))
    case = returns.planned("a2c CartPole-v1", 640)
    words = returns.words("theirs", case, 3, argparse.Namespace(out=tmp_path))
    monkeypatch.setattr("sys.argv", list(words[1:]))
    assert returns.main() == 0
    assert heard == [("theirs", case, 3, tmp_path)]


# What rl_zoo3 2.9.2 gives for the cases of the speed table, where their own default is another.
ZOO: dict[str, dict[str, Any]] = {
    "ppo CartPole-v1": {
        "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8,
        "learning_rate": [1e-3, 3e-4, 0.0], "clip_range": [0.2, 0.06, 0.0],
    },
    "ppo LunarLander-v3": {
        "n_steps": 1024, "batch_size": 64, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01,
    },
    "a2c CartPole-v1": {"use_rms_prop": False},  # and the same optimiser named in the policy
    "trpo CartPole-v1": {
        "n_steps": 512, "batch_size": 512, "cg_damping": 1e-3, "gae_lambda": 0.98, "n_critic_updates": 20,
    },
    "dqn CartPole-v1": {
        "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000, "gamma": 0.99,
        "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", speed.STEPS)
def test_speed_is_measured_with_the_settings_of_the_zoo(case: str) -> None:
    algorithm = case.split(maxsplit=1)[0]
    found = peers.constructor(algorithm, SimpleNamespace(**speed.resolved(case)))
    policy = found.pop("policy_kwargs")
    defaults = {name: parameter.default for name, parameter in parameters(library(algorithm)).items()}
    assert {name: pytest.approx(plain(value)) for name, value in found.items()} == {
        name: ZOO[case].get(name, defaults[name]) for name in found
    }
    assert policy["net_arch"] == ([256, 256] if algorithm == "dqn" else [64, 64])
    assert policy["optimizer_kwargs"]["eps"] == (1e-8 if algorithm == "dqn" else 1e-5)


@pytest.mark.parametrize("case", speed.STEPS)
def test_their_process_gets_all_settings_of_ours(case: str) -> None:
    """Through JSON: their memory is measured without our classes in it."""
    algorithm, given = case.split(maxsplit=1)[0], speed.resolved(case)
    again = SimpleNamespace(**json.loads(json.dumps(given)))
    mine, its = (peers.constructor(algorithm, one) for one in (module(algorithm).Settings(**given), again))
    assert {name: plain(value) for name, value in mine.items()} == {name: plain(value) for name, value in its.items()}
    assert given["steps"] == speed.STEPS[case]
