"""Collection: the real transitions in every autoreset mode, V of what really followed, whole episodes without bias."""

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
from torch import distributions as td

from advantage.algorithms.ppo import Settings, objective
from advantage.control.actions import Bounds
from advantage.control.collect import collect, collect_episodes
from advantage.control.environments import make_envs
from advantage.control.normalization import Normalizer
from advantage.control.setup import describe
from advantage.errors import NonFinite, RunFailed, UserError
from advantage.trajectory import Batch, Evaluation, Rollout, Tree, tree_leaves, tree_map
from advantage.update import ascend, estimate, minibatches
from tests.control.scripted import Masked, Scripted
from tests.control.worlds import MODES, Mine, Paid, World, transitions, world

NESTED = spaces.Dict(
    {
        "inner": spaces.Tuple((spaces.Discrete(4, start=1), spaces.MultiBinary(3))),
        "many": spaces.MultiDiscrete([2, 3], start=[1, 0]),
        "box": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
    }
)
ENDINGS = [(3, "terminated"), (1, "truncated"), (4, "truncated"), (2, "both"), (1, "terminated"), (6, "truncated")]


def ending(episode: int, offset: int = 0) -> tuple[int, str]:
    return ENDINGS[(episode + offset) % len(ENDINGS)]


def paid(count: int = 3, **options: Any) -> list[Callable[[], gym.Env[Any, Any]]]:
    return [lambda i=i: Paid(lambda episode: ending(episode, i), **options) for i in range(count)]


def gather(found: World, steps: int, index: int = 0) -> Rollout:
    return collect(*found, steps, np.random.default_rng(index))


def same(one: Tree, other: Tree) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True))


def value_of(found: World, observation: Tree) -> float:
    """The critic's word on one recorded observation, through the normaliser."""
    alone = tree_map(lambda leaf: torch.from_numpy(np.asarray(leaf)[None]), found.normalizer.observe(observation))
    with torch.no_grad():
        return float(found.policy.value({"observation": alone})[0])


# --- transitions ---


