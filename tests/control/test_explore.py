"""Acting ε-greedily: how often the network is asked, what a schedule says, what a run keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from advantage.control.environments import make_envs
from advantage.control.explore import epsilon, explore, rollout_of
from advantage.control.normalization import Normalizer
from advantage.control.q_network import QNetwork, make_q_network
from advantage.control.settings import ValueBased
from advantage.errors import NonFinite
from advantage.runs.live import Update
from tests.control.scripted import Scripted
from tests.control.worlds import Paid


class Counting(QNetwork):
    calls = 0

    def forward(self, context: Any) -> torch.Tensor:
        self.calls += 1
        return super().forward(context)


def test_epsilon_is_a_line_and_1_before_learning() -> None:
    settings = ValueBased(
        epsilon_start=0.8, epsilon_end=0.2, epsilon_fraction=0.5, learning_starts=20, train_every=5, num_envs=3
    )
    found = np.concatenate([epsilon(settings, Update(0, steps, 200), 3) for steps in range(0, 200, 15)])
    steps = 3 * np.arange(len(found))
    expected = np.interp(steps, [0, 100], [0.8, 0.2])
    expected[steps < 20] = 1.0
    assert np.allclose(found, expected)
    at_once = ValueBased(epsilon_fraction=0.0, learning_starts=0, epsilon_end=0.1)
    assert epsilon(at_once, Update(0, 1, 9), 1) == pytest.approx([0.1] * 4)


@pytest.mark.parametrize("count", [1, 4])
def test_all_environments_act_by_one_call_and_by_none_where_all_explore(count: int) -> None:
    envs = make_envs([Scripted] * count, vectorization="sync")
    envs.start(0)
    settings = ValueBased(network=(4,))
    network = Counting(envs.spaces.observation, envs.spaces.action, settings)
    normalizer = Normalizer(envs.spaces.observation, count, settings)
    explore(envs, network, normalizer, np.zeros(10), np.random.default_rng(0))
    assert network.calls == 10
    steps = explore(envs, network, normalizer, np.ones(10), np.random.default_rng(0))
    assert network.calls == 10 and steps.explored.all()
    assert sorted(set(steps.actions.ravel())) == [0, 1, 2, 3, 4] if count == 4 else True


def test_rows_that_only_reset_are_no_steps() -> None:
    envs = make_envs([Scripted], vectorization="sync", autoreset="next_step")
    envs.start(0)
    settings = ValueBased(network=(4,))
    network = make_q_network(envs.spaces.observation, envs.spaces.action, settings, 0)
    normalizer = Normalizer(envs.spaces.observation, 1, settings)
    counts = [explore(envs, network, normalizer, np.ones(1), np.random.default_rng(i)).count for i in range(12)]
    assert counts == [1] * 12  # a piece of a single row would else be none
    assert envs.steps == 12


def test_what_is_kept_is_what_happened_and_what_the_network_says() -> None:
    envs = make_envs([lambda i=i: Paid(lambda e: (3 + e % 2, "truncated")) for i in range(2)], vectorization="sync")
    envs.start(0)
    settings = ValueBased(network=(4,))
    network = make_q_network(envs.spaces.observation, envs.spaces.action, settings, 0)
    normalizer = Normalizer(envs.spaces.observation, 2, settings)
    taken = [explore(envs, network, normalizer, np.full(n, 0.3), np.random.default_rng(n)) for n in (4, 1, 6)]
    rollout = rollout_of(taken, network, normalizer)
    assert rollout.mask.shape == (2, 11) and rollout.steps == 22
    seen = np.concatenate([steps.context["observation"] for steps in taken]).swapaxes(0, 1)
    assert np.array_equal(rollout.context["observation"].numpy(), seen)
    with torch.no_grad():
        expected = network({"observation": torch.from_numpy(seen[1])}).amax(-1)
        ahead = network({"observation": rollout.context["following"]["observation"][1]}).amax(-1)
    assert torch.allclose(rollout.values[1], expected) and torch.allclose(rollout.next_values[1], ahead)
    inside = ~rollout.truncated[:, :-1]
    assert torch.equal(rollout.next_values[:, :-1][inside], rollout.values[:, 1:][inside])


def test_what_is_not_finite_is_named() -> None:
    envs = make_envs([lambda: Paid(lambda e: (5, "terminated"), reward=lambda rng: np.nan)], vectorization="sync")
    envs.start(0)
    settings = ValueBased(network=(4,))
    network = make_q_network(envs.spaces.observation, envs.spaces.action, settings, 0)
    with pytest.raises(NonFinite, match="reward is nan in environment 0 at step 0"):
        explore(envs, network, Normalizer(envs.spaces.observation, 1, settings), np.ones(3), np.random.default_rng(0))
