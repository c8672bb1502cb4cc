"""Set-up: what does not fit the target, the machine or its memory is refused in one line that names the setting."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
import torch

from advantage.control.setup import prepare
from advantage.errors import UserError
from tests.control.scripted import Echo, Scripted
from tests.control.worlds import Setup

HERE = os.cpu_count() or 1


def prepared(target: Any, **settings: Any) -> Any:
    run: Any = SimpleNamespace(seed=lambda name: 0)
    threads = torch.get_num_threads()
    try:
        return prepare(target, Setup(**settings), run)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("target", "settings", "text"),
    [
        ([Scripted], {"num_envs": 8}, "num_envs is 8, the list has 1 constructors; leave it away or make it 1"),
        (Scripted(), {"num_envs": 2}, "num_envs is 2, an environment instance is one environment"),
        (gym.vector.SyncVectorEnv([Scripted] * 2), {"num_envs": 8}, "num_envs is 8, SyncVectorEnv has 2 environments"),
        (Scripted, {"threads": HERE + 1}, f"threads is {HERE + 1}; this machine has {HERE} processors"),
        ("CartPole-v1", {"num_envs": 10**17}, "num_envs=100000000000000000 does not fit in memory; make it smaller"),
        (Scripted, {"network": (10**7, 10**7)}, "network=10000000,10000000 does not fit in memory; make it smaller"),
        (Scripted, {"network": (2**62, 2)}, "network=4611686018427387904,2 does not fit in memory"),
    ],
)
def test_what_cannot_be_prepared(target: Any, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(target, **settings)
    assert text in str(caught.value) and "\n" not in str(caught.value)


HUGE, SMALL = gym.spaces.Discrete(10**12), gym.spaces.Discrete(2)


@pytest.mark.parametrize(
    ("observation", "action", "settings", "text"),
    [
        (HUGE, SMALL, {}, f"observation space {HUGE} makes 16,000,000,000,000 weights with network=16, more than"),
        (SMALL, HUGE, {}, f"action space {HUGE} makes 16,000,000,000,000 weights with network=16, more than fits"),
        (gym.spaces.Dict(a=SMALL, b=HUGE), SMALL, {}, f"observation space/b {HUGE} makes 16,000,000,000,032 weights"),
        (HUGE, SMALL, {"network": ()}, f"observation space {HUGE} makes 2,000,000,000,000 weights, more than fits"),
        (HUGE, SMALL, {"network": (10**7, 10**13)}, "network=10000000,10000000000000 does not fit in memory; make it"),
    ],
)
def test_a_network_too_large_names_its_largest_part(
    observation: gym.Space[Any], action: gym.Space[Any], settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(UserError) as caught:
        prepared(lambda: Echo(observation, action), **settings)
    line = str(caught.value)
    assert line.startswith(text) and "\n" not in line and "alloc" not in line


def test_the_number_is_the_target_s_own() -> None:
    assert prepared([Scripted] * 2, num_envs=2).envs.num_envs == 2
    assert prepared(Scripted, num_envs=3).envs.num_envs == 3
