"""Five updates of PPO under `numerics="sb3"` give the parameters of Stable-Baselines3's PPO.

Both libraries run their own loops, whole. Stable-Baselines3 learns while its first weights, its actions and its orders
of rows are taken down; `ppo.train` then begins with these weights, takes these actions in environments with the same
seeds, and goes through the rows in these orders. All else is computed twice: observations and rewards, the value of
states that a time limit cut off, advantages, losses, gradients, schedules, early stops, steps.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from advantage.algorithms import ppo
from advantage.core.dialects import DIALECTS
from advantage.runs.moment import Update
from advantage.trajectory import Batch, Rollout
from tests.algorithms.memory_run import MemoryRun
from tests.control.scripted import Echo

TOLERANCE = 1e-5
UPDATES = 5
Weights = dict[str, torch.Tensor]

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")


class Seeded(gym.Wrapper[Any, Any, Any, Any]):
    """The first reset has a seed of its own, whoever asks; the later ones none."""

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self.own: int | None = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        first, self.own = self.own, None
        return super().reset(seed=first, options=options)


def made(name: str, **arguments: Any) -> Callable[[], gym.Env[Any, Any]]:
    return functools.partial(gym.make, name, **arguments)


def paid(observation: spaces.Space[Any], action: spaces.Space[Any]) -> Callable[[], gym.Env[Any, Any]]:
    """Sampled observations, a reward of 1 a step, ends after 7 steps."""
    return lambda: gym.wrappers.TransformReward(Echo(observation, action, length=7), lambda _: 1.0)


CARTPOLE = made("CartPole-v1", max_episode_steps=15)  # most episodes meet the limit, some fall before
PENDULUM = made("Pendulum-v1", max_episode_steps=25)  # nothing ends but by the limit
BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
WORLDS = {
    "CartPole": CARTPOLE,
    "Pendulum": PENDULUM,
    "LunarLanderContinuous": made("LunarLander-v3", continuous=True, max_episode_steps=60),
    "MultiDiscrete actions": paid(BOX, spaces.MultiDiscrete([2, 3])),
    "MultiBinary actions": paid(BOX, spaces.MultiBinary(3)),
    "Discrete observations": paid(spaces.Discrete(5), spaces.Discrete(2)),
    "MultiDiscrete observations": paid(spaces.MultiDiscrete([3, 4]), spaces.Discrete(2)),
    "Dict observations": paid(spaces.Dict(b=BOX, a=spaces.Discrete(3)), spaces.Discrete(4)),
}

# Rows of a rollout: 2 × 64, in minibatches of 48, 48 and 32.
PLAIN: dict[str, Any] = {
    "num_envs": 2,
    "num_steps": 64,
    "minibatch_size": 48,
    "epochs": 4,
    "steps": 8 * 128,
    "learning_rate": 3e-3,
    "eps_low": 0.2,
    "eps_high": 0.2,
    "vf_coef": 1.0,
    "gamma": 0.97,
    "numerics": "sb3",
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one environment": {"num_envs": 1, "steps": 8 * 64},
    "a lone row in the last minibatch": {"num_envs": 3, "num_steps": 43, "minibatch_size": 64, "steps": 8 * 129},
    "value clip": {"value_clip": 0.3},
    "schedules": {"learning_rate": "lin_3e-3", "eps_low": "lin_0.2", "eps_high": "lin_0.2"},
    "early stop": {"target_kl": 0.005, "epochs": 10},
    "entropy bonus": {"ent_coef": 0.02},
    "raw advantages": {"normalize_advantages": False},
    "shared trunk": {"share_trunk": True, "network": (32, 16)},
    "relu": {"activation": "relu", "network": (24,)},
    "all at once": {
        "num_envs": 3,
        "steps": 8 * 192,
        "learning_rate": "lin_3e-3",
        "eps_low": "lin_0.3",
        "eps_high": "lin_0.3",
        "value_clip": 0.5,
        "target_kl": 0.02,
        "ent_coef": 0.01,
        "vf_coef": 0.6,
        "max_grad_norm": 0.3,
        "gae_lambda": 0.8,
    },
}
CASES = [(world, variation) for world in ("CartPole", "Pendulum") for variation in VARIATIONS]
CASES += [(world, "plain") for world in WORLDS if world not in ("CartPole", "Pendulum")]


@dataclass(frozen=True)
class Story:
    """What Stable-Baselines3 did."""

    before: Weights
    after: list[Weights]
    actions: list[np.ndarray]
    optimizer_steps: int


def constructors(world: str, settings: Any) -> list[Callable[[], gym.Env[Any, Any]]]:
    return [lambda index=index: Seeded(WORLDS[world](), 100 + index) for index in range(settings.num_envs)]


def order(update: int) -> np.random.Generator:
    return np.random.default_rng(update)


class Recorded(PPO):
    """Keeps its actions and its weights after each update, and shuffles in an order that is known."""

    def train(self) -> None:
        shape = (self.n_steps, self.n_envs, *self.action_space.shape)
        self.taken.append(self.rollout_buffer.actions.copy().reshape(shape))
        with mock.patch.object(np.random, "permutation", order(len(self.after)).permutation):
            super().train()
        self.after.append(weights_of(self.policy))


class Trunk(BaseFeaturesExtractor):
    """One trunk for both roles, which Stable-Baselines3 knows as a features extractor."""

    def __init__(self, observation_space: gym.Space[Any], sizes: tuple[int, ...]) -> None:
        super().__init__(observation_space, sizes[-1])
        widths = itertools.pairwise([spaces.utils.flatdim(observation_space), *sizes])
        self.layers = nn.Sequential(*(layer for a, b in widths for layer in (nn.Linear(a, b), nn.Tanh())))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.layers(observation)


@functools.cache
def theirs(world: str, variation: str) -> Story:
    """Learns for five updates of a budget of eight."""
    settings = ppo.Settings(**PLAIN | VARIATIONS[variation])
    envs = DummyVecEnv(constructors(world, settings))
    with torch.random.fork_rng():
        words = translated(settings, envs.observation_space) | of_ppo(settings)
        model = Recorded(env=envs, seed=0, device="cpu", **words)
        model.taken, model.after = [], []
        before = weights_of(model.policy)
        model.learn(settings.steps, callback=lambda *_: len(model.after) < UPDATES)
    state = model.policy.optimizer.state_dict()["state"]
    return Story(before, model.after, model.taken, int(state[0]["step"]))


def schedule(value: float | str) -> Any:
    return LinearSchedule(float(value[4:]), 0.0, 1.0) if isinstance(value, str) else value


def translated(settings: Any, observation: gym.Space[Any]) -> dict[str, Any]:
    """Our settings in Stable-Baselines3's words, of any on-policy algorithm; its value loss has no ½."""
    activation = {"tanh": nn.Tanh, "relu": nn.ReLU}[settings.activation]
    network: dict[str, Any] = {"net_arch": list(settings.network), "activation_fn": activation}
    if settings.share_trunk:
        shared = {"features_extractor_class": Trunk, "features_extractor_kwargs": {"sizes": settings.network}}
        network = {"net_arch": [], **shared}
    return {
        "policy": "MultiInputPolicy" if isinstance(observation, spaces.Dict) else "MlpPolicy",
        "policy_kwargs": network,
        "learning_rate": schedule(settings.learning_rate),
        "n_steps": settings.num_steps,
        "gamma": settings.gamma,
        "gae_lambda": settings.gae_lambda,
        "normalize_advantage": settings.normalize_advantages,
        "ent_coef": settings.ent_coef,
        "vf_coef": 0.5 * settings.vf_coef,
        "max_grad_norm": settings.max_grad_norm,
    }