@pytest.mark.parametrize("observation", [None, NESTED], ids=["box", "nested"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_collects_what_the_environments_wrote_down(mode: str, observation: Any) -> None:
    """States, actions, rewards, ends, and V of the state that really followed wherever anything follows."""
    found = world(paid(observation=observation), mode)
    rollouts = [gather(found, steps, index) for index, steps in enumerate((7, 1, 16))]
    for stream, log in enumerate(found.logs()):
        collected = [entry for rollout in rollouts for entry in transitions(rollout, stream)]
        following = [float(v) for r in rollouts for v in r.next_values[stream][r.mask[stream]]]
        values = [float(v) for r in rollouts for v in r.values[stream][r.mask[stream]]]
        assert len(collected) == len(log)
        for mine, its, value, after in zip(collected, log, values, following, strict=True):
            assert same(mine[0], its[0])
            assert int(mine[1]) == int(its[1])
            assert mine[2:] == (pytest.approx(its[2]), its[3], its[4])
            assert value == pytest.approx(value_of(found, its[0]), abs=1e-6)
            if not its[3]:
                assert after == pytest.approx(value_of(found, its[5]), abs=1e-6)
        assert any(its[4] and not its[3] for its in log) and any(its[3] for its in log)
    assert sum(rollout.steps for rollout in rollouts) == found.envs.steps == sum(map(len, found.logs()))
    assert any(not rollout.mask.all() for rollout in rollouts) == (mode == "next_step")


class ByState(Mine):
    """Acts by what it sees alone, so that a reset row changes nothing of what follows."""

    def act(self, context: Tree, noise: Tensor | None) -> Tensor:
        seen = context["observation"]
        return ((7 * seen[:, 0] + 3 * seen[:, 1]) % 3).long()


def test_all_modes_collect_the_same() -> None:
    policy = ByState()
    by_mode = []
    for mode in MODES:
        found = world([lambda offset=offset: Scripted(offset) for offset in range(3)], mode, policy)
        rollout = gather(found, 40)
        steps = []
        for stream in range(3):
            real = rollout.mask[stream]
            advantages, returns = estimate(rollout, 0.9, 0.8)
            numbers = (rollout.next_values * ~rollout.terminated, rollout.logp_old, rollout.values, advantages, returns)
            steps.append((transitions(rollout, stream), [column[stream][real] for column in numbers]))
        by_mode.append(steps)
    for others in by_mode[1:]:
        for (first, first_numbers), (other, other_numbers) in zip(by_mode[0], others, strict=True):
            count = min(len(first), len(other))
            assert count > 20
            for a, b in zip(first[:count], other[:count], strict=True):
                assert same(a[0], b[0]) and a[1:] == b[1:]
            settled = count - 7  # behind the last end of both, advantages still depend on where the rollout stops
            for index, (a, b) in enumerate(zip(first_numbers, other_numbers, strict=True)):
                until = settled if index >= 3 else count - 1
                torch.testing.assert_close(a[:until], b[:until], rtol=1e-5, atol=1e-6)


class Ten(Mine):
    """A critic that knows 1/(1 − γ) for γ = 0.9, and actors that do not matter."""

    def value(self, context: Tree) -> Tensor:
        return torch.full(context["observation"].shape[:-1], 10.0)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_a_time_limit_does_not_change_what_a_constant_reward_is_worth(mode: str, lam: float) -> None:
    """Reward 1 for ever, cut every 13 steps: the exact V is 1/(1 − 0.9) = 10, and so is every return."""
    made = [lambda: Paid(lambda _: (13, "truncated"), reward=lambda _: 1.0)] * 2
    found = world(made, mode, Ten())
    for index in range(3):
        rollout = gather(found, 17, index)
        advantages, returns = estimate(rollout, 0.9, lam)
        torch.testing.assert_close(returns[rollout.mask], torch.full((rollout.steps,), 10.0), rtol=1e-6, atol=0)
        torch.testing.assert_close(advantages[rollout.mask], torch.zeros(rollout.steps), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_rollouts_of_one_step(mode: str) -> None:
    """Where every environment only resets there is nothing to collect, and that is no rollout."""
    found = world([lambda: Paid(lambda _: (2, "terminated"))] * 2, mode)
    rollouts = [gather(found, 1, index) for index in range(7)]
    assert all(rollout.steps == 2 for rollout in rollouts)
    assert [bool(rollout.terminated.all()) for rollout in rollouts] == [False, True] * 3 + [False]
    assert found.envs.steps == 14 == sum(map(len, found.logs()))


# --- what was acted, scored and sent ---


def test_scores_are_of_the_acting_policy_and_the_first_ratio_is_1_to_the_bit() -> None:
    found = world([lambda offset=offset: Scripted(offset) for offset in range(3)], policy=None)
    rollout = gather(found, 12)
    assert not any(column.requires_grad for column in (rollout.logp_old, rollout.values, rollout.next_values))
    data = Batch.of(rollout, *estimate(rollout, 0.9, 0.9)).single_steps()
    (batch,) = minibatches(data, 1, len(data), np.random.default_rng(0))
    said = found.policy.evaluate(batch)
    assert torch.equal(said.logp.detach(), batch.logp_old) and torch.equal(said.values.detach(), batch.values_old)
    optimizer = torch.optim.SGD(found.policy.parameters(), lr=0.1)
    assert ascend(found.policy, optimizer, objective, batch, Settings()).taken, "what was collected can be learnt from"


def test_the_same_generator_collects_the_same_and_another_one_does_not() -> None:
    one, again, other = (gather(world(paid()), 20, index) for index in (0, 0, 1))
    assert torch.equal(one.actions, again.actions) and torch.equal(one.logp_old, again.logp_old)
    assert not torch.equal(one.actions, other.actions)


def test_every_step_of_every_environment_has_noise_of_its_own() -> None:
    still = spaces.Box(0.5, 0.5, (2,), np.float32)
    for action in (spaces.Discrete(3), spaces.Box(-1.0, 1.0, (1,), np.float32)):
        rollout = gather(world(paid(observation=still, action=action)), 40)
        chosen = [row.flatten().tolist() for row in rollout.actions]
        assert all(len(set(row)) > 2 for row in chosen) and chosen[0] != chosen[1] != chosen[2]


@pytest.mark.parametrize("how", ["clip", "rescale"])
def test_raw_actions_are_stored_and_scored_bounded_ones_are_sent(how: str) -> None:
    box = spaces.Box(np.array([-0.1, 2.0], np.float32), np.array([0.1, 6.0], np.float32))
    found = world(paid(action=box), action_bounds=how)
    rollout = gather(found, 15)
    outside = 0
    for stream, log in enumerate(found.logs()):
        for (_, raw, *_), (_, sent, *_) in zip(transitions(rollout, stream), log, strict=True):
            clipped = np.clip(raw, box.low, box.high)
            stretched = box.low + (np.clip(raw, -1, 1) + 1) / 2 * (box.high - box.low)
            np.testing.assert_allclose(sent, clipped if how == "clip" else stretched, rtol=1e-6, atol=1e-7)
            assert box.contains(sent)
            outside += int(np.any(raw != clipped))
    assert outside > 30, "hardly a raw action lay outside"
    with torch.no_grad():
        context = rollout.context["observation"].flatten(0, 1)
        mean = found.policy.act({"observation": context}, None)
    scores = td.Normal(mean, found.policy.head.log_std.exp()).log_prob(rollout.actions.flatten(0, 1)).sum(-1)
    torch.testing.assert_close(rollout.logp_old.flatten(), scores.detach(), rtol=1e-5, atol=1e-5)
    raw, low, high = rollout.actions.numpy(), *((box.low, box.high) if how == "clip" else (-1.0, 1.0))
    share = np.mean((raw < low) | (raw > high))
    assert describe(rollout, found.bounds)["rollout/action_saturation"] == pytest.approx(share)


def test_saturation_counts_decisions_alone() -> None:
    found = world(paid(action=spaces.Box(-0.5, 0.5, (1,))), "next_step")
    rollout = gather(found, 40)
    raw = rollout.actions[rollout.mask].numpy()
    assert describe(rollout, found.bounds)["rollout/action_saturation"] == pytest.approx(np.mean(np.abs(raw) > 0.5))
    assert np.mean(np.abs(rollout.actions.numpy()) > 0.5) != pytest.approx(np.mean(np.abs(raw) > 0.5), abs=1e-4)


LEGAL = [np.array(bits, np.int8) for bits in ([1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 1])]


@pytest.mark.parametrize("mode", MODES)
def test_masks_are_honoured_in_acting_and_in_scoring(mode: str) -> None:
    found = world([lambda length=length: Masked(LEGAL, length=length) for length in (3, 4)], mode)
    rollout = gather(found, 25)
    legal, actions = rollout.context["action_mask"], rollout.actions
    real = rollout.mask
    assert legal.gather(-1, actions[..., None]).all() and not legal[real].all()
    with torch.no_grad():
        whole = found.policy.head.logits(found.policy.actor(rollout.context["observation"]))
    shares = torch.where(legal, whole.exp(), torch.zeros(()))
    scores = (shares / shares.sum(-1, keepdim=True)).gather(-1, actions[..., None]).squeeze(-1).log()
    torch.testing.assert_close(rollout.logp_old[real], scores[real], rtol=1e-5, atol=1e-5)
    said = found.policy.evaluate(Batch.of(rollout).single_steps())
    torch.testing.assert_close(said.logp.detach().squeeze(-1), scores[real], rtol=1e-5, atol=1e-5)
    sure = legal[real].sum(-1) == 1
    assert (said.entropy.squeeze(-1)[sure] == 0).all() and (rollout.logp_old[real][sure] == 0).all()


def test_a_mask_that_allows_nothing_stops_the_collection() -> None:
    found = world([lambda: Masked([[1, 1, 1], [1, 1, 1], [0, 0, 0]], length=9)] * 2)
    with pytest.raises(RunFailed, match="environment 0 allows no action at step 4: its action_mask is empty"):
        gather(found, 8)


# --- normalisation ---


class Watched(Mine):
    """Remembers what it was shown, in acting and in scoring."""

    def __init__(self) -> None:
        super().__init__()
        self.acted: list[Tensor] = []
        self.scored: list[Tensor] = []

    def act(self, context: Tree, noise: Tensor | None) -> Tensor:
        self.acted.append(context["observation"].clone())
        return super().act(context, noise)

    def evaluate(self, batch: Batch) -> Evaluation:
        self.scored.append(batch.context["observation"])
        return super().evaluate(batch)


@pytest.mark.parametrize("mode", MODES)
def test_observation_moments_are_frozen_in_a_rollout_and_learnt_after_it(mode: str) -> None:
    policy = Watched()
    loud = spaces.Box(np.array([-3.0, 50.0], np.float32), np.array([5.0, 90.0], np.float32))
    found = world(paid(observation=loud), mode, policy, normalize_observations=True)
    counted = [0, 0, 0]
    for index in range(4):
        mean, variance = np.zeros(2), np.ones(2)
        if index:
            seen = np.concatenate([[entry[0] for entry in log] for log in found.logs()])
            mean, variance = seen.mean(0, np.float64), seen.var(0, np.float64)
            (moments,) = found.normalizer.observations
            np.testing.assert_allclose(moments.mean, mean, rtol=1e-12)
            np.testing.assert_allclose(moments.variance, variance, rtol=1e-10)
            assert moments.count == len(seen)
        rollout = gather(found, 9, index)
        for stream, log in enumerate(found.logs()):
            raw = np.array([entry[0] for entry in log[counted[stream] :]])
            expected = np.clip((raw - mean) / np.sqrt(variance + 1e-8), -10, 10)
            shown = rollout.context["observation"][stream][rollout.mask[stream]].numpy()
            np.testing.assert_allclose(shown, expected, rtol=1e-5, atol=1e-5)
            counted[stream] = len(log)
        assert torch.equal(torch.stack(policy.acted[-9:], 1), policy.scored[-1])
    assert np.abs(rollout.context["observation"].numpy()).max() < 4.0, "normalised at last"


def test_v_of_a_final_observation_goes_through_the_same_moments() -> None:
    for mode in MODES:
        found = world(paid(), mode, normalize_observations=True)
        gather(found, 20)
        moments = found.normalizer.state()
        starts = [len(log) for log in found.logs()]
        rollout = gather(found, 12, 1)
        found.normalizer.restore(moments)
        for stream, log in enumerate(found.logs()):
            following = rollout.next_values[stream][rollout.mask[stream]].tolist()
            for its, after in zip(log[starts[stream] :], following, strict=True):
                assert its[3] or after == pytest.approx(value_of(found, its[5]), abs=1e-5)


@pytest.mark.parametrize("gamma", [0.9, 0.0])
@pytest.mark.parametrize("mode", MODES)
def test_rewards_are_scaled_by_the_spread_of_their_discounted_sums(mode: str, gamma: float) -> None:
    found = world(paid(reward=lambda rng: float(rng.normal(2.0, 30.0))), mode, normalize_rewards=True, gamma=gamma)
    counted = [0, 0, 0]
    for index in range(3):
        rollout = gather(found, 11, index)
        sums = []
        for log in found.logs():
            running = 0.0
            for _, _, reward, terminated, truncated, _ in log:
                running = gamma * running + reward
                sums.append(running)
                running = 0.0 if terminated or truncated else running
        for stream, log in enumerate(found.logs()):
            raw = np.array([entry[2] for entry in log[counted[stream] :]])
            scaled = rollout.rewards[stream][rollout.mask[stream]].numpy()
            np.testing.assert_allclose(scaled, raw / np.sqrt(np.var(sums) + 1e-8), rtol=1e-5)
            counted[stream] = len(log)
    assert sum(episode.total_reward for episode in found.envs.finished_episodes()) != 0, "episodes count raw rewards"


# --- whole episodes ---


@pytest.mark.parametrize("mode", MODES)
def test_a_quota_of_whole_episodes_one_a_stream(mode: str) -> None:
    found = world(paid(observation=NESTED), mode)
    gather(found, 5)
    before = [len(log) for log in found.logs()]
    rollout = collect_episodes(*found, 11, np.random.default_rng(1))
    assert rollout.mask.shape == (11, max(length for length, _ in ENDINGS))
    stream = 0
    for log, start, quota in zip(found.logs(), before, (4, 4, 3), strict=True):
        episodes = episodes_of(log[start:])
        for episode in episodes[:quota]:
            mine = transitions(rollout, stream)
            assert len(mine) == len(episode)
            for (seen, action, reward, *ends), its in zip(mine, episode, strict=True):
                assert same(seen, its[0]) and int(action) == int(its[1])
                assert (reward, ends) == (pytest.approx(its[2]), [its[3], its[4]])
            assert rollout.mask[stream].tolist() == [True] * len(mine) + [False] * (rollout.mask.shape[1] - len(mine))
            after = rollout.next_values[stream, : len(mine)].tolist()
            assert all(
                its[3] or v == pytest.approx(value_of(found, its[5]), abs=1e-6)
                for its, v in zip(episode, after, strict=True)
            )
            stream += 1
    assert stream == 11


def episodes_of(log: list[Any]) -> list[list[Any]]:
    """The whole episodes of a log."""
    found: list[list[Any]] = [[]]
    for entry in log:
        found[-1].append(entry)
        if entry[3] or entry[4]:
            found.append([])
    return found[:-1]


@pytest.mark.parametrize("mode", MODES)
def test_long_episodes_cross_the_pieces_that_are_recorded(mode: str) -> None:
    """Episodes of 150 and 3 steps in three environments; what is scored is scored once, whole."""
    lengths = [150, 3, 64]
    found = world([lambda n=n: Paid(lambda _: (n, "truncated")) for n in lengths], mode, normalize_rewards=True)
    rollout = collect_episodes(*found, 6, np.random.default_rng(0))
    assert rollout.mask.sum(1).tolist() == [150, 150, 3, 3, 64, 64]
    for stream, log in enumerate(found.logs()):
        for which, episode in enumerate(episodes_of(log)[:2]):
            row = 2 * stream + which
            after = rollout.next_values[row, : lengths[stream]].tolist()
            expected = [value_of(found, its[5]) for its in episode]
            assert after == pytest.approx(expected, abs=1e-5)
    raw = [[its[2] for its in episode] for log in found.logs() for episode in episodes_of(log)[:2]]
    scales = {
        float(r) / x for row, its in zip(rollout.rewards, raw, strict=True) for r, x in zip(row, its, strict=False)
    }
    assert max(scales) - min(scales) < 1e-6, "one scale for all"


def test_an_episode_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advantage.control.collect.LONGEST", 200)
    found = world([lambda: Paid(lambda _: (150, "truncated")), lambda: Paid(lambda _: (10_000, "truncated"))])
    with pytest.raises(RunFailed, match="environment 1 of .* has not ended its episode in 200 steps; give it a time"):
        collect_episodes(*found, 2, np.random.default_rng(0))
    found = world([lambda: Paid(lambda _: (150, "truncated")), lambda: Paid(lambda _: (199, "truncated"))])
    assert collect_episodes(*found, 4, np.random.default_rng(0)).mask.sum(1).tolist() == [150, 150, 199, 199]


def test_fewer_episodes_than_environments() -> None:
    found = world(paid())
    rollout = collect_episodes(*found, 2, np.random.default_rng(0))
    assert rollout.mask.sum(1).tolist() == [ending(1, 0)[0], ending(1, 1)[0]]


def test_short_episodes_are_not_preferred() -> None:
    """One or 31 steps with equal chance, one episode each of 64 environments, ten times over.

    The mean length is 16 ± 15/√640. It must lie within 3.3 standard errors: a right quota fails with one seed in a
    thousand. The first 64 to finish would be nearly all short.
    """
    chances = np.random.default_rng(0)
    lengths: dict[tuple[int, int], int] = {}

    class Drawn(Paid):
        """Draws each episode's length once."""

        def __init__(self) -> None:
            super().__init__(self.length, reward=lambda _: 1.0)
            self.name = len(lengths)
            lengths[self.name, -1] = 0  # takes the name

        def length(self, episode: int) -> tuple[int, str]:
            return lengths.setdefault((self.name, episode), 31 if chances.random() < 0.5 else 1), "terminated"

    found = world([Drawn] * 64)
    mine, first = [], []
    for index in range(10):
        rollout = collect_episodes(*found, 64, np.random.default_rng(index))
        mine += rollout.mask.sum(1).tolist()
        first += [episode.length for episode in found.envs.finished_episodes()[:64]]
    error = 15 / math.sqrt(640)
    assert abs(np.mean(mine) - 16) < 3.3 * error
    assert np.mean(first) < 16 - 10 * error, "the wrong way would have shown"


@pytest.mark.parametrize("mode", MODES)
def test_what_stands_behind_an_end_can_be_scored_and_never_matters(mode: str) -> None:
    """Ragged rows, unlike single steps, are evaluated whole: the padding must be legal, in its space and finite."""
    masked = [lambda n=n: Masked(LEGAL, length=n) for n in (2, 5)]
    nested = [lambda n=n: Paid(lambda _: (n, "truncated"), observation=NESTED) for n in (2, 5)]
    for made in (masked, nested):
        found = world(made, mode)
        rollout = collect_episodes(*found, 4, np.random.default_rng(0))
        assert rollout.mask.sum(1).tolist() == [2, 2, 5, 5]
        batch = Batch.of(rollout, *estimate(rollout, 0.9, 1.0))
        said = found.policy.evaluate(batch)
        assert all(
            torch.isfinite(part).all() and part.abs().max() < 1e3 for part in (said.logp, said.entropy, said.values)
        )
        torch.testing.assert_close(said.logp[batch.mask].detach(), rollout.logp_old[batch.mask], rtol=1e-5, atol=1e-6)
        for leaf in tree_leaves((rollout.context, rollout.actions)):
            assert torch.equal(leaf[~rollout.mask], leaf[:, :1].expand_as(leaf)[~rollout.mask]), "the first decision"
        for name in ("rewards", "values", "next_values", "logp_old"):
            assert (getattr(rollout, name)[~rollout.mask] == 0).all(), name
        ragged, single = (gradient(found, part) for part in (batch, batch.single_steps()))
        torch.testing.assert_close(ragged, single, rtol=1e-5, atol=1e-7)


def gradient(found: World, batch: Batch) -> list[Tensor]:
    ascend(
        found.policy, torch.optim.SGD(found.policy.parameters(), lr=0.0), objective, batch, Settings(max_grad_norm=1e9)
    )
    return [parameter.grad.clone() for parameter in found.policy.parameters() if parameter.grad is not None]


def test_open_reward_sums_end_where_all_environments_begin_anew() -> None:
    made = [lambda: Paid(lambda _: (50, "truncated"), reward=lambda _: 1.0)]
    found = world(made, normalize_rewards=True, gamma=1.0)
    gather(found, 30)
    collect_episodes(*found, 1, np.random.default_rng(0))
    sums = [*range(1, 31), *range(1, 51)]
    assert found.normalizer.rewards.variance == pytest.approx(np.var(sums))


# --- what is too large ---


def test_a_rollout_that_no_memory_holds_names_its_settings() -> None:
    with pytest.raises(
        UserError, match="num_steps=1000000000000000, num_envs=3 does not fit in memory; make it smaller"
    ):
        gather(world(paid()), 10**15)


# --- what is not finite ---


class Spoils(Paid):
    """Gives something that is no number at the n-th step of its life."""

    def __init__(self, what: str, at: int, ends: str = "none") -> None:
        super().__init__(lambda _: (at if ends != "none" else 10**6, ends))
        self.what, self.at, self.lived = what, at, 0

    def step(self, action: Any) -> Any:
        seen, reward, *rest = super().step(action)
        self.lived += 1
        if self.lived == self.at:
            reward = {"reward": math.nan, "huge reward": 1e300}.get(self.what, reward)
            seen = np.array([0.0, -math.inf], np.float32) if self.what == "observation" else seen
            if self.what == "crash":
                raise OSError("the simulator is gone")
        return (seen, reward, *rest)


def endless() -> gym.Env[Any, Any]:
    return Paid(lambda _: (10**6, "none"))


@pytest.mark.parametrize(
    ("what", "at", "text"),
    [
        ("reward", 1, "reward is nan in environment 1 at step 0"),
        ("reward", 5, "reward is nan in environment 1 at step 8"),
        ("huge reward", 5, r"reward is 1e\+300, too large for torch.float32, in environment 1 at step 8"),
        ("observation", 5, "observation is -inf in environment 1 at step 10"),
        ("observation", 8, "observation is -inf in environment 1 at step 16"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_the_first_number_that_is_none_is_named(mode: str, what: str, at: int, text: str) -> None:
    found = world([endless, lambda: Spoils(what, at)], mode)
    with pytest.raises(NonFinite, match=text) as caught:
        gather(found, 8)
    assert "\n" not in str(caught.value)


def test_steps_are_counted_over_rollouts_and_without_reset_rows() -> None:
    """Environment 0 ends at every step, so each second row of it is none: 8 rows are 12 steps, and 4 more 6."""
    found = world([lambda: Paid(lambda _: (1, "terminated")), lambda: Spoils("reward", 13)], "next_step")
    gather(found, 8)
    with pytest.raises(NonFinite, match="reward is nan in environment 1 at step 18"):
        gather(found, 8)


class Breaks(Mine):
    """A network whose actions are no numbers once it sees a large observation."""

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(*shape, 1)

    def act(self, context: Tree, noise: Tensor | None) -> Tensor:
        seen = context["observation"]
        return torch.where(seen[:, :1] > 100, torch.full_like(seen[:, :1], math.nan), 0.0 * seen[:, :1])


class Grows(Paid):
    """Shows how long it lives; crashes on an action that is no number, where it is told to."""

    def __init__(self, pace: float, fragile: bool) -> None:
        super().__init__(lambda _: (10**6, "none"), action=spaces.Box(-1.0, 1.0, (1,), np.float32))
        self.pace, self.fragile, self.t = pace, fragile, 0

    def seen(self) -> Any:
        return np.full(2, self.pace * self.t, np.float32)

    def step(self, action: Any) -> Any:
        if self.fragile and not np.isfinite(action).all():
            raise AssertionError("bad speed")
        return super().step(action)


@pytest.mark.parametrize("fragile", [False, True], ids=["", "the environment crashes of it"])
def test_an_action_that_is_no_number_is_named(fragile: bool) -> None:
    found = world([lambda: Grows(0.0, fragile), lambda: Grows(30.0, fragile)], policy=Breaks())
    with pytest.raises(NonFinite, match="action is nan in environment 1 at step 8"):
        gather(found, 10)


def test_a_crash_of_its_own_stays_a_crash() -> None:
    found = world([endless, lambda: Spoils("crash", 3)])
    with pytest.raises(RunFailed, match="environment 1 failed in step after 4 steps: OSError: the simulator is gone"):
        gather(found, 10)


@pytest.mark.parametrize("mode", MODES)
def test_the_last_observation_before_a_cut_counts_too(mode: str) -> None:
    found = world([endless, lambda: Spoils("observation", 3, "truncated")], mode)
    with pytest.raises(NonFinite, match="observation is -inf in environment 1 at step [46]"):
        gather(found, 8)


def test_of_two_the_first_in_time_is_named() -> None:
    """The observation of step 3 is spoiled, then the action that comes of it, then a reward."""
    both = [lambda: Spoils("reward", 5), lambda: Spoils("observation", 3)]
    with pytest.raises(NonFinite, match="observation is -inf in environment 1 at step 6"):
        gather(world(both), 8)
    both = [lambda: Spoils("reward", 2), lambda: Spoils("observation", 3)]
    with pytest.raises(NonFinite, match="reward is nan in environment 0 at step 2"):
        gather(world(both), 8)


def test_what_a_row_that_only_resets_pays_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = world(paid(), "next_step", normalize_rewards=True)
    real_step = found.envs.step

    def step(actions: Tree) -> Any:
        waiting = found.envs.resetting.copy()
        result = real_step(actions)
        return result._replace(rewards=np.where(waiting, np.nan, result.rewards))

    monkeypatch.setattr(found.envs, "step", step)
    rollout = gather(found, 12)
    assert rollout.rewards[~rollout.mask].isnan().any()
    advantages, _ = estimate(rollout, 0.9, 0.9)
    assert torch.isfinite(advantages[rollout.mask]).all() and torch.isfinite(rollout.rewards[rollout.mask]).all()
    assert math.isfinite(describe(rollout, found.bounds)["rollout/reward_std"])


def test_a_policy_without_a_critic_is_told_so() -> None:
    class Bare(Mine):
        def evaluate(self, batch: Batch) -> Evaluation:
            return Evaluation(logp=super().evaluate(batch).logp)

    with pytest.raises(ValueError, match="gave no logp or no values"):
        gather(world(paid(), policy=Bare()), 4)


# --- Gymnasium's own vector environment ---


class Balancing(Mine):
    """The same for CartPole: four numbers, two actions."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.critic = torch.nn.Linear(4, 2), torch.nn.Linear(4, 1)


def test_the_vector_entry_point_collects_what_the_single_environment_does() -> None:
    """Every stored transition of CartPole's vector form is a step of the single environment from the same state."""
    envs = make_envs("CartPole-v1", 4)
    envs.start(0)
    normalizer = Normalizer(envs.spaces.observation, 4, Settings())
    rng = np.random.default_rng(0)
    rollout = collect(envs, Balancing(), normalizer, Bounds(envs.spaces.action, "clip"), 60, rng)
    seen, single = rollout.context["observation"].numpy(), gym.make("CartPole-v1").unwrapped
    single.reset(seed=0)
    assert (~rollout.mask).sum() > 4
    for stream, t in rollout.mask[:, :-1].nonzero().tolist():
        single.state, single.steps_beyond_terminated = seen[stream, t].astype(np.float64), None
        after, reward, terminated, *_ = single.step(int(rollout.actions[stream, t]))
        np.testing.assert_allclose(seen[stream, t + 1], after, rtol=1e-4, atol=1e-5)
        assert (reward, terminated) == (rollout.rewards[stream, t], rollout.terminated[stream, t])
