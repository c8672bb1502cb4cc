"""Encoders against Gymnasium's own flattening, heads against the spaces that their actions have to belong to."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from advantage.control.actions import Bounds
from advantage.control.environments import make_envs
from advantage.control.space_trees import sender
from advantage.control.spaces import Encoder, Head, encoder_for, head_for
from advantage.errors import UserError
from advantage.trajectory import tree_leaves, tree_map
from tests.control.scripted import Echo

ROWS = 5

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "box number": spaces.Box(-1.0, 1.0, (), np.float32),
    "box matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    "bytes": spaces.Box(0, 255, (2, 2, 3), np.uint8),
    "discrete": spaces.Discrete(4),
    "discrete from −2": spaces.Discrete(4, start=-2),
    "multi discrete": spaces.MultiDiscrete([2, 3, 4]),
    "multi discrete from 1": spaces.MultiDiscrete([2, 3], start=[1, 5]),
    "multi discrete matrix": spaces.MultiDiscrete([[2, 3], [4, 2]]),
    "multi binary": spaces.MultiBinary(3),
    "multi binary matrix": spaces.MultiBinary((2, 3)),
}
OBSERVATIONS["tuple"] = spaces.Tuple((OBSERVATIONS["discrete"], OBSERVATIONS["box matrix"]))
OBSERVATIONS["all, nested"] = spaces.Dict(
    {"z": spaces.Dict(OBSERVATIONS), "a": spaces.Tuple(tuple(OBSERVATIONS.values())), "m": spaces.Discrete(3)}
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_features_are_gymnasium_s(name: str, dtype: torch.dtype) -> None:
    space = OBSERVATIONS[name]
    encoder = encoder_for(space, dtype)
    many = batch_space(space, ROWS)
    many.seed(0)
    batch = many.sample()
    features = encoder(tree_map(torch.from_numpy, batch))
    assert features.shape == (ROWS, encoder.size) == (ROWS, spaces.flatdim(space))
    assert features.dtype == dtype
    for row in range(ROWS):
        expected = spaces.flatten(space, tree_map(lambda leaf, row=row: leaf[row], batch))
        np.testing.assert_allclose(features[row].numpy(), np.asarray(expected, np.float64), rtol=1e-6)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_what_environments_show_can_be_encoded(name: str) -> None:
    envs = make_envs(lambda: Echo(OBSERVATIONS[name], spaces.Discrete(2)), 3)
    envs.start(0)
    encoder = encoder_for(envs.spaces.observation, torch.float32)
    for _ in range(3):
        features = encoder(tree_map(torch.from_numpy, envs.context["observation"]))
        for row, env in enumerate(envs.vector.envs):
            latest = spaces.flatten(OBSERVATIONS[name], env.unwrapped.seen[-1])
            np.testing.assert_allclose(features[row].numpy(), np.asarray(latest, np.float64), rtol=1e-6)
        envs.step(np.zeros(3, int))


@pytest.mark.parametrize(
    "space", [spaces.Text(3), spaces.Sequence(spaces.Discrete(2)), spaces.Dict({"x": spaces.Text(3)})]
)
def test_spaces_without_an_encoder_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(
        UserError, match=r"observation space (Text|Sequence).* has no encoder; use Box, Discrete"
    ) as caught:
        encoder_for(space, torch.float32)
    assert "\n" not in str(caught.value)


ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4),
    "discrete from −2": spaces.Discrete(4, start=-2),
    "multi discrete": spaces.MultiDiscrete([2, 3], start=[1, 5]),
    "multi binary": spaces.MultiBinary(3),
    "multi binary matrix": spaces.MultiBinary((2, 3)),
    "box": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "box number": spaces.Box(-1.0, 1.0, (), np.float32),
    "box matrix": spaces.Box(np.float64(-2.0), np.float64(0.5), (2, 3), np.float64),
}
ACTIONS["tuple"] = spaces.Tuple((ACTIONS["discrete from −2"], ACTIONS["box matrix"]))
ACTIONS["all, nested"] = spaces.Dict({"z": spaces.Dict(ACTIONS), "a": spaces.Tuple(tuple(ACTIONS.values()))})


@pytest.mark.parametrize("wide", [False, True], ids=["", "std of the state"])
@pytest.mark.parametrize("name", ACTIONS)
def test_actions_belong_to_their_space(name: str, wide: bool) -> None:
    space = ACTIONS[name]
    torch.manual_seed(0)
    head = head_for(space, 7, 0.0, wide)
    distribution = head(torch.randn(ROWS, 7), None)
    noise = torch.from_numpy(head.noise(np.random.default_rng(0), (ROWS,))).float()
    assert noise.shape == (ROWS, head.noise_size)
    for actions in (distribution.sample(noise), distribution.mode()):
        assert distribution.logp(actions).shape == distribution.entropy().shape == (ROWS,)
        with torch.no_grad():
            sent = sender(space)(Bounds(space, "clip").applied(tree_map(torch.Tensor.detach, actions)))
        for row in range(ROWS):
            assert space.contains(tree_map(lambda leaf, row=row: np.asarray(leaf[row]), sent)), name
    assert torch.allclose(distribution.kl(distribution), torch.zeros(ROWS), atol=1e-6)


def test_parts_of_an_action_have_their_own_noise() -> None:
    space = spaces.Tuple((spaces.Discrete(3), spaces.Discrete(3), spaces.MultiDiscrete([2, 2])))
    head = head_for(space, 4, 0.0, False)
    noise = head.noise(np.random.default_rng(0), (1000,))
    assert noise.shape == (1000, 10)
    correlations = np.corrcoef(noise.T) - np.eye(10)
    assert np.abs(correlations).max() < 0.14  # 4.4 standard errors of 45 numbers


def test_the_spread_of_a_gaussian() -> None:
    fixed = head_for(ACTIONS["box"], 4, -0.7, False)
    features = torch.randn(ROWS, 4)
    assert torch.equal(fixed(features, None).log_std, torch.full((3,), -0.7))
    assert dict(fixed.named_parameters())["log_std"].requires_grad
    wide = head_for(ACTIONS["box"], 4, -0.7, True)
    assert len(wide(features, None).log_std.unique()) == ROWS * 3
    with torch.no_grad():
        wide.spread.weight.zero_()
        wide.spread.bias.zero_()
    assert torch.equal(wide(features, None).log_std, torch.full((ROWS, 3), -0.7))


@pytest.mark.parametrize(
    "space",
    [spaces.Text(3), spaces.Box(0, 5, (2,), np.int64), spaces.MultiDiscrete([[2, 2]]), spaces.Tuple((spaces.Text(2),))],
    ids=["text", "whole numbers", "matrix of choices", "inside"],
)
def test_spaces_without_a_head_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(UserError, match=r"action space .* has no head; use Discrete") as caught:
        head_for(space, 4, 0.0, False)
    assert "\n" not in str(caught.value)


def test_encoders_and_heads_come_from_one_place() -> None:
    with pytest.raises(TypeError, match="encoder_for"):
        Encoder()(torch.zeros(1))
    with pytest.raises(TypeError, match="head_for"):
        Head()(torch.zeros(1), None)
    with pytest.raises(TypeError, match="head_for"):
        Head().noise(np.random.default_rng(0), (1,))


def test_the_nested_spaces_really_hold_every_kind() -> None:
    for space in (OBSERVATIONS["all, nested"], ACTIONS["all, nested"]):
        sample = space.sample()
        assert isinstance(space, gym.spaces.Dict) and len(list(tree_leaves(sample))) > 15