def of_ppo(settings: ppo.Settings) -> dict[str, Any]:
    """What PPO has besides."""
    return {
        "batch_size": settings.minibatch_size,
        "n_epochs": settings.epochs,
        "clip_range": schedule(settings.eps_low),
        "clip_range_vf": settings.value_clip,
        "target_kl": settings.target_kl,
    }


def weights_of(policy: nn.Module) -> Weights:
    """Their parameters by our names."""
    ours = {
        "features_extractor.layers": "actor",
        "mlp_extractor.policy_net": "actor",
        "mlp_extractor.value_net": "critic",
        "action_net": "head.mean" if hasattr(policy, "log_std") else "head.logits",
        "value_net": "value_head",
        "log_std": "head.log_std",
    }
    found = {}
    for name, parameter in policy.named_parameters():
        part = next(part for part in ours if name.startswith(part))
        found[ours[part] + name.removeprefix(part)] = parameter.detach().clone()
    return found


class Replay(MemoryRun):
    """Begins with their weights, takes their actions, shuffles in their order."""

    def __init__(self, story: Any) -> None:
        super().__init__(UPDATES)
        self.story = story
        self.after: list[Weights] = []

    def rng(self, name: str) -> np.random.Generator:
        return order(len(self.after)) if name == "minibatches" else super().rng(name)

    def keep(self, **things: Any) -> None:
        super().keep(**things)
        self.policy = things["policy"]
        own = dict(self.policy.named_parameters())
        assert own.keys() == self.story.before.keys()
        for name, parameter in own.items():
            parameter.data.copy_(self.story.before[name])
        steps = (step for rollout in self.story.actions for step in rollout)
        self.policy.act = lambda context, noise: torch.from_numpy(next(steps))

    def updates(self, total: int) -> Iterator[Update]:
        for update in super().updates(total):
            yield update
            self.after.append({name: own.detach().clone() for name, own in self.policy.named_parameters()})


