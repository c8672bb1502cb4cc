"""Choices of the network: batch normalisation that a ratio survives, several critics, correlated actions."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

import advantage
from advantage.algorithms import ppo
from advantage.control.collect import collect
from advantage.control.layers import BatchNorm, learn_moments, settle_moments
from advantage.control.policy import ActorCritic, make_policy
from advantage.control.settings import Control
from advantage.core import value_loss
from advantage.errors import UserError
from advantage.trajectory import Batch
from tests.algorithms.memory_run import MemoryRun
from tests.control.scripted import Echo
from tests.control.worlds import Paid, world

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
SMALL: dict[str, Any] = {"num_envs": 2, "num_steps": 16, "minibatch_size": 12, "epochs": 2, "network": (16,)}
ECHO = functools.partial(Echo, BOX, BOX)


def network(action: spaces.Space[Any] = BOX, **settings: Any) -> ActorCritic:
    return make_policy(BOX, action, Control(**{"network": (16, 12)} | settings), 0)


def seen(rows: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, 3))).float()


# --- batch normalisation ---


def test_the_first_moments_are_the_rollout_s_and_later_ones_run() -> None:
    layer, first, second = BatchNorm(3), 5.0 + 2.0 * seen(400), seen(300, 1)
    layer.watching = True
    layer(first)
    assert not layer.mean.any(), "in force only when the next rollout begins"
    torch.testing.assert_close(layer.next_mean, first.mean(0))
    torch.testing.assert_close(layer.next_variance, first.var(0, correction=0))
    layer(second)
    torch.testing.assert_close(layer.next_mean, 0.9 * first.mean(0) + 0.1 * second.mean(0))
    layer.settle()
    layer.watching = False
    torch.testing.assert_close(layer.mean, layer.next_mean)


def test_it_normalises_by_what_is_in_force_and_then_scales() -> None:
    layer, rows = BatchNorm(3), 5.0 + 2.0 * seen(400)
    layer.watching = True
    layer(rows)
    layer.settle()
    layer.watching = False
    out = layer(rows)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    theirs = nn.BatchNorm1d(3).eval()
    theirs.running_mean, theirs.running_var = layer.mean, layer.variance
    torch.testing.assert_close(out, theirs(rows))
    torch.testing.assert_close(layer(rows[:1]), out[:1])  # whatever stands beside it


def test_only_decisions_count_and_a_policy_without_it_is_left_alone() -> None:
    policy = network(batch_norm=True)
    found = world([lambda: Paid(lambda _: (3, "truncated"))] * 2, mode="next_step", batch_norm=True)
    rollout = collect(*found, 12, np.random.default_rng(0))
    assert not rollout.mask.all()
    layer = next(layer for layer in found.policy.modules() if isinstance(layer, BatchNorm))
    inputs = found.policy.actor[0](rollout.context["observation"][rollout.mask])
    torch.testing.assert_close(layer.next_mean, inputs.mean(0).detach())
    assert not any(layer.watching for layer in policy.modules() if isinstance(layer, BatchNorm))
    settle_moments(object())
    learn_moments(object(), rollout)


@pytest.mark.parametrize("share_trunk", [False, True])
def test_acting_scoring_and_learning_are_one_network(share_trunk: bool) -> None:
    run = MemoryRun(4)
    settings = ppo.Settings(steps=128, batch_norm=True, share_trunk=share_trunk, learning_rate=1e-2, **SMALL)
    ppo.train(ECHO, settings, run)
    assert max(row["train/first_ratio_error"] for row in run.logged) < 1e-5
    layers = [layer for layer in run.kept["policy"].modules() if isinstance(layer, BatchNorm)]
    assert layers and all(layer.mean.any() and int(layer.rollouts) == 4 for layer in layers)


def test_moments_that_move_before_learning_show(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ppo.estimate

    def too_early(*arguments: Any) -> Any:
        settle_moments(run.kept["policy"])
        return right(*arguments)

    monkeypatch.setattr(ppo, "estimate", too_early)
    run = MemoryRun(2)
    ppo.train(ECHO, ppo.Settings(steps=64, batch_norm=True, **SMALL), run)
    assert max(row["train/first_ratio_error"] for row in run.logged) > 1e-3


def test_both_normalisations_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer_norm and batch_norm are both true"):
        advantage.train("ppo", ECHO, run_dir=tmp_path / "r", quiet=True, layer_norm=True, batch_norm=True, **SMALL)
    assert not (tmp_path / "r").exists()


# --- several critics ---


def test_each_critic_has_weights_of_its_own_and_v_is_what_is_asked() -> None:
    rows = Batch.of_rows({"observation": seen(20)[:, None]}, seen(20, 1)[:, None], torch.ones(20, 1, dtype=torch.bool))
    for share_trunk in (False, True):
        mean, least = (network(critics=3, critics_value=v, share_trunk=share_trunk) for v in ("mean", "least"))
        said, other = mean.evaluate(rows), least.evaluate(rows)
        assert said.ensemble.shape == (20, 1, 3) and torch.equal(said.ensemble, other.ensemble)
        assert said.ensemble.std(-1).min() > 0
        torch.testing.assert_close(said.values, said.ensemble.mean(-1))
        torch.testing.assert_close(other.values, other.ensemble.amin(-1))
        torch.testing.assert_close(least.value({"observation": seen(20)})[:, None], other.values)
    assert network().evaluate(rows).ensemble is None


def test_the_first_critic_and_the_actor_are_those_of_a_lone_one() -> None:
    alone, together = network().state_dict(), network(critics=3).state_dict()
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    assert not torch.equal(together["critic.0.weight"], together["other_critics.0.0.weight"])


def test_each_critic_learns_alone() -> None:
    """The gradient of a critic is that of its own error; the mean's error would reach all of them alike."""
    policy = network(critics=2)
    rows = Batch.of_rows({"observation": seen(8)[:, None]}, seen(8, 1)[:, None], torch.ones(8, 1, dtype=torch.bool))
    said = policy.evaluate(rows)
    target = said.ensemble[..., 0].detach()  # the first one is right everywhere
    said.of_each_critic(lambda values: value_loss(values, target)).sum().backward()
    assert not policy.value_head.weight.grad.any()
    own = policy.evaluate(rows).ensemble[..., 1]
    expected = torch.autograd.grad(value_loss(own, target).sum() / 2, policy.other_value_heads[0].weight)[0]
    torch.testing.assert_close(policy.other_value_heads[0].weight.grad, expected)
    assert float(policy.other_value_heads[0].weight.grad.abs().max()) > 1e-3


