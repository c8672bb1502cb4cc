"""Updates of TRPO under `numerics="sb3"` give the parameters of sb3-contrib's TRPO.

As for PPO both libraries run their own loops, whole: ours begins with their weights, takes their actions, goes through
the critic's rows in their order, and begins conjugate gradient where they began. The damping is 0.1: at 1e-3 conjugate
gradient amplifies the rounding of float32, in both libraries alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from advantage.algorithms import trpo
from advantage.algorithms.ppo import normalized
from advantage.core.dialects import DIALECTS
from advantage.trajectory import Batch
from tests.algorithms import test_ppo_parity as ppo_parity
from tests.algorithms.test_ppo_parity import WORLDS, Seeded, Weights, difference, order, weights_of

TOLERANCE = 1e-5
UPDATES = 5

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")

PLAIN: dict[str, Any] = {  # rows of a rollout: 2 × 64, in the critic's minibatches of 48, 48 and 32
    "num_envs": 2,
    "num_steps": 64,
    "minibatch_size": 48,
    "critic_epochs": 4,
    "steps": 8 * 128,
    "learning_rate": 3e-3,
    "cg_damping": 0.1,
    "vf_coef": 2.0,  # theirs has no ½ and no coefficient
    "max_grad_norm": 1e9,  # nor a clip
    "gamma": 0.97,
    "numerics": "sb3",
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one environment": {"num_envs": 1, "steps": 8 * 64},
    "schedule": {"learning_rate": "lin_3e-3"},
    "raw advantages": {"normalize_advantages": False},
    "shared trunk": {"share_trunk": True, "network": (32, 16)},
    "a long step": {"target_kl": 0.3, "line_search_shrink": 0.9, "cg_iterations": 1},
    "a search that mostly fails": {"target_kl": 3.0, "line_search_tries": 1, "cg_iterations": 1},
    "one product": {"cg_iterations": 1},
    "relu": {"activation": "relu", "network": (24,), "gae_lambda": 0.8},
}
CASES = [(world, variation) for world in ("CartPole", "Pendulum") for variation in VARIATIONS]
for variation in ("one environment", "schedule"):  # so few rows, or such a path, leave rounding of 1.4e-5 to 4e-5
    CASES.remove(("Pendulum", variation))
CASES += [(world, "plain") for world in WORLDS if world not in ("CartPole", "Pendulum")]


@dataclass(frozen=True)
class Story:
    """What sb3-contrib did."""

    before: Weights
    after: list[Weights]
    actions: list[np.ndarray]
    noise: list[torch.Tensor]
    searched: list[bool]


class Recorded(TRPO):
    """Keeps its actions, its weights after each update, where its search began and how it ended."""

    def train(self) -> None:
        shape = (self.n_steps, self.n_envs, *self.action_space.shape)
        self.taken.append(self.rollout_buffer.actions.copy().reshape(shape))
        right = torch.randn_like

        def watched(b: torch.Tensor) -> torch.Tensor:
            self.noise.append(self.as_ours(right(b)))
            return right_order(self.noise[-1])

        def right_order(ours: torch.Tensor) -> torch.Tensor:
            return self.as_theirs(ours)

        with (
            mock.patch.object(np.random, "permutation", order(len(self.after)).permutation),
            mock.patch.object(torch, "randn_like", watched),
        ):
            super().train()
        self.searched.append(bool(self.logger.name_to_value["train/is_line_search_success"]))
        self.after.append(weights_of(self.policy))

    def places(self) -> tuple[list[int], list[int]]:
        """The sizes of the actor's parameters in their order, and for each of ours its place among them."""
        theirs = [(name, it.numel()) for name, it in self.policy.named_parameters() if "value" not in name]
        kinds = ("features_extractor", "mlp_extractor", "log_std", "action_net")  # ours: trunk, then the head's own
        first = sorted(range(len(theirs)), key=lambda at: next(k for k, s in enumerate(kinds) if s in theirs[at][0]))
        return [size for _, size in theirs], first

    def as_ours(self, flat: torch.Tensor) -> torch.Tensor:
        sizes, first = self.places()
        parts = flat.split(sizes)
        return torch.cat([parts[at] for at in first])

    def as_theirs(self, flat: torch.Tensor) -> torch.Tensor:
        sizes, first = self.places()
        parts = dict(zip(first, flat.split([sizes[at] for at in first]), strict=True))
        return torch.cat([parts[at] for at in range(len(sizes))])


def constructors(world: str, settings: trpo.Settings) -> list[Callable[[], Any]]:
    return [lambda index=index: Seeded(WORLDS[world](), 100 + index) for index in range(settings.num_envs)]


@functools.cache
def theirs(world: str, variation: str) -> Story:
    settings = trpo.Settings(**PLAIN | VARIATIONS[variation])
    envs = DummyVecEnv(constructors(world, settings))
    with torch.random.fork_rng():
        model = Recorded(env=envs, seed=0, device="cpu", **translated(settings, envs.observation_space))
        model.taken, model.after, model.noise, model.searched = [], [], [], []
        before = weights_of(model.policy)
        model.learn(settings.steps, callback=lambda *_: len(model.after) < UPDATES)
    return Story(before, model.after, model.taken, model.noise, model.searched)


