"""The replay against the environments' own record of what happened."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from advantage.control.environments import Envs, make_envs
from advantage.control.explore import Steps, explore, rollout_of
from advantage.control.normalization import Normalizer
from advantage.control.q_network import make_q_network
from advantage.control.replay import PrioritizedReplay, Replay, make_replay
from advantage.control.settings import ValueBased
from advantage.core import discounted_return, discounts
from advantage.errors import UserError
from advantage.runs import memory
from advantage.trajectory import Tree, tree_leaves, tree_map
from tests.control.scripted import Masked, Scripted
from tests.control.worlds import MODES, Paid, Recording

GAMMA = 0.9
Log = list[tuple[Tree, Any, float, bool, bool, Tree]]


@dataclass(frozen=True)
class Setup(ValueBased):
    gamma: float = GAMMA
    network: tuple[int, ...] = (8,)
    buffer_size: int = 10_000

    def __post_init__(self) -> None:
        """Replays here may be smaller than a minibatch."""


def ending(offset: int) -> Callable[[int], tuple[int, str]]:
    ways = [(3, "terminated"), (1, "truncated"), (5, "truncated"), (2, "both"), (1, "terminated"), (7, "truncated")]
    return lambda episode: ways[(episode + offset) % len(ways)]


SPACES = {
    "Box": None,
    "Discrete": gym.spaces.Discrete(5, start=2),
    "Dict of Tuple": gym.spaces.Dict(
        a=gym.spaces.Tuple([gym.spaces.Box(-1, 1, (2, 2), np.float32), gym.spaces.Discrete(3)]),
        b=gym.spaces.MultiBinary(3),
    ),
}


def filled(
    chunks: list[int], mode: str = "same_step", space: str = "Box", count: int = 3, **settings: Any
) -> tuple[Replay, list[Log], list[Steps], Envs]:
    """Environments explored in pieces of these lengths, and a replay that took them in."""
    makers = [lambda i=i: Recording(Paid(ending(i), SPACES[space])) for i in range(count)]
    given = Setup(num_envs=count, **settings)
    envs = make_envs(makers, vectorization="sync", autoreset=mode)
    envs.start(0)
    normalizer = Normalizer(envs.spaces.observation, count, given)
    network = make_q_network(envs.spaces.observation, envs.spaces.action, given, 0)
    replay, taken, rng = make_replay(envs.context, normalizer, given), [], np.random.default_rng(0)
    for length in chunks:
        taken.append(explore(envs, network, normalizer, np.full(length, 0.5), rng))
        replay.add(taken[-1])
    return replay, [env.get_wrapper_attr("log") for env in envs.vector.envs], taken, envs  # type: ignore[attr-defined]


def by_hand(log: Log, n: int) -> list[tuple[Tree, int, float, float, Tree]]:
    """(s, a, R, γ_t, s') of every step whose n rewards, or whose end, are in the log."""
    found = []
    for begin in range(len(log)):
        total, factor = 0.0, 1.0
        for seen, (_, _, reward, terminated, truncated, after) in enumerate(log[begin:], start=1):
            total += factor * reward
            factor *= 0.0 if terminated else GAMMA
            if terminated or truncated or seen == n:
                found.append((log[begin][0], int(log[begin][1]), total, factor, after))
                break
    return found


def held(replay: Replay) -> list[tuple[Tree, int, float, float, Tree]]:
    """What the replay holds, oldest first."""
    order = np.arange(*replay.span) % replay.capacity
    rows = tree_map(lambda leaf: leaf[order], replay.rows)
    at = lambda tree, i: tree_map(lambda leaf: leaf[i], tree)  # noqa: E731
    return [
        (
            at(rows["context"]["observation"], i),
            int(rows["actions"][i]),
            float(rows["returns"][i]),
            float(rows["discounts"][i]),
            at(rows["following"]["observation"], i),
        )
        for i in range(len(replay))
    ]


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Equal transitions; what follows a termination does not count."""
    numbers = one[1] == other[1] and np.allclose(one[2:4], other[2:4], atol=1e-5)
    trees = [0] if one[3] == 0.0 else [0, 4]
    pairs = [pair for i in trees for pair in zip(tree_leaves(one[i]), tree_leaves(other[i]), strict=True)]
    return bool(numbers) and all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("mode", "n", "space"), itertools.product(MODES, [1, 2, 4], SPACES))
def test_transitions_are_those_that_happened(mode: str, n: int, space: str) -> None:
    replay, logs, taken, envs = filled([1, 2, 17, 1, 1, 30, 3], mode, space, n_step=n)
    expected = [entry for log in logs for entry in by_hand(log, n)]
    found = held(replay)
    assert len(found) == len(expected) > 100
    for entry in found:
        place = next((i for i, other in enumerate(expected) if same(other, entry)), None)
        assert place is not None, entry
        del expected[place]
    assert sum(steps.count for steps in taken) == sum(map(len, logs)) == envs.steps
    assert {0.0} < {entry[3] for entry in found}


def test_how_it_was_cut_into_pieces_changes_nothing() -> None:
    one, *_ = filled([60], n_step=3)
    many, *_ = filled([1] * 60, n_step=3)
    key = lambda entry: (entry[0].tolist(), entry[1])  # noqa: E731
    pairs = zip(sorted(held(one), key=key), sorted(held(many), key=key), strict=True)
    assert all(same(*pair) for pair in pairs)


def test_long_returns_are_those_of_the_core() -> None:
    replay, _, taken, _ = filled([40], count=1, n_step=50)
    (steps,) = taken
    rewards, terminated, truncated = (
        torch.from_numpy(x[:, 0]) for x in (steps.rewards, steps.terminated, steps.truncated)
    )
    expected = discounted_return(rewards, discounts(terminated, GAMMA, rewards.dtype), terminated | truncated)
    whole = len(replay)  # the last episode is still open
    assert np.allclose(replay.rows["returns"][:whole], expected[:whole], atol=1e-5)
    assert whole >= 33


def test_only_a_termination_stops_the_bootstrap() -> None:
    replay, *_ = filled([50])
    factors = {round(float(factor), 6) for factor in replay.rows["discounts"][: len(replay)]}
    assert factors == {0.0, GAMMA}
    truncated, *_ = filled([50], count=1)
    ends = [entry for entry in held(truncated) if entry[3] == 0.0]
    assert 0 < len(ends) < 25


def test_the_oldest_make_room() -> None:
    everything, *_ = filled([7] * 10)
    last, *_ = filled([7] * 10, buffer_size=50)
    assert len(last) == 50 and last.span == (everything.added - 50, everything.added)
    assert all(same(*pair) for pair in zip(held(last), held(everything)[-50:], strict=True))
    tiny, *_ = filled([7] * 10, buffer_size=4)  # less than one piece
    assert all(same(*pair) for pair in zip(held(tiny), held(everything)[-4:], strict=True))


def test_an_environment_that_began_anew_was_cut_off() -> None:
    replay, logs, _, envs = filled([2], count=2, n_step=3)
    assert replay._open is not None
    open_before = int(replay._open.mask.sum())
    envs.reset()  # as behind a resume that could not bring it back in mid-episode
    network = make_q_network(envs.spaces.observation, envs.spaces.action, Setup(), 0)
    normalizer = Normalizer(envs.spaces.observation, 2, Setup())
    replay.add(explore(envs, network, normalizer, np.full(4, 0.5), np.random.default_rng(1)))
    first = [log[1] for log in logs]  # the second step of each: the last before the break
    for seen, action, reward, terminated, truncated, after in first:
        if not (terminated or truncated):
            expected = (seen, int(action), reward, GAMMA, after)
            assert any(same(expected, entry) for entry in held(replay))
    assert open_before > 0


# --- what comes back ---


@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
@pytest.mark.parametrize("space", SPACES)
def test_state_and_rows_bring_it_back(kind: str, space: str) -> None:
    settings = {"n_step": 3, "buffer_size": 60, "replay": kind}
    replay, _, taken, envs = filled([20, 20, 3], space=space, **settings)
    replay.reweigh(np.arange(10), torch.linspace(-2, 5, 10))
    again = make_replay(envs.context, Normalizer(envs.spaces.observation, 3, Setup()), Setup(**settings))
    again.restore(replay.state())
    first, end = replay.span
    pieces = [(first - 30, first + 10), (first + 10, first + 20), (first + 20, end)]  # the first one is half gone
    for begin, stop in pieces:
        padded = {k: np.concatenate([v[:1]] * (first - begin) + [v]) if begin < first else v
                  for k, v in replay.rows_between(max(begin, first), stop).items()}  # fmt: skip
        again.take_back(begin, padded)
    for own, other in zip(tree_leaves(again.rows), tree_leaves(replay.rows), strict=True):
        assert np.array_equal(own, other)
    for each in (replay, again):
        each.add(taken[0])
    assert again.span == replay.span and again.largest == replay.largest
    for one, other in zip(
        replay.draw(3, np.random.default_rng(0), 0.5), again.draw(3, np.random.default_rng(0), 0.5), strict=True
    ):
        assert np.array_equal(one.index, other.index) and torch.equal(one.returns, other.returns)
        assert (one.weights is None) == (kind == "uniform")
        if one.weights is not None and other.weights is not None:
            assert torch.equal(one.weights, other.weights)


@pytest.mark.parametrize("other", [{"buffer_size": 80}, {"n_step": 1}, {"replay": "uniform"}], ids=str)
def test_a_replay_of_other_settings_does_not_take_it_back(other: dict[str, Any]) -> None:
    """Larger, it would hold rows that never were; of other n, returns that are no longer summed so."""
    settings: dict[str, Any] = {"n_step": 3, "buffer_size": 60, "replay": "prioritized"}
    replay, _, _, envs = filled([20], **settings)
    again = make_replay(envs.context, Normalizer(envs.spaces.observation, 3, Setup()), Setup(**settings | other))
    name, value = next(iter(other.items()))
    with pytest.raises(UserError, match=f"{name} is {value}, and {settings[name]} in the run's replay"):
        again.restore(replay.state())


# --- which are drawn: chi-square tests at 99.9 %, by its normal approximation ---


def too_far(counts: np.ndarray, shares: np.ndarray) -> bool:
    expected = counts.sum() * shares
    statistic, free = float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1
    return statistic > free + 3.1 * np.sqrt(2 * free)


def drawn(replay: Replay, count: int, remaining: float = 1.0) -> np.ndarray:
    parts = [each.index for each in replay.draw(count, np.random.default_rng(0), remaining)]
    return np.bincount(np.concatenate(parts), minlength=len(replay))


def test_all_are_as_likely() -> None:
    replay, *_ = filled([20])
    counts = drawn(replay, 1000)
    assert counts.sum() == 64_000
    assert not too_far(counts, np.full(len(replay), 1 / len(replay)))
    assert too_far(counts + (np.arange(len(counts)) == 3) * 400, np.full(len(replay), 1 / len(replay)))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_priorities_are_probabilities_and_weights_undo_them(alpha: float) -> None:
    replay, *_ = filled([20], replay="prioritized", priority_alpha=alpha, priority_beta=0.4)
    assert isinstance(replay, PrioritizedReplay)
    errors = torch.linspace(-3.0, 4.0, len(replay))
    replay.reweigh(np.arange(len(replay)), errors)
    shares = (errors.abs().double().numpy() + PrioritizedReplay.EPS) ** alpha
    shares /= shares.sum()
    # One row of each of 64 equal parts: less spread than independent draws, the same mean.
    counts = drawn(replay, 1000)
    seldom = shares * counts.sum() < 5
    assert np.abs(counts - counts.sum() * shares)[~seldom].max() < 3.9 * np.sqrt(counts.sum() * shares).max()
    assert not too_far(counts[~seldom], shares[~seldom] / shares[~seldom].sum())
    for remaining, beta in ((1.0, 0.4), (0.5, 0.7), (0.0, 1.0)):
        (batch,) = replay.draw(1, np.random.default_rng(1), remaining)
        assert batch.weights is not None
        expected = (len(replay) * shares[batch.index]) ** -beta
        assert np.allclose(batch.weights, expected / expected.max(), rtol=1e-5)
        assert batch.weights.max() == 1.0
    # At β = 1 the weighted mean over draws is the plain mean over all rows, up to the scale of the weights.
    replay.size = 50_000
    (batch,) = replay.draw(1, np.random.default_rng(2), 0.0)
    value = replay.rows["returns"][batch.index]
    weights = batch.weights.numpy()
    estimate, plain = (weights * value).sum() / weights.sum(), replay.rows["returns"][: len(replay)].mean()
    spread = np.sqrt((weights**2 * (value - plain) ** 2).sum()) / weights.sum()
    assert abs(estimate - plain) < 3.3 * spread + 1e-6


def test_new_ones_have_the_greatest_priority_yet() -> None:
    replay, _, taken, _ = filled([5], replay="prioritized", buffer_size=30)
    assert isinstance(replay, PrioritizedReplay)
    before = len(replay)
    assert np.allclose(replay._tree.share(np.arange(before)), 1 / before)
    replay.reweigh(np.arange(before), torch.full((before,), 0.1))
    replay.reweigh(np.array([2]), torch.tensor([9.0]))
    replay.add(taken[0])
    new = np.arange(before, min(2 * before, 30))
    assert np.allclose(replay._tree.weights(new), (9.0 + PrioritizedReplay.EPS) ** 0.6)
    assert replay._tree.weights(np.array([0]))[0] < 1


def test_what_is_not_there_is_never_drawn() -> None:
    for kind in ("uniform", "prioritized"):
        replay, *_ = filled([1], count=1, replay=kind, buffer_size=1000)
        for batch in replay.draw(20, np.random.default_rng(0), 1.0):
            assert batch.index.max() < len(replay) == 1


# --- what the environments and the machine say ---


def test_masks_travel_with_both_ends() -> None:
    masks = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]]
    for mode in MODES:
        envs = make_envs([lambda: Masked(masks, length=4)], vectorization="sync", autoreset=mode)
        envs.start(0)
        normalizer = Normalizer(envs.spaces.observation, 1, Setup())
        network = make_q_network(envs.spaces.observation, envs.spaces.action, Setup(), 0)
        replay = Replay(envs.context, normalizer, Setup())
        replay.add(explore(envs, network, normalizer, np.full(3, 1.0), np.random.default_rng(0)))
        rows = replay.rows
        assert rows["context"]["action_mask"][:3].tolist() == [[bool(x) for x in mask] for mask in masks[:3]]
        assert rows["following"]["action_mask"][:2].tolist() == [[bool(x) for x in mask] for mask in masks[1:3]]
        assert all(rows["context"]["action_mask"][i, rows["actions"][i]] for i in range(3))  # legal ones alone


def test_behind_a_time_limit_all_actions_count() -> None:
    for mode in MODES:
        make = lambda: gym.wrappers.TimeLimit(Masked([[1, 0, 0]], length=9), 2)  # noqa: E731
        envs = make_envs([make], vectorization="sync", autoreset=mode)
        envs.start(0)
        normalizer = Normalizer(envs.spaces.observation, 1, Setup())
        network = make_q_network(envs.spaces.observation, envs.spaces.action, Setup(), 0)
        steps = explore(envs, network, normalizer, np.full(2, 1.0), np.random.default_rng(0))
        assert steps.following["action_mask"][:, 0].tolist() == [[True, False, False], [True, True, True]]


def test_observations_are_kept_raw_and_seen_normalised() -> None:
    replay, _, taken, envs = filled([30], normalize_observations=True)
    network = make_q_network(envs.spaces.observation, envs.spaces.action, Setup(), 0)
    rollout_of(taken, network, replay._normalizer)  # its moments take the steps in
    (batch,) = replay.draw(1, np.random.default_rng(0), 1.0)
    raw = replay.rows["context"]["observation"][batch.index]
    assert np.allclose(batch.context["observation"], replay._normalizer.observe(raw))
    assert not np.allclose(batch.context["observation"], raw)


def test_one_that_does_not_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1000 * 33)
    filled([1], buffer_size=500)
    with pytest.raises(UserError, match=r"buffer_size is 2000, .* at 32 bytes a transition; .* give at most 1031"):
        filled([1], buffer_size=2000)
    monkeypatch.undo()
    with pytest.raises(UserError, match="buffer_size is 100000000000000, .*give at most"):
        filled([1], buffer_size=10**14)


def test_the_kernel_says_how_much_there_is() -> None:
    found = memory.available()
    assert found is None or 2**20 < found < 2**50


def test_scripted_observations_name_what_followed() -> None:
    """(episode, step) in the observation: s' is the next step of the same episode, in every mode."""
    for mode in MODES:
        envs = make_envs([Scripted], vectorization="sync", autoreset=mode)
        envs.start(0)
        normalizer = Normalizer(envs.spaces.observation, 1, Setup())
        network = make_q_network(envs.spaces.observation, envs.spaces.action, Setup(), 0)
        steps = explore(envs, network, normalizer, np.full(20, 1.0), np.random.default_rng(0))
        keep = steps.mask[:, 0] & ~steps.terminated[:, 0]
        seen, after = (tree["observation"][keep, 0] for tree in (steps.context, steps.following))
        assert np.array_equal(after, seen + np.array([0, 1]))
        assert steps.count == envs.steps


def test_minibatches_come_together_only_where_none_changes_the_next() -> None:
    for settings, rows in (({}, {512, 1024}), ({"double": True}, {64}), ({"replay": "prioritized"}, {64})):
        replay, *_ = filled([20], **settings)
        drawn_together = list(replay.draw(24, np.random.default_rng(0), 1.0))
        assert {len(each.index) for each in drawn_together} == rows
        assert sum(len(list(each.split(64))) for each in drawn_together) == 24
    batches = [
        part.index for each in filled([20])[0].draw(24, np.random.default_rng(0), 1.0) for part in each.split(64)
    ]
    alone = [each.index for each in filled([20], double=True)[0].draw(24, np.random.default_rng(0), 1.0)]
    assert np.array_equal(batches, alone)  # the same rows either way
