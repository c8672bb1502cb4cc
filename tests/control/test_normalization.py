"""Running moments against NumPy's over everything seen; what is scaled by them, what is not, and when they change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from advantage.control.evaluation import evaluate
from advantage.control.normalization import Array, Moments, Normalizer
from advantage.trajectory import tree_leaves
from tests.control.worlds import Paid, world


def normalizer(observation: Any = None, num_envs: int = 2, **settings: Any) -> Normalizer:
    defaults = {"observation_clip": 10.0, "reward_clip": 10.0, "gamma": 0.9}
    both = {"normalize_observations": True, "normalize_rewards": True}
    seen = np.zeros((num_envs, 3), np.float32) if observation is None else observation
    return Normalizer(space_of(seen), num_envs, SimpleNamespace(**defaults | both | settings))


def space_of(seen: Any) -> spaces.Space[Any]:
    """A space of such observations: whole numbers by themselves are choices, int8 are bits, the rest are boxes."""
    if isinstance(seen, dict):
        return spaces.Dict({key: space_of(part) for key, part in seen.items()})
    if isinstance(seen, tuple):
        return spaces.Tuple([space_of(part) for part in seen])
    if seen.dtype == np.int8:
        return spaces.MultiBinary(seen.shape[1:])
    if seen.dtype.kind == "i" and seen.ndim == 1:
        return spaces.Discrete(9)
    return spaces.Box(0, 1, seen.shape[1:], seen.dtype)


def normal(seed: int, *shape: int, mean: float = 0.0, std: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(mean, std, shape)


def never(shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, bool)


# --- moments ---


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 1),
    offset=st.sampled_from([0.0, 1.0, -1e4, 1e8]),
    spread=st.sampled_from([1e-2, 1.0, 1e3]),
    seed=st.integers(0, 2**16),
)
def test_moments_are_numpy_s_of_everything_seen(sizes: list[int], offset: float, spread: float, seed: int) -> None:
    """However it came in pieces. The offset's own rounding, 1e8 · 2⁻⁵², is all that may be lost of a std."""
    rows = normal(seed, sum(sizes), 2, mean=offset, std=spread)
    moments = Moments((2,))
    for piece in np.split(rows, np.cumsum(sizes)[:-1]):
        moments.update(piece)
    lost = abs(offset) * 2.0**-50
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12, atol=lost + 1e-12 * spread)
    np.testing.assert_allclose(np.sqrt(moments.variance), rows.std(0), rtol=1e-9, atol=lost)
    assert moments.count == len(rows)


def test_an_offset_of_1e8_leaves_the_spread() -> None:
    moments = Moments(())
    for seed in range(50):
        moments.update(1e8 + normal(seed, 20))
    seen = np.concatenate([normal(seed, 20) for seed in range(50)])
    assert float(moments.variance) == pytest.approx(seen.var(), rel=1e-6)


def test_float32_rows_are_summed_in_float64() -> None:
    rows = normal(0, 100_000, mean=1e4).astype(np.float32)
    moments = Moments(())
    moments.update(rows)
    assert moments.mean.dtype == moments.variance.dtype == np.float64
    assert float(moments.mean) == pytest.approx(rows.mean(dtype=np.float64), rel=1e-13)
    assert float(moments.variance) == pytest.approx(rows.astype(np.float64).var(), rel=1e-9)


def test_before_anything_was_seen_nothing_changes() -> None:
    moments = Moments((3,))
    moments.update(np.zeros((0, 3)))
    assert moments.count == 0 and not moments.mean.any() and (moments.variance == 1).all()
    seen = normal(0, 2, 3)
    np.testing.assert_allclose(normalizer(seen).observe(seen), seen, rtol=1e-7)


def test_what_was_handed_out_as_state_is_no_window_on_the_moments() -> None:
    moments = Moments((2,))
    moments.update(normal(0, 5, 2))
    state = moments.state()
    mean = state["mean"].copy()
    state["mean"] += 1.0
    np.testing.assert_array_equal(moments.mean, mean)


# --- observations ---


def test_observations_come_to_mean_0_and_std_1() -> None:
    rows = normal(0, 400, 3, mean=50.0, std=7.0) * np.array([1.0, 10.0, 0.1])
    found = normalizer(rows.astype(np.float32))
    found.learn_observations(rows, np.ones(400, bool))
    scaled = found.observe(rows)
    np.testing.assert_allclose(scaled.mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(0), 1.0, rtol=1e-7)


