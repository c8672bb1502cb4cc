"""Five updates of A2C under `numerics="sb3"` give the parameters of Stable-Baselines3's A2C.

As test_ppo_parity.py: both libraries run their own loops, whole; ours begins with their weights and takes their
actions. An update is one step on all rows, so that no order of rows enters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from advantage.algorithms import a2c
from advantage.core.dialects import DIALECTS
from advantage.rmsprop import OPTIMIZERS, FlatRMSprop
from tests.algorithms.test_ppo_parity import (
    TOLERANCE,
    UPDATES,
    WORLDS,
    Replay,
    Story,
    constructors,
    difference,
    translated,
    weights_of,
)

PLAIN: dict[str, Any] = {
    "num_envs": 4,
    "num_steps": 5,
    "steps": 8 * 20,
    "learning_rate": 3e-3,
    "vf_coef": 1.0,
    "gamma": 0.97,
    "normalize_advantages": False,
    "numerics": "sb3",
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "long rollouts": {"num_steps": 40, "steps": 8 * 160},
    "TensorFlow's RMSprop": {"optimizer": "rmsprop_tf"},
    "Adam": {"optimizer": "adam"},
    "normalised": {"normalize_advantages": True},
    "λ": {"gae_lambda": 0.9, "num_steps": 16, "steps": 8 * 64},
    "entropy bonus": {"ent_coef": 0.02},
    "schedule": {"learning_rate": "lin_3e-3"},
    "one environment": {"num_envs": 1, "steps": 8 * 5},
    "shared trunk": {"share_trunk": True, "network": (32, 16)},
    "α and ε": {"rms_alpha": 0.9, "adam_eps": 1e-3},
}
CASES = [(world, variation) for world in ("CartPole", "Pendulum") for variation in VARIATIONS]
CASES += [(world, "plain") for world in WORLDS if world not in ("CartPole", "Pendulum")]


class Recorded(A2C):
    """Keeps its actions and its weights after each update."""

    def train(self) -> None:
        shape = (self.n_steps, self.n_envs, *self.action_space.shape)
        self.taken.append(self.rollout_buffer.actions.copy().reshape(shape))
        super().train()
        self.after.append(weights_of(self.policy))


@functools.cache
def theirs(world: str, variation: str) -> Story:
    """Learns for five updates of a budget of eight."""
    settings = a2c.Settings(**PLAIN | VARIATIONS[variation])
    envs = DummyVecEnv(constructors(world, settings))
    with torch.random.fork_rng():
        model = Recorded(env=envs, seed=0, device="cpu", **in_their_words(settings, envs.observation_space))
        model.taken, model.after = [], []
        before = weights_of(model.policy)
        model.learn(settings.steps, callback=lambda *_: len(model.after) < UPDATES)
    return Story(before, model.after, model.taken, len(model.after))


def in_their_words(settings: a2c.Settings, observation: gym.Space[Any]) -> dict[str, Any]:
    words = translated(settings, observation)
    if settings.optimizer == "rmsprop_tf":
        kind = {"alpha": settings.rms_alpha, "eps": settings.adam_eps}
        words["policy_kwargs"] |= {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": kind}
        words["use_rms_prop"] = False
    elif settings.optimizer == "adam":
        words["use_rms_prop"] = False
    elif settings.rms_alpha != 0.99:
        kind = {"alpha": settings.rms_alpha, "eps": settings.adam_eps, "weight_decay": 0}
        words["policy_kwargs"] |= {"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": kind}
        words["use_rms_prop"] = False
    return words


def ours(world: str, variation: str, **changes: Any) -> Replay:
    settings = a2c.Settings(**PLAIN | VARIATIONS[variation] | changes)
    run = Replay(theirs(world, variation))
    a2c.train(constructors(world, settings), settings, run)
    return run


@pytest.mark.parametrize(("world", "variation"), CASES)
def test_five_updates_give_the_same_parameters(world: str, variation: str) -> None:
    story, run = theirs(world, variation), ours(world, variation)
    assert len(story.after) == len(run.after) == UPDATES
    apart = [difference(mine, its) for mine, its in zip(run.after, story.after, strict=True)]
    moved = difference(story.after[-1], story.before)
    print(f"{world}, {variation}: {max(apart):.0e} after moves of {moved:.0e}")
    assert max(apart) < TOLERANCE and moved > 1e-3


def zero_start(monkeypatch: pytest.MonkeyPatch) -> None:
    right = OPTIMIZERS["rmsprop_tf"]

    def wrong(*arguments: Any) -> FlatRMSprop:
        made = right(*arguments)
        made._square.zero_()
        return made

    monkeypatch.setitem(OPTIMIZERS, "rmsprop_tf", wrong)


def other_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIALECTS, "sb3", DIALECTS["advantage"])


WRONG: dict[str, tuple[str, dict[str, Any], Callable[[pytest.MonkeyPatch], None] | None]] = {
    "½ in the value loss": ("plain", {"vf_coef": 0.5}, None),
    "ε under the root": ("plain", {"optimizer": "rmsprop_tf"}, None),
    "a mean square from 0": ("TensorFlow's RMSprop", {}, zero_start),
    "ddof 0": ("normalised", {}, other_moments),
    "λ of PPO": ("plain", {"gae_lambda": 0.95}, None),
    "a schedule before the rollout": ("schedule", {}, other_moments),
    "α": ("plain", {"rms_alpha": 0.9}, None),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_choice_shows(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variation, changes, plant = WRONG[wrong]
    if plant is not None:
        plant(monkeypatch)
    apart = difference(ours("CartPole", variation, **changes).after[-1], theirs("CartPole", variation).after[-1])
    print(f"{wrong}: {apart:.0e}")
    assert apart > 10 * TOLERANCE


@pytest.mark.parametrize("inside", [False, True])
def test_rmsprop_is_torch_s_and_tensorflow_s(inside: bool) -> None:
    def network() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))

    mine, its = network(), network()
    flat = FlatRMSprop(mine, 1e-2, 1e-5, alpha=0.95, inside=inside)
    reference = (RMSpropTFLike if inside else torch.optim.RMSprop)(its.parameters(), lr=1e-2, alpha=0.95, eps=1e-5)
    generator = torch.Generator().manual_seed(0)
    for index in range(60):
        x = torch.randn(8, 4, generator=generator)
        for module, optimizer in ((mine, flat), (its, reference)):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
        if index == 30:  # its state goes through a copy
            other = FlatRMSprop(mine, 1.0, 1e-5, alpha=0.95, inside=inside)
            other.restore(flat.state())
            flat = other
    for one, other_parameter in zip(mine.parameters(), its.parameters(), strict=True):
        torch.testing.assert_close(one, other_parameter, rtol=1e-5, atol=1e-7)