def ours(world: str, variation: str, **changes: Any) -> Replay:
    settings = ppo.Settings(**PLAIN | VARIATIONS[variation] | changes)
    run = Replay(theirs(world, variation))
    ppo.train(constructors(world, settings), settings, run)
    return run


def difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """The largest of any parameter."""
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


@pytest.mark.parametrize(("world", "variation"), CASES)
def test_five_updates_give_the_same_parameters(world: str, variation: str) -> None:
    story, run = theirs(world, variation), ours(world, variation)
    assert len(story.after) == len(run.after) == UPDATES
    apart = [difference(*pair) for pair in zip(run.after, story.after, strict=True)]
    moved = difference(story.after[-1], story.before)
    print(f"{world}, {variation}: differences after each update {[f'{x:.0e}' for x in apart]}, moved by {moved:.2f}")
    assert max(apart) < TOLERANCE
    assert moved > 0.05
    assert sum(row["train/minibatches"] for row in run.logged) == story.optimizer_steps


@pytest.mark.parametrize("world", ["CartPole", "Pendulum"])
def test_the_cases_have_in_them_what_they_are_named_after(world: str) -> None:
    rollouts = ours(world, "plain").rollouts
    assert all(rollout.truncated.any() for rollout in rollouts)
    assert any(rollout.terminated.any() for rollout in rollouts) == (world == "CartPole")
    early = ours(world, "early stop").logged
    assert any(row["train/stopped_early"] for row in early) and any(row["train/minibatches"] > 1 for row in early)
    rates = [row["train/learning_rate"] for row in ours(world, "schedules").logged]
    assert rates == pytest.approx([3e-3 * (1 - k / 8) for k in (1, 2, 3, 4, 5)])  # read behind the rollout


# One wrong choice at a time, as a change of a setting, of a constant of the dialect, or of a step of the road.


def constant(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setitem(DIALECTS, "sb3", replace(DIALECTS["sb3"], **changes))


def estimated(change: Callable[[Rollout], Rollout]) -> Callable[[pytest.MonkeyPatch], None]:
    right = ppo.estimate
    return lambda patch: patch.setattr(ppo, "estimate", lambda rollout, *rest: right(change(rollout), *rest))


def time_major(patch: pytest.MonkeyPatch) -> None:
    right = Batch.single_steps
    patch.setattr(Batch, "single_steps", lambda data: right(data._mapped(lambda leaf: leaf.transpose(0, 1))))


def limits_as_ends(rollout: Rollout) -> Rollout:
    return rollout.replace(terminated=rollout.terminated | rollout.truncated)


def credit_over_limits(rollout: Rollout) -> Rollout:
    return rollout.replace(truncated=torch.zeros_like(rollout.truncated))


def value_of_the_next_row(rollout: Rollout) -> Rollout:
    following = rollout.next_values.clone()
    following[:, :-1] = rollout.values[:, 1:]
    return rollout.replace(next_values=following)


def value_of_the_same_row(rollout: Rollout) -> Rollout:
    return rollout.replace(next_values=rollout.next_values.where(~rollout.truncated, rollout.values))


WRONG: dict[str, tuple[str, dict[str, Any], Callable[[pytest.MonkeyPatch], None] | None]] = {
    "ddof 0": ("plain", {}, constant(advantage_ddof=0)),
    "a lone row becomes 0": ("a lone row in the last minibatch", {}, constant(lone_advantage="zero")),
    "max form of the value clip": ("value clip", {}, constant(value_clip="max")),
    "schedule read before the rollout": ("schedules", {}, constant(schedule_after_rollout=False)),
    "early stop at the target itself": ("early stop", {}, constant(kl_stop=1.0)),
    "half the weight of the value loss": ("plain", {"vf_coef": 0.5}, None),
    "an epsilon of 1e-8 in Adam": ("plain", {"adam_eps": 1e-8}, None),
    "gradient not clipped": ("plain", {"max_grad_norm": 1e9}, None),
    "no entropy bonus": ("entropy bonus", {"ent_coef": 0.0}, None),
    "time-major rows": ("plain", {}, time_major),
    "truncation as termination": ("plain", {}, estimated(limits_as_ends)),
    "credit that crosses a truncation": ("plain", {}, estimated(credit_over_limits)),
    "V of the reset observation at a truncation": ("plain", {}, estimated(value_of_the_next_row)),
    "V(s_t) for V(s_{t+1}) at a truncation": ("plain", {}, estimated(value_of_the_same_row)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_choice_shows(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variation, changes, plant = WRONG[wrong]
    if plant is not None:
        plant(monkeypatch)
    apart = difference(ours("CartPole", variation, **changes).after[-1], theirs("CartPole", variation).after[-1])
    print(f"{wrong}: {apart:.0e}")
    assert apart > 10 * TOLERANCE
