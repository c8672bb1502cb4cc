"""A trained policy on its own: one observation or many, in numbers of any kind, and what it does not take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

import advantage
from advantage.control.agent import Agent
from advantage.control.normalization import Normalizer
from advantage.control.policy import make_policy
from advantage.control.settings import Control
from advantage.control.space_trees import Spaces
from advantage.errors import UserError
from advantage.runs.state import restore, snapshot
from advantage.trajectory import tree_leaves, tree_map
from tests.control.worlds import Paid

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
FOUR = spaces.Discrete(4, start=-2)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "box": BOX,
    "matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    "bytes": spaces.Box(0, 255, (2, 2), np.uint8),
    "number": spaces.Box(-1.0, 1.0, (), np.float32),
    "discrete": spaces.Discrete(5, start=3),
    "multi discrete": spaces.MultiDiscrete([2, 3]),
    "multi binary": spaces.MultiBinary(3),
}
OBSERVATIONS["dict"] = spaces.Dict(OBSERVATIONS)
OBSERVATIONS["tuple"] = spaces.Tuple((BOX, spaces.Discrete(2), spaces.Dict({"z": BOX, "a": FOUR})))
ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": FOUR,
    "multi discrete": spaces.MultiDiscrete([2, 3], start=[1, 5]),
    "multi binary": spaces.MultiBinary(3),
    "box": spaces.Box(np.array([-0.1, 3.0], np.float32), np.array([0.1, 4.0], np.float32)),
}
ACTIONS["dict"] = spaces.Dict({"z": FOUR, "a": spaces.Tuple((ACTIONS["box"], spaces.MultiBinary(2)))})


def agent(observation: spaces.Space[Any] = BOX, action: spaces.Space[Any] = FOUR, **given: Any) -> Agent:
    """A policy whose choices differ, with moments of 40 observations where it normalises."""
    settings = Control(network=(8,), orthogonal_init=False, **given)
    many = batch_space(observation, 40)
    many.seed(1)
    seen = many.sample()
    normalizer = Normalizer(observation, 40, settings)
    normalizer.learn_observations(tree_map(lambda leaf: leaf / 2, seen), np.ones(40, bool))
    return Agent(None, settings, make_policy(observation, action, settings, 0), normalizer, Spaces(observation, action))


def several(space: spaces.Space[Any], count: int = 6) -> Any:
    many = batch_space(space, count)
    many.seed(0)
    return many.sample()


def row(tree: Any, index: int) -> Any:
    return tree_map(lambda leaf: leaf[index], tree)


def equal(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True))


def as_lists(tree: Any) -> Any:
    return tree_map(lambda leaf: np.asarray(leaf).tolist(), tree)


# --- one or many ---


@pytest.mark.parametrize("normalize", [False, True], ids=["", "normalised"])
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_a_batch_is_acted_on_and_valued_row_by_row(name: str, normalize: bool) -> None:
    found = agent(OBSERVATIONS[name], ACTIONS["box"], normalize_observations=normalize)
    batch = several(OBSERVATIONS[name])
    actions, values = found.act(batch), found.value(batch)
    assert actions.shape == (6, 2) and isinstance(values, np.ndarray) and values.shape == (6,)
    for index in range(6):
        assert found.act(row(batch, index)) == pytest.approx(actions[index], abs=1e-6)
        alone = found.value(row(batch, index))
        assert isinstance(alone, float) and alone == pytest.approx(values[index], abs=1e-6)
    assert len(np.unique(values)) > 1


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_lists_do_as_well_as_arrays(name: str) -> None:
    found = agent(OBSERVATIONS[name])
    batch = several(OBSERVATIONS[name])
    assert equal(found.value(as_lists(batch)), found.value(batch))
    assert equal(found.act(as_lists(row(batch, 0))), found.act(row(batch, 0)))


def test_what_an_environment_s_space_gives_is_one_observation() -> None:
    space = OBSERVATIONS["dict"]
    space.seed(0)
    assert agent(space).act(space.sample()).shape == ()


def test_a_batch_of_one_stays_a_batch() -> None:
    found = agent()
    assert found.act(np.zeros((1, 3))).shape == (1,)
    assert np.shape(found.value(np.zeros((1, 3)))) == (1,)


def test_other_kinds_of_numbers_are_taken_as_the_space_s_own() -> None:
    found = agent()
    for observation in (np.array([1, 0, 1]), [True, False, True], (1.0, 0.0, 1.0), torch.tensor([1.0, 0.0, 1.0])):
        assert found.value(observation) == found.value(np.array([1, 0, 1], np.float32))


def test_a_dict_may_have_its_keys_in_any_order() -> None:
    found = agent(OBSERVATIONS["dict"], normalize_observations=True)
    batch = several(OBSERVATIONS["dict"])
    assert equal(found.value(dict(reversed(batch.items()))), found.value(batch))


# --- actions ---


@pytest.mark.parametrize("how", ["clip", "rescale"])
@pytest.mark.parametrize("name", ACTIONS)
def test_actions_are_the_environment_s(name: str, how: str) -> None:
    """Of its structure, dtype, bounds and start; a leaf of a batch has one axis more."""
    space = ACTIONS[name]
    found = agent(action=space, action_bounds=how)
    batch = several(BOX, 50)
    for deterministic in (True, False):
        actions = found.act(batch, deterministic=deterministic)
        assert all(space.contains(row(actions, index)) for index in range(50))
        assert space.contains(found.act(batch[0], deterministic=deterministic))
    for leaf, its in zip(tree_leaves(actions), tree_leaves(space.sample()), strict=True):
        assert leaf.shape == (50, *np.shape(its)) and leaf.dtype == np.asarray(its).dtype


def test_deterministic_actions_repeat_themselves_and_sampled_ones_do_not() -> None:
    found, observation = agent(action=ACTIONS["box"], action_bounds="rescale", log_std_init=-2.0), np.zeros(3)
    assert equal(found.act(observation), found.act(observation))
    sampled = np.array([found.act(observation, deterministic=False) for _ in range(30)])
    assert len(np.unique(sampled[:, 0])) > 20


def test_each_row_of_a_batch_is_sampled_on_its_own() -> None:
    found = agent(action=ACTIONS["box"], action_bounds="rescale", log_std_init=-2.0)
    assert len(np.unique(found.act(np.zeros((30, 3)), deterministic=False)[:, 0])) > 20


@pytest.mark.parametrize("deterministic", [True, False])
def test_masks_are_honoured(deterministic: bool) -> None:
    found, batch = agent(), several(BOX, 60)
    legal = np.random.default_rng(0).random((60, 4)) < 0.3
    legal[np.arange(60), np.arange(60) % 4] = True
    actions = found.act(batch, deterministic, action_mask=legal)
    assert legal[np.arange(60), actions + 2].all()
    for action in range(4):
        alone = [int(choice == action) for choice in range(4)]
        assert found.act(batch[0], deterministic, action_mask=alone) == action - 2


def test_each_choice_of_several_has_its_block_of_the_mask() -> None:
    found = agent(action=ACTIONS["multi discrete"])
    assert found.act(np.zeros(3), action_mask=[0, 1, 1, 0, 0]).tolist() == [1 + 1, 5 + 0]


def test_acting_leaves_no_gradient_nor_moments_behind() -> None:
    found = agent(normalize_observations=True)
    moments, weights = found.normalizer.state(), snapshot(found.network)
    found.act(several(BOX), deterministic=False)
    found.value(several(BOX))
    assert all(np.array_equal(value, moments[name]) for name, value in found.normalizer.state().items())
    assert all(torch.equal(value, weights[name]) for name, value in snapshot(found.network).items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in found.network.parameters())


# --- what is refused ---

PAIR = spaces.Dict({"n": spaces.Discrete(3), "x": BOX})


@pytest.mark.parametrize(
    ("space", "observation", "text"),
    [
        (BOX, np.zeros(4), "observation has shape (4,), its space says (3,)"),
        (BOX, np.zeros((2, 4)), "observation has shape (2, 4)"),
        (BOX, np.zeros((2, 2, 3)), "observation has shape (2, 2, 3)"),
        (BOX, np.zeros(1), "observation has shape (1,)"),
        (BOX, np.zeros((5, 1)), "observation has shape (5, 1)"),
        (BOX, 0.0, "observation has shape ()"),
        (BOX, "left", "observation has shape ()"),
        (BOX, {"x": 0.0}, "observation has shape ()"),
        (BOX, [[0, 0, 0], [0, 0]], "observation is no array"),
        (OBSERVATIONS["matrix"], np.zeros((3, 2)), "observation has shape (3, 2), its space says (2, 3)"),
        (spaces.Discrete(3), 3, "outside Discrete(3)"),
        (spaces.Discrete(3, start=2), [2, 5, 1], "a discrete observation is 5; its space has 2 … 4"),
        (spaces.MultiDiscrete([2, 3]), [[0, 0], [1, -1]], "a discrete observation is -1; its space has 0 … 2"),
        (PAIR, {"x": np.zeros(3)}, "its space has the keys n, x"),
        (PAIR, np.zeros(3), "its space has the keys n, x"),
        (PAIR, {"x": np.zeros(4), "n": 1}, "observation/x has shape (4,)"),
        (PAIR, {"x": np.zeros((2, 3)), "n": 1}, "observation/x has shape (2, 3)"),
        (PAIR, {"x": np.zeros(3), "n": [1, 1]}, "observation/n has shape (2,)"),
        (PAIR, {"x": np.zeros((2, 3)), "n": [1, 1, 1]}, "a batch with one axis more in front of every part"),
        (spaces.Tuple((BOX, BOX)), (np.zeros(3),), "its space is a tuple of 2"),
    ],
)
@pytest.mark.parametrize("normalize", [False, True], ids=["", "normalised"])
def test_observations_of_another_shape_are_refused(
    space: spaces.Space[Any], observation: Any, text: str, normalize: bool
) -> None:
    found = agent(space, normalize_observations=normalize)
    for call in (found.act, found.value):
        with pytest.raises(UserError) as caught:
            call(observation)
        assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("action", "mask", "text"),
    [
        (FOUR, [0, 0, 0, 0], "allows no action"),
        (FOUR, [1, 1, 1], "(1, 3) as a batch"),
        (FOUR, [[1, 1, 1, 1]], "(1, 1, 4) as a batch"),
        (ACTIONS["multi discrete"], [1, 1, 0, 0, 0], "allows no action; allow at least one of every choice"),
        (BOX, [1, 1, 1], "for Discrete and MultiDiscrete actions"),
    ],
)
def test_masks_that_cannot_be_are_refused(action: spaces.Space[Any], mask: Any, text: str) -> None:
    with pytest.raises(UserError) as caught:
        agent(action=action).act(np.zeros(3), action_mask=mask)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_every_row_of_a_batch_needs_its_mask() -> None:
    for mask in ([1, 1, 1, 1], [[1, 1, 1, 1]], [[1, 1, 1, 1], [0, 0, 0, 0]]):
        with pytest.raises(UserError, match="action_mask"):
            agent().act(np.zeros((2, 3)), action_mask=mask)


# --- from a run ---


class Walk(Paid):
    """A Dict observation far from mean 0, a box of actions that is not around 0."""

    def __init__(self) -> None:
        far = spaces.Box(90.0, 110.0, (2,), np.float32)
        super().__init__(lambda _: (5, "truncated"), spaces.Dict({"x": far, "n": spaces.Discrete(3)}), ACTIONS["box"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> advantage.Run:
    small: dict[str, Any] = {
        "num_envs": 2,
        "num_steps": 16,
        "minibatch_size": 16,
        "epochs": 1,
        "steps": 64,
        "network": (8,),
    }
    path: Path = tmp_path_factory.mktemp("agent") / "run"
    return advantage.train("ppo", Walk, run_dir=path, quiet=True, normalize_observations=True, **small)


def test_a_run_s_policy_acts_through_the_moments_it_was_trained_with(run: advantage.Run) -> None:
    states, _ = run.reader.policy("last")
    batch = several(run.policy.observation_space)
    moments = states["normalizer"]
    names = [name for name in moments if name.endswith("mean") and np.size(moments[name]) == 2]
    assert len(names) == 1 and np.all(np.abs(np.asarray(moments[names[0]]) - 100) < 5)
    variance = np.asarray(moments[names[0].replace("mean", "variance")])
    shown = (batch["x"] - np.asarray(moments[names[0]])) / np.sqrt(variance + 1e-8)
    raw = agent(run.policy.observation_space, ACTIONS["box"])
    restore(raw.network, {name: torch.as_tensor(value) for name, value in states["policy"].items()})
    np.testing.assert_allclose(run.policy.act(batch), raw.act(batch | {"x": shown}), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run.policy.value(batch), raw.value(batch | {"x": shown}), rtol=1e-4, atol=1e-5)
    assert run.policy.action_space.contains(run.policy.act(row(batch, 0)))


def test_a_policy_loaded_again_acts_alike(run: advantage.Run) -> None:
    again, batch = advantage.load(run.path, env=Walk).policy, several(run.policy.observation_space)
    assert equal(again.act(batch), run.policy.act(batch)) and equal(again.value(batch), run.policy.value(batch))
    first, other = (advantage.load(run.path, env=Walk).policy for _ in range(2))
    assert equal(first.act(batch, deterministic=False), other.act(batch, deterministic=False))


def test_evaluations_play_what_act_says(run: advantage.Run) -> None:
    """Episodes driven by `act` alone, from the seeds that the evaluation used, see and pay the same."""
    seen: list[Any] = []

    class Watched(Walk):
        last: Any

        def step(self, action: Any) -> Any:
            seen.append((self.last, action))
            found = super().step(action)
            self.last = found[0]
            return found

        def reset(self, **options: Any) -> Any:
            found = super().reset(**options)
            self.last = found[0]
            return found

    score = advantage.load(run.path, env=Watched).evaluate(episodes=3, seed=5)
    assert score.lengths.tolist() == [5, 5, 5]
    assert len(seen) >= 15
    for observation, action in seen:
        np.testing.assert_allclose(run.policy.act(observation), action, rtol=1e-5, atol=1e-6)


def test_building_an_agent_does_not_disturb_torch_s_generator(run: advantage.Run) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2).tolist()
    torch.manual_seed(3)
    advantage.load(run.path, env=Walk).policy.act(several(run.policy.observation_space), deterministic=False)
    assert torch.rand(2).tolist() == expected