def test_one_axis_or_several_are_scaled_by_the_same_moments() -> None:
    found = normalizer()
    rows = normal(0, 4, 6, 3, mean=2.0)
    found.learn_observations(rows, np.ones((4, 6), bool))
    np.testing.assert_array_equal(found.observe(rows)[1, 2], found.observe(rows[1, 2]))


@pytest.mark.parametrize("clip", [10.0, 1.5])
def test_observations_are_cut_off_at_the_clip(clip: float) -> None:
    found = normalizer(np.zeros((1, 1)), observation_clip=clip)
    found.learn_observations(np.array([[-1.0], [1.0]]), np.ones(2, bool))
    assert found.observe(np.array([[-1e6], [1.2], [1e6]])).ravel().tolist() == [-clip, pytest.approx(1.2), clip]


def test_what_never_changes_is_0_and_no_division_by_0() -> None:
    found = normalizer(np.zeros((1, 1)))
    found.learn_observations(np.full((8, 1), 3.0), np.ones(8, bool))
    assert found.observe(np.full((2, 1), 3.0)).tolist() == [[0.0], [0.0]]


def test_rows_that_were_no_decisions_are_not_learnt() -> None:
    rows, mask = normal(0, 5, 2, 3), never((5, 2))
    mask[[0, 3], [1, 0]] = True
    rows[~mask] = np.nan
    found = normalizer()
    found.learn_observations(rows, mask)
    (moments,) = found.observations
    assert moments is not None and moments.count == 2
    np.testing.assert_allclose(moments.mean, rows[mask].mean(0))


def test_looking_changes_nothing() -> None:
    found = normalizer()
    found.learn_observations(normal(0, 9, 3), np.ones(9, bool))
    before = found.state()
    rows = normal(1, 9, 3)
    kept = rows.copy()
    found.observe(rows)
    np.testing.assert_array_equal(rows, kept)
    assert all(np.array_equal(value, before[name]) for name, value in found.state().items())


def test_evaluation_leaves_the_moments_as_they_are() -> None:
    envs, policy, found, bounds = world(
        [lambda: Paid(lambda _: (4, "terminated"))] * 2, normalize_observations=True, normalize_rewards=True
    )
    found.learn_observations(normal(0, 30, 2, mean=4.0), np.ones(30, bool))
    found.scale_rewards(normal(1, 5, 2), never((5, 2)), never((5, 2)), ~never((5, 2)))
    before = found.state()
    evaluate(envs, policy, found, bounds, 5, 0)
    assert all(np.array_equal(value, before[name]) for name, value in found.state().items())


TREE: dict[str, Any] = {
    "reals": normal(0, 6, 2, mean=9.0).astype(np.float32),
    "others": (np.arange(6), np.ones((6, 3), np.int8)),
    "bytes": np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2),
    "doubles": normal(1, 6, mean=-4.0),
}


def test_boxes_are_scaled_by_their_name_and_choices_stay_as_they_are() -> None:
    found = normalizer(TREE, 6)
    found.learn_observations(dict(reversed(TREE.items())), np.ones(6, bool))
    scaled = found.observe(TREE)
    for mine, its in zip(tree_leaves(scaled["others"]), tree_leaves(TREE["others"]), strict=True):
        assert mine is its
    for name, dtype in {"reals": np.float32, "doubles": np.float64, "bytes": np.float32}.items():
        assert scaled[name].dtype == dtype
        np.testing.assert_allclose(scaled[name].mean(0), 0.0, atol=1e-6)
        np.testing.assert_allclose(scaled[name].std(0), 1.0, rtol=1e-5)


def test_without_boxes_or_where_not_asked_for_it_is_off() -> None:
    whole = np.arange(4)
    assert not normalizer(whole).active and normalizer(whole).observe(whole) is whole
    seen = normal(0, 2, 3)
    off = normalizer(seen, normalize_observations=False, normalize_rewards=False)
    off.learn_observations(seen, np.ones(2, bool))
    assert not off.active and off.observe(seen) is seen
    rewards = normal(0, 4, 2)
    assert off.scale_rewards(rewards, never((4, 2)), never((4, 2)), ~never((4, 2))) is rewards
    assert list(off.state()) == ["sums"]


# --- rewards ---