def test_what_the_policy_and_what_the_values_depend_on() -> None:
    for share_trunk in (False, True):
        policy = network(critics=2, share_trunk=share_trunk, full_covariance=True)
        rows = Batch.of_rows({"observation": seen(8)[:, None]}, seen(8, 1)[:, None], torch.ones(8, 1, dtype=torch.bool))
        named = dict(policy.named_parameters())
        slopes = torch.autograd.grad(policy.evaluate(rows).logp.sum(), list(named.values()), allow_unused=True)
        reached = {name for name, slope in zip(named, slopes, strict=True) if slope is not None}
        assert set(policy.actor_parameters()) == reached
        assert set(policy.critic_parameters()) == set(named) - reached


# --- all of them, from one end to the other ---

CHOICES: dict[str, dict[str, Any]] = {
    "batch norm": {"batch_norm": True},
    "three critics": {"critics": 3},
    "the least of two": {"critics": 2, "critics_value": "least", "share_trunk": True, "value_clip": 0.2},
    "full covariance": {"full_covariance": True},
    "of the state too": {"full_covariance": True, "state_dependent_std": True, "log_std_init": -0.5},
    "everything": {"batch_norm": True, "critics": 2, "full_covariance": True, "share_trunk": True, "micro_batch": 5},
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("algorithm", ["ppo", "trpo"])
def test_a_run_in_two_parts_ends_where_a_run_in_one_does(choice: str, algorithm: str, tmp_path: Path) -> None:
    settings = {**SMALL, **CHOICES[choice], "learning_rate": 1e-2, "checkpoint_every": 0.0}
    if algorithm == "trpo":
        settings.pop("epochs")
        settings.pop("value_clip", None)
    whole = advantage.train(algorithm, ECHO, steps=128, run_dir=tmp_path / "whole", quiet=True, **settings)
    advantage.train(algorithm, ECHO, steps=64, run_dir=tmp_path / "parts", quiet=True, **settings)
    parts = advantage.resume(tmp_path / "parts", steps=128, env=ECHO, quiet=True)
    one, other = (run.reader.policy()[0]["policy"] for run in (whole, parts))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])), name
    observation = np.array([0.3, -0.2, 0.9], np.float32)
    np.testing.assert_array_equal(whole.policy.act(observation), parts.policy.act(observation))
    assert whole.policy.value(observation) == parts.policy.value(observation)
    assert whole.metrics()["train/first_ratio_error"].max() < 1e-5


def test_correlations_are_learnt(tmp_path: Path) -> None:
    """Paid for −(a₀ − a₁)² alone, two entries learn to move together; a diagonal Gaussian cannot say so."""

    class Together(Echo):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, -float((action[0] - action[1]) ** 2), *rest

    actions = spaces.Box(-9.0, 9.0, (2,), np.float32)
    run = advantage.train(
        "ppo", functools.partial(Together, BOX, actions), steps=6000, run_dir=tmp_path / "r", quiet=True,
        full_covariance=True, num_envs=4, num_steps=64, minibatch_size=64, gamma=0.0, learning_rate=2e-2, network=(8,),
    )  # fmt: skip
    assert float(run.reader.policy()[0]["policy"]["head.lower"]) > 0.3


def test_defaults_draw_the_weights_that_they_always_drew() -> None:
    """Layer after layer under one seed, then orthogonal: actor, critic, head, value head. Nothing new is in between."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layers = [nn.Linear(*sizes) for sizes in [(3, 16), (16, 12), (3, 16), (16, 12), (12, 3), (12, 1)]]
        for layer, gain in zip(layers, [2**0.5] * 4 + [0.01, 1.0], strict=True):
            nn.init.orthogonal_(layer.weight, gain)
    own = network().state_dict()
    names = ["actor.0", "actor.2", "critic.0", "critic.2", "head.mean", "value_head"]
    assert all(torch.equal(own[f"{name}.weight"], layer.weight) for name, layer in zip(names, layers, strict=True))
    assert set(own) == {f"{name}.{part}" for name in names for part in ("weight", "bias")} | {"head.log_std"}