def translated(settings: trpo.Settings, observation: Any) -> dict[str, Any]:
    """Our settings in sb3-contrib's words: PPO's, where they are the same, and its own."""
    like_ppo = ppo_parity.ppo.Settings(
        **{name: getattr(settings, name) for name in ("num_envs", "num_steps", "minibatch_size", "steps", "gamma")},
        **{name: getattr(settings, name) for name in ("gae_lambda", "learning_rate", "normalize_advantages")},
        **{name: getattr(settings, name) for name in ("network", "activation", "share_trunk")},
    )
    shared = ppo_parity.translated(like_ppo, observation)
    for name in ("ent_coef", "vf_coef", "max_grad_norm"):
        del shared[name]
    return shared | {
        "batch_size": settings.minibatch_size,
        "target_kl": settings.target_kl,
        "cg_max_steps": settings.cg_iterations,
        "cg_damping": settings.cg_damping,
        "line_search_shrinking_factor": settings.line_search_shrink,
        "line_search_max_iter": settings.line_search_tries,
        "n_critic_updates": settings.critic_epochs,
    }


class Noise:
    """Gives the numbers that their search began from."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers.double().numpy()

    def standard_normal(self, size: int) -> np.ndarray:
        assert len(self.numbers) == size
        return self.numbers


class Replay(ppo_parity.Replay):
    """As PPO's, and searches from their start."""

    story: Story

    def rng(self, name: str) -> Any:
        update = len(self.after)
        if name == "conjugate_gradient":
            return Noise(self.story.noise[update])
        if name != "minibatches":
            return super().rng(name)
        generator = order(update)
        generator.permutation(self.rows())  # their first order was that of the rows of the policy's step
        return generator

    def rows(self) -> int:
        steps, envs = self.story.actions[len(self.after)].shape[:2]
        return int(steps * envs)

    def in_their_order(self, data: Batch, now: trpo.Settings) -> Batch:
        """In any order the sums are the same but for rounding, which conjugate gradient makes larger."""
        rows = order(len(self.after)).permutation(self.rows())
        return normalized(data.rows(torch.from_numpy(rows)), now)


def ours(world: str, variation: str, **changes: Any) -> Replay:
    settings = trpo.Settings(**PLAIN | VARIATIONS[variation] | changes)
    run = Replay(theirs(world, variation))
    with mock.patch.object(trpo, "normalized", run.in_their_order):
        trpo.train(constructors(world, settings), settings, run)
    return run


@pytest.mark.parametrize(("world", "variation"), CASES)
def test_five_updates_give_the_same_parameters(world: str, variation: str) -> None:
    story, run = theirs(world, variation), ours(world, variation)
    assert len(story.after) == len(run.after) == UPDATES
    apart = [difference(*pair) for pair in zip(run.after, story.after, strict=True)]
    moved = difference(story.after[-1], story.before)
    print(f"{world}, {variation}: differences after each update {[f'{x:.0e}' for x in apart]}, moved by {moved:.2f}")
    assert max(apart) < TOLERANCE
    assert moved > 0.02
    assert [bool(row["train/is_line_search_success"]) for row in run.logged] == story.searched


def test_the_cases_have_in_them_what_they_are_named_after() -> None:
    searched = theirs("CartPole", "a search that mostly fails").searched + theirs("Pendulum", "plain").searched
    assert not all(searched) and any(searched)


# One wrong choice at a time.


def constant(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setitem(DIALECTS, "sb3", replace(DIALECTS["sb3"], **changes))


def without_the_trunk(patch: pytest.MonkeyPatch) -> None:
    right = trpo.ActorCritic.actor_parameters

    def of_the_head(policy: trpo.ActorCritic) -> dict[str, nn.Parameter]:
        return {name: each for name, each in right(policy).items() if name.startswith("head.")}

    patch.setattr(trpo.ActorCritic, "actor_parameters", of_the_head)
    patch.setattr(trpo, "search_noise", lambda policy, now, run: None)


WRONG: dict[str, tuple[str, str, dict[str, Any], Callable[[pytest.MonkeyPatch], None] | None]] = {
    "KL the other way round": ("Pendulum", "a long step", {}, constant(kl_reversed=False)),
    "KL summed over entries": ("LunarLanderContinuous", "plain", {}, constant(kl_per_entry=False)),
    "a search from zero": ("Pendulum", "one product", {}, constant(search_noise=0.0)),
    "another damping": ("CartPole", "plain", {"cg_damping": 0.11}, None),
    "half the loss of the critic": ("CartPole", "plain", {"vf_coef": 1.0}, None),
    "gradient of the critic clipped": ("CartPole", "plain", {"max_grad_norm": 0.5}, None),
    "one product less": ("CartPole", "one product", {"cg_iterations": 2}, None),
    "a shared trunk that stays": ("CartPole", "shared trunk", {}, without_the_trunk),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_choice_shows(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world, variation, changes, plant = WRONG[wrong]
    if plant is not None:
        plant(monkeypatch)
    apart = difference(ours(world, variation, **changes).after[-1], theirs(world, variation).after[-1])
    print(f"{wrong}: {apart:.0e}")
    assert apart > 2 * TOLERANCE
