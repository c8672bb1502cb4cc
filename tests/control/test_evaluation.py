"""Held-out evaluation: the right number of whole episodes, none preferred, repeatable, and nothing changed by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from advantage.control.evaluation import Score, evaluate
from advantage.control.setup import held_out
from advantage.errors import RunFailed
from advantage.trajectory import Tree
from tests.control.scripted import Masked
from tests.control.worlds import MODES, Mine, Paid, Setup, World, world

SEEN = spaces.Box(-1.0, 1.0, (2,), np.float32)


def score(found: World, episodes: int, seed: int = 0, rng: np.random.Generator | None = None) -> Score:
    return evaluate(found.envs, found.policy, found.normalizer, found.bounds, episodes, seed, rng)


def lasting(length: int) -> Callable[[], gym.Env[Any, Any]]:
    """Pays its length at every step."""
    return lambda: Paid(lambda _: (length, "terminated"), SEEN, reward=lambda _: float(length))


# --- how many, and which ---


@pytest.mark.parametrize("episodes", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("mode", MODES)
def test_every_environment_gives_the_same_number_of_episodes_the_first_ones_one_more(mode: str, episodes: int) -> None:
    """However long its own are: the first three to end would be those of length 1."""
    lengths = [9, 1, 4]
    found = score(world([lasting(length) for length in lengths], mode), episodes)
    owed = [lengths[i % 3] for i in range(episodes)]
    assert found.lengths.tolist() == sorted(owed, key=lengths.index)
    assert found.returns.tolist() == [length**2 for length in found.lengths]


@pytest.mark.parametrize("mode", MODES)
def test_of_each_environment_the_first_episodes_count(mode: str) -> None:
    growing: list[Callable[[], gym.Env[Any, Any]]]
    growing = [lambda first=first: Paid(lambda episode: (first + episode, "truncated"), SEEN) for first in (1, 10)]
    assert score(world(growing, mode), 5).lengths.tolist() == [2, 3, 4, 11, 12]  # one reset came before


def test_an_evaluation_begins_with_new_episodes_and_forgets_open_ones() -> None:
    found = world([lasting(5)] * 2)
    score(found, 2)
    found.envs.step(np.zeros(2, np.int64))
    again = score(found, 2)
    assert again.lengths.tolist() == [5, 5] and again.returns.tolist() == [25.0, 25.0]


def test_short_episodes_are_not_preferred() -> None:
    """1 or 31 steps with equal chance, two episodes each of 32 environments, ten times over: 16 ± 15/√640.

    Within 3.3 standard errors a right quota fails with one seed in a thousand; the first to end are nearly all short.
    """

    class Drawn(Paid):
        """Draws each episode's length from its own generator."""

        def __init__(self) -> None:
            super().__init__(lambda _: (self.length, "terminated"), SEEN, reward=lambda _: 1.0)

        def reset(self, **options: Any) -> Any:
            found = super().reset(**options)
            self.length = 31 if self.np_random.random() < 0.5 else 1
            return found

    found = world([Drawn] * 32)
    lengths = np.concatenate([score(found, 64, seed).lengths for seed in range(10)])
    assert len(lengths) == 640
    assert abs(lengths.mean() - 16) < 3.3 * 15 / math.sqrt(640)


# --- what is counted ---


def test_returns_are_undiscounted_in_the_environment_s_own_rewards() -> None:
    found = world([lasting(7)], normalize_rewards=True, gamma=0.5)
    assert score(found, 2).returns.tolist() == [49.0, 49.0]


def test_a_score_in_numbers() -> None:
    found = Score(np.array([1.0, 2.0, 6.0]), np.array([4, 5, 9]))
    assert found.mean == 3.0 and found.std == pytest.approx(math.sqrt(14 / 3))
    assert found.scalars() == {
        "eval/mean_reward": 3.0,
        "eval/std_reward": pytest.approx(math.sqrt(14 / 3)),
        "eval/mean_ep_length": 6.0,
    }


# --- how it acts ---


class Asked(Mine):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.noises: list[Tensor | None] = []
        self.seen: list[Tensor] = []

    def act(self, context: Tree, noise: Tensor | None) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.noises.append(noise)
        self.seen.append(context["observation"].clone())
        return super().act(context, noise)


class Counts(Paid):
    """Pays the action that was taken."""

    def __init__(self) -> None:
        super().__init__(lambda _: (20, "terminated"), SEEN)

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float(action), *rest


def test_without_a_generator_it_acts_deterministically() -> None:
    policy = Asked()
    score(world([Counts] * 2, policy=policy), 2)
    assert len(policy.noises) == 20 and all(noise is None for noise in policy.noises)


