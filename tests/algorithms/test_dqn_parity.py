"""Learning under `numerics="sb3"` gives the parameters of Stable-Baselines3's DQN.

Both libraries run their own loops, whole. Stable-Baselines3 learns while its first weights, its actions and the rows
that it draws are taken down; `dqn.train` then begins with these weights, takes these actions in environments with the
same seeds, and draws these rows. All else is computed twice: observations and rewards, the state behind a time limit,
returns of n steps, targets, losses, gradients, the moments at which the target network moves, schedules, steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from advantage.algorithms import dqn
from advantage.control import replay
from advantage.runs.live import Update
from tests.algorithms.memory_run import MemoryRun
from tests.algorithms.test_ppo_parity import BOX, CARTPOLE, Seeded, Weights, difference, made, paid

TOLERANCE = 1e-5

WORLDS: dict[str, Callable[[], gym.Env[Any, Any]]] = {
    "CartPole": CARTPOLE,
    "LunarLander": made("LunarLander-v3", max_episode_steps=60),
    "Discrete observations": paid(spaces.Discrete(5), spaces.Discrete(2)),
    "Dict observations": paid(spaces.Dict(b=BOX, a=spaces.Discrete(3)), spaces.Discrete(4)),
}
PLAIN: dict[str, Any] = {
    "num_envs": 1,
    "steps": 400,
    "learning_starts": 40,
    "train_every": 8,
    "gradient_steps": 3,
    "minibatch_size": 32,
    "buffer_size": 300,
    "target_update_every": 50,
    "learning_rate": 3e-3,
    "network": (32, 16),
    "gamma": 0.97,
    "log_every": 100,
    "numerics": "sb3",
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "three environments": {"num_envs": 3, "target_update_every": 48},
    "a buffer that is overwritten": {"buffer_size": 60},
    "polyak": {"tau": 0.02, "target_update_every": 1},
    "schedule": {"learning_rate": "lin_3e-3"},
    "a gradient step a step": {"num_envs": 2, "gradient_steps": None, "train_every": 4, "steps": 240},
    "clipped gradients": {"max_grad_norm": 0.1},
    "three steps": {"n_step": 3, "buffer_size": 1000},
    "tanh": {"activation": "tanh"},
}
CASES = [("CartPole", variation) for variation in VARIATIONS]
CASES += [(world, "plain") for world in WORLDS if world != "CartPole"]


@dataclass(frozen=True)
class Story:
    """What Stable-Baselines3 did."""

    before: Weights
    after: Weights
    target: Weights
    actions: list[np.ndarray]
    rows: list[np.ndarray]


def settings_of(variation: str, **changes: Any) -> dqn.Settings:
    return dqn.Settings(**PLAIN | VARIATIONS[variation] | changes)


def constructors(world: str, settings: dqn.Settings) -> list[Callable[[], gym.Env[Any, Any]]]:
    return [lambda index=index: Seeded(WORLDS[world](), 100 + index) for index in range(settings.num_envs)]


def weights_of(network: nn.Module) -> Weights:
    """Their parameters by our names: layers of the trunk, and the last one, which is the head."""
    named = {name.removeprefix("q_net."): value.detach().clone() for name, value in network.named_parameters()}
    last = max(int(name.split(".")[0]) for name in named)
    return {
        (f"head.{name.split('.')[1]}" if int(name.split(".")[0]) == last else f"trunk.{name}"): value
        for name, value in named.items()
    }


class Recorded(DQN):
    """Keeps its actions."""

    def _sample_action(self, *arguments: Any, **named: Any) -> Any:
        found = super()._sample_action(*arguments, **named)
        self.taken.append(np.array(found[0]))
        return found


@functools.cache
def theirs(world: str, variation: str) -> Story:
    settings = settings_of(variation)
    envs = DummyVecEnv(constructors(world, settings))
    rate, rng = settings.learning_rate, np.random.default_rng(5)
    rows: list[np.ndarray] = []

    def randint(low: int, high: int, size: Any) -> np.ndarray:
        """Of the rows not those whose n rewards have not come yet: theirs cuts such a return off, ours waits."""
        first = len(pending) == 0
        pending.append(rng.integers(low, high - (settings.n_step - 1 if first else 0), size))
        if not first:
            row, env = (np.asarray(each) for each in pending)
            rows.append(row * settings.num_envs + env)
            pending.clear()
            return env
        return pending[0]

    pending: list[np.ndarray] = []
    with torch.random.fork_rng():
        model = Recorded(
            "MultiInputPolicy" if isinstance(envs.observation_space, spaces.Dict) else "MlpPolicy",
            envs,
            learning_rate=LinearSchedule(float(rate[4:]), 0.0, 1.0) if isinstance(rate, str) else rate,
            buffer_size=settings.buffer_size,
            learning_starts=settings.learning_starts,
            batch_size=settings.minibatch_size,
            tau=settings.tau,
            gamma=settings.gamma,
            train_freq=settings.train_every,
            gradient_steps=settings.gradient_steps or -1,
            n_steps=settings.n_step,
            target_update_interval=settings.target_update_every,
            max_grad_norm=settings.max_grad_norm,
            policy_kwargs={
                "net_arch": list(settings.network),
                "activation_fn": {"relu": nn.ReLU, "tanh": nn.Tanh}[settings.activation],
            },
            seed=0,
            device="cpu",
        )
        model.taken = []
        before = weights_of(model.q_net)
        with mock.patch.object(np.random, "randint", randint):
            model.learn(settings.steps)
    return Story(before, weights_of(model.q_net), weights_of(model.q_net_target), model.taken, rows)


class Retold(MemoryRun):
    """Begins with their weights, takes their actions, draws their rows."""

    def __init__(self, story: Story) -> None:
        super().__init__(updates=10**6)
        self.rows = iter(story.rows)
        self.story = story

    def rng(self, name: str) -> Any:
        return mock.Mock(integers=self.drawn) if name == "minibatches" else super().rng(name)

    def drawn(self, held: int, size: tuple[int, int]) -> np.ndarray:
        found = np.stack([next(self.rows) for _ in range(size[0])])
        assert found.shape == size and found.max() < held
        return found

    def keep(self, **things: Any) -> None:
        super().keep(**things)
        for name in ("policy", "target"):
            own = dict(things[name].named_parameters())
            assert own.keys() == self.story.before.keys()
            for key, parameter in own.items():
                parameter.data.copy_(self.story.before[key])
        actions = iter(self.story.actions)
        things["policy"].act = lambda context, noise: torch.from_numpy(next(actions))

    def updates(self, total: int) -> Iterator[Update]:
        for update in super().updates(total):
            if update.steps >= total:
                return
            yield update


def ours(world: str, variation: str, **changes: Any) -> Retold:
    settings = settings_of(variation, **changes)
    run = Retold(theirs(world, variation))
    dqn.train(constructors(world, settings), settings, run)
    return run


def apart(run: Retold) -> tuple[float, float]:
    found = ({k: v.detach() for k, v in run.kept[name].named_parameters()} for name in ("policy", "target"))
    online, target = found
    return difference(online, run.story.after), difference(target, run.story.target)


@pytest.mark.parametrize(("world", "variation"), CASES)
def test_the_same_parameters_after_all_steps(world: str, variation: str) -> None:
    run = ours(world, variation)
    off, moved = apart(run), difference(run.story.after, run.story.before)
    count = len(run.story.rows)
    print(f"{world}, {variation}: off by {off[0]:.0e}, target {off[1]:.0e}, moved by {moved:.2f} in {count} steps")
    assert max(off) < TOLERANCE
    assert moved > 0.05
    assert run.kept["optimizer"].steps == count > 40
    assert next(run.rows, None) is None


def test_limits_and_ends_are_in_it() -> None:
    rollouts = ours("CartPole", "plain").rollouts
    assert any(rollout.truncated.any() for rollout in rollouts)
    assert any(rollout.terminated.any() for rollout in rollouts)


def limits_as_ends(patch: pytest.MonkeyPatch) -> None:
    right = replay.Replay.add
    wrong = lambda self, steps: right(self, replace(steps, terminated=steps.terminated | steps.truncated))  # noqa: E731
    patch.setattr(replay.Replay, "add", wrong)


def the_reset_s_observation(patch: pytest.MonkeyPatch) -> None:
    right = replay.Replay.add

    def wrong(self: replay.Replay, steps: Any) -> None:
        seen = steps.context["observation"]
        ended, after = steps.truncated[:-1], steps.following["observation"].copy()
        after[:-1][ended] = seen[1:][ended]
        right(self, replace(steps, following={"observation": after}))

    patch.setattr(replay.Replay, "add", wrong)


def always_online(patch: pytest.MonkeyPatch) -> None:
    right = dqn.learn
    patch.setattr(dqn, "learn", lambda drawn, network, frozen, *rest: right(drawn, network, network, *rest))


WRONG: dict[str, tuple[str, dict[str, Any], Callable[[pytest.MonkeyPatch], None] | None]] = {
    "squared error": ("plain", {"loss": "squared"}, None),
    "double": ("plain", {"double": True}, None),
    "an epsilon of 1e-5 in Adam": ("plain", {"adam_eps": 1e-5}, None),
    "gradients not clipped": ("clipped gradients", {"max_grad_norm": 10.0}, None),
    "a target copied later": ("plain", {"target_update_every": 56}, None),
    "schedule read before the steps": ("schedule", {"numerics": "advantage"}, None),
    "truncation as termination": ("plain", {}, limits_as_ends),
    "the reset's observation behind a truncation": ("plain", {}, the_reset_s_observation),
    "no target network": ("plain", {}, always_online),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_choice_shows(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variation, changes, plant = WRONG[wrong]
    theirs("CartPole", variation)
    if plant is not None:
        plant(monkeypatch)
    off = max(apart(ours("CartPole", variation, **changes)))
    print(f"{wrong}: {off:.0e}")
    assert off > 10 * TOLERANCE
