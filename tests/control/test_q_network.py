"""The network of action values: what it says, how it acts, how its target follows."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

from advantage.control.q_network import QNetwork, follow, make_q_network
from advantage.control.settings import ValueBased
from advantage.errors import UnfitActions

BOX = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
Z_999 = 3.29  # a normal number is beyond it in size once in a thousand


def network(actions: int = 4, seed: int = 0, **settings: object) -> QNetwork:
    return make_q_network(BOX, gym.spaces.Discrete(actions), ValueBased(network=(8,), **settings), seed)  # type: ignore[arg-type]


def context(rows: int, mask: list[bool] | None = None) -> dict[str, torch.Tensor]:
    seen = {"observation": torch.rand(rows, 3, generator=torch.Generator().manual_seed(1))}
    return seen if mask is None else seen | {"action_mask": torch.tensor(mask).expand(rows, -1)}


def test_dueling_advantages_have_mean_0_and_value_is_their_own_head() -> None:
    q_network = network(dueling=True)
    assert q_network.value_head is not None
    q = q_network(context(5))
    features = q_network.trunk(q_network.encoder(context(5)["observation"]))
    assert torch.allclose(q.mean(-1), q_network.value_head(features).squeeze(-1), atol=1e-6)
    advantages = q_network.head(features)
    assert torch.allclose(q - q[:, :1], advantages - advantages[:, :1], atol=1e-6)


def test_the_value_is_that_of_the_greedy_action() -> None:
    q_network = network()
    q = q_network(context(20))
    chosen = q_network.act(context(20), None)
    assert torch.equal(q.gather(-1, chosen[:, None]).squeeze(-1), q_network.value(context(20)))
    assert len(chosen.unique()) > 1


def test_an_illegal_action_is_neither_greedy_nor_of_value() -> None:
    q_network = network()
    best = q_network(context(1)).argmax().item()
    mask = [action != best for action in range(4)]
    assert q_network.act(context(1, mask), None).item() != best
    assert q_network.value(context(1, mask)).item() == q_network(context(1)).topk(2).values[0, 1].item()


@pytest.mark.parametrize("mask", [None, [True, False, True, True], [False, False, True, False]])
def test_every_legal_action_is_as_likely_where_it_explores(mask: list[bool] | None) -> None:
    q_network, rows = network(), 30_000
    noise = q_network.noise(np.random.default_rng(0), (rows,), epsilon=1.0)
    assert (noise[:, 0] < 0).all()
    counts = torch.bincount(q_network.act(context(rows, mask), noise), minlength=4).numpy()
    legal = np.array(mask or [True] * 4)
    assert counts[~legal].sum() == 0
    share = 1 / legal.sum()
    spread = np.sqrt(rows * share * (1 - share))
    assert np.abs(counts[legal] - rows * share).max() <= Z_999 * spread + 1e-9


def test_the_share_of_random_actions_is_epsilon_and_each_environment_has_a_coin() -> None:
    q_network, shape = network(epsilon_end=0.3), (400, 50)
    explored = (q_network.noise(np.random.default_rng(0), shape)[..., 0] < 0).float()
    assert abs(float(explored.mean()) - 0.3) < Z_999 * np.sqrt(0.3 * 0.7 / explored.numel())
    assert 0 < float(explored.mean(1).min()) < float(explored.mean(1).max()) < 1  # SB3 throws one coin for all
    assert not (q_network.noise(np.random.default_rng(0), shape, epsilon=0.0)[..., 0] < 0).any()
    by_step = q_network.noise(np.random.default_rng(0), (2, 3), np.array([[0.0], [1.0]]))[..., 0] < 0
    assert by_step.tolist() == [[False] * 3, [True] * 3]


def test_a_random_row_does_not_change_its_neighbours() -> None:
    q_network = network()
    noise = torch.tensor([[-0.5, 0.99], [0.5, 0.99], [-0.5, 0.0]], dtype=torch.float64)
    greedy = q_network.act(context(3), None)
    assert q_network.act(context(3), noise).tolist() == [3, int(greedy[1]), 0]


@pytest.mark.parametrize(("tau", "times"), itertools.product([0.01, 0.5, 1.0], [0, 1, 7]))
def test_several_steps_of_the_target_at_once_are_those_one_by_one(tau: float, times: int) -> None:
    target, stepped, online = network(seed=1), network(seed=1), network(seed=2)
    follow(target, online, tau, times)
    for _ in range(times):
        for own, other in zip(stepped.parameters(), online.parameters(), strict=True):
            own.data = (1 - tau) * own.data + tau * other.data
    for own, other in zip(target.parameters(), stepped.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)
        if tau == 1.0 and times:
            assert torch.equal(own, other)


def test_a_copy_cures_a_target_that_is_nan() -> None:
    target, online = network(seed=1), network(seed=2)
    for parameter in target.parameters():
        parameter.data.fill_(torch.nan)
    follow(target, online, 1.0, 1)
    assert all(torch.equal(*pair) for pair in zip(target.parameters(), online.parameters(), strict=True))


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second, other = network(seed=5), network(seed=5), network(seed=6)
    assert torch.equal(first.head.weight, second.head.weight) and not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("space", [BOX, gym.spaces.MultiDiscrete([2, 2]), gym.spaces.MultiBinary(2)], ids=str)
def test_actions_that_cannot_be_listed_are_refused(space: gym.Space[object]) -> None:
    with pytest.raises(UnfitActions, match="needs Discrete actions"):
        make_q_network(BOX, space, ValueBased(), 0)