def test_with_a_generator_it_samples_with_fresh_noise_at_every_step_of_every_environment() -> None:
    policy = Asked()
    score(world([Counts] * 2, policy=policy), 2, rng=np.random.default_rng(0))
    noises = torch.stack([noise for noise in policy.noises if noise is not None])
    assert noises.shape == (20, 2, 1) and len(noises.unique()) == 40


def test_the_same_seed_gives_the_same_returns_and_another_one_does_not() -> None:
    found = world([Counts] * 2)
    first, again, other = (score(found, 5, seed).returns.tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_the_same_noise_gives_the_same_returns_and_other_noise_does_not() -> None:
    found = world([Counts] * 2)
    first, again, other = (score(found, 4, 3, np.random.default_rng(n)).returns.tolist() for n in (0, 0, 1))
    assert first == again != other


def test_observations_are_normalised_by_moments_that_stay() -> None:
    policy = Asked()
    found = world([Counts], policy=policy, normalize_observations=True)
    found.normalizer.learn_observations(np.array([[1.0, 3.0], [3.0, 7.0]]), np.ones(2, bool))  # means 2, 5; stds 1, 2
    before = found.normalizer.state()
    score(found, 1)
    raw = np.array([entry[0] for entry in found.logs()[0]])
    shown = torch.cat(policy.seen).numpy()
    np.testing.assert_allclose(shown, (raw - [2.0, 5.0]) / [1.0, 2.0], rtol=1e-5, atol=1e-6)
    assert all(np.array_equal(value, before[name]) for name, value in found.normalizer.state().items())


def test_the_network_is_left_as_it_was() -> None:
    found = world([Counts])
    before = {name: value.clone() for name, value in found.policy.state_dict().items()}
    score(found, 2, rng=np.random.default_rng(0))
    assert all(torch.equal(value, before[name]) for name, value in found.policy.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in found.policy.parameters())


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_masks_are_honoured(mode: str, sampled: bool) -> None:
    """One legal action at each moment: it is the one taken."""
    rows = [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    found = world([lambda: Masked(rows, length=4)] * 2, mode)
    score(found, 4, rng=np.random.default_rng(0) if sampled else None)
    for log in found.logs():
        taken = [int(entry[1]) for entry in log[:8]]
        assert taken == [np.argmax(rows[moment % 5]) for moment in range(1, 9)]  # 0 was told before


def test_actions_are_bounded_as_in_training() -> None:
    box = spaces.Box(2.0, 6.0, (1,), np.float32)
    for how, middle in (("clip", 2.0), ("rescale", 4.0)):
        found = world([lambda: Paid(lambda _: (3, "truncated"), SEEN, box)], action_bounds=how)
        with torch.no_grad():
            found.policy.head.mean.weight.zero_()
        score(found, 1)
        assert [entry[1].tolist() for entry in found.logs()[0]] == [[middle]] * 3


# --- episodes without an end ---


@pytest.mark.parametrize("mode", MODES)
def test_an_episode_that_counts_and_does_not_end_fails_by_name(mode: str) -> None:
    found = world([lasting(4), lasting(10**9)], mode)
    assert evaluate(*found, 1, 0, max_steps=5).lengths.tolist() == [4]
    with pytest.raises(RunFailed, match=r"has not ended after eval_max_steps=5 steps; give .* or raise eval_max_steps"):
        evaluate(*found, 2, 0, max_steps=5)
    settings = Setup(eval_max_steps=5)
    with pytest.raises(RunFailed, match="eval_max_steps=5"):
        held_out(lasting(6), found.policy, found.normalizer, settings, 0, 1)


def test_an_episode_of_just_the_bound_counts() -> None:
    assert evaluate(*world([lasting(5)]), 2, 0, max_steps=5).lengths.tolist() == [5, 5]


# --- environments of its own ---


def test_held_out_environments_are_new_ones_as_many_as_there_are_episodes_and_closed_again() -> None:
    made: list[gym.Env[Any, Any]] = []
    closed: list[gym.Env[Any, Any]] = []

    class Noted(Counts):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def close(self) -> None:
            closed.append(self)

    found = world([Noted] * 4)
    made.clear()
    settings = Setup(num_envs=4, eval_episodes=2)
    for episodes, expected, environments in ((None, 2, 2), (3, 3, 3), (9, 9, 4)):
        made.clear()
        closed.clear()
        whole = held_out(Noted, found.policy, found.normalizer, settings, 0, episodes)
        assert len(whole.returns) == expected
        assert len(made) == environments and set(made) == set(closed)
    assert found.envs.steps == 0