def test_reward_sums_by_hand() -> None:
    """γ = 0.5; the first environment ends by a terminal state after 2 steps, the second is cut after 1."""
    rewards = np.array([[1.0, 4.0], [2.0, -2.0], [8.0, 6.0]])
    terminated, truncated = never((3, 2)), never((3, 2))
    terminated[1, 0] = truncated[0, 1] = True
    sums = [1.0, 2.5, 8.0, 4.0, -2.0, 5.0]  # 1, 2 + 0.5·1, 8 | 4, −2, 6 − 0.5·2
    found = normalizer(gamma=0.5)
    scaled = found.scale_rewards(rewards, terminated, truncated, ~never((3, 2)))
    np.testing.assert_allclose(scaled, rewards / np.std(sums), rtol=1e-7)
    assert found.sums.tolist() == [8.0, 5.0]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_rewards_are_scaled_by_the_std_of_their_discounted_sum(gamma: float) -> None:
    """Sums by their definition, Σ γ^k r back to the episode's start, over every rollout so far."""
    found = normalizer(num_envs=3, gamma=gamma)
    rewards = normal(0, 60, 3, mean=1.0, std=5.0)
    ends = np.random.default_rng(1).random((60, 3)) < 0.2
    terminal = np.random.default_rng(2).random((60, 3)) < 0.5
    sums = np.zeros((60, 3))
    for t, env in np.ndindex(60, 3):
        before = np.flatnonzero(ends[:t, env])
        start = before[-1] + 1 if len(before) else 0
        sums[t, env] = sum(gamma ** (t - k) * rewards[k, env] for k in range(start, t + 1))
    for rows in (slice(0, 7), slice(7, 8), slice(8, 60)):
        flags = (ends & terminal)[rows], (ends & ~terminal)[rows]
        scaled = found.scale_rewards(rewards[rows], *flags, ~never(rewards[rows].shape))
        np.testing.assert_allclose(scaled, rewards[rows] / np.sqrt(sums[: rows.stop].var() + 1e-8), rtol=1e-9)


def test_rewards_keep_their_sign_and_are_never_centred() -> None:
    found = normalizer(num_envs=1)
    rewards = normal(0, 50, 1, mean=30.0)
    scaled = found.scale_rewards(rewards, never((50, 1)), never((50, 1)), ~never((50, 1)))
    assert (scaled > 0).all()
    np.testing.assert_allclose(scaled / rewards, scaled[0, 0] / rewards[0, 0])


@pytest.mark.parametrize("clip", [10.0, 0.5])
def test_rewards_are_cut_off_at_their_own_clip(clip: float) -> None:
    found = normalizer(num_envs=1, reward_clip=clip, observation_clip=1e-3, gamma=0.0)
    rewards = np.array([[100.0], [-100.0], *([[0.0]] * 998)])
    none = never((1000, 1))
    scaled = found.scale_rewards(rewards, none, none, ~none)
    assert scaled[:3].ravel().tolist() == [clip, -clip, 0.0]


def test_rows_that_were_no_decisions_count_in_no_sum() -> None:
    rewards, mask = np.array([[1.0], [np.nan], [2.0]]), np.array([[True], [False], [True]])
    found = normalizer(num_envs=1, gamma=0.5)
    found.scale_rewards(rewards, np.array([[True], [False], [False]]), never((3, 1)), mask)
    assert found.rewards is not None
    assert (found.rewards.count, float(found.rewards.mean)) == (2, 1.5)
    assert found.sums.tolist() == [2.0]


def test_a_start_forgets_open_sums_and_keeps_the_moments() -> None:
    found = normalizer()
    found.scale_rewards(normal(0, 4, 2), never((4, 2)), never((4, 2)), ~never((4, 2)))
    assert found.sums.all() and found.rewards is not None
    variance = found.rewards.variance
    found.start()
    assert found.sums.tolist() == [0.0, 0.0] and found.rewards.variance == variance


# --- state ---


def test_a_state_comes_back_to_the_bit_and_goes_on_alike() -> None:
    def rollout(found: Normalizer, seed: int) -> Array:
        found.learn_observations(normal(seed, 5, 2, 3, mean=0.1), ~never((5, 2)))
        return found.scale_rewards(normal(seed, 5, 2), never((5, 2)), never((5, 2)), ~never((5, 2)))

    one, other = normalizer(), normalizer()
    for seed in range(3):
        rollout(one, seed)
    state = one.state()
    rollout(one, 3)
    other.restore(state)
    assert {name: np.asarray(value).tobytes() for name, value in other.state().items()} == {
        name: np.asarray(value).tobytes() for name, value in state.items()
    }
    rollout(other, 3)
    assert rollout(one, 4).tobytes() == rollout(other, 4).tobytes()
    assert one.observe(normal(9, 2, 3)).tobytes() == other.observe(normal(9, 2, 3)).tobytes()
