"""Learning from a log: weighted gradients against exact ones, truncation's bias, the log itself, the run."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import advantage
from advantage.algorithms import off_policy_pg as off
from advantage.cli import main
from advantage.control.actions import Bounds
from advantage.control.behaviour import Uniform
from advantage.control.collect import collect_log
from advantage.errors import UserError
from advantage.settings import resolve
from advantage.tabular import MDP, exact_policy_gradient, policy_values, state_visitation
from advantage.trajectory import Batch, Evaluation, Rollout, tree_map
from advantage.views.explain import explain
from tests.algorithms.tables import Table, episodes_of, within
from tests.algorithms.test_ppo import ENDS_TO_END
from tests.control.scripted import Echo, Masked
from tests.control.worlds import Paid, world
from tests.tabular.processes import random_mdp

SMALL: dict[str, Any] = {"num_envs": 2, "log_episodes": 20, "batch_episodes": 5, "network": (16,), "steps": 60}
EXACT: dict[str, Any] = {"weight_cap": None, "trace_cap": 1e9, "gae_lambda": 1.0, "vf_coef": 0.0,
                         "normalize_advantages": False}  # fmt: skip
BLOCKS, EPISODES = 50, 300
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


# Gradients against exact ones: uniform behaviour, 50 blocks of 300 episodes, each entry within 4.5 standard errors.


def process(gamma: float) -> tuple[MDP, Table, np.ndarray]:
    """A process, the table that learns, and the uniform behaviour."""
    mdp = random_mdp(4, gamma, states=5, actions=2)
    logits = 1.2 * np.random.default_rng(1).normal(size=(5, 2))
    return mdp, Table(logits, values=np.linspace(-1, 1, 5) * ~mdp.terminal), np.full((5, 2), 0.5)


@functools.cache
def block_of(gamma: float, block: int) -> Rollout:
    mdp, _, uniform = process(gamma)
    return episodes_of(mdp, uniform, EPISODES, seed=block)


def sampled(gamma: float, table: Table | None = None, **settings: Any) -> Tensor:
    """The objective's gradient on each block of the log, with the advantages that the algorithm itself estimates."""
    table = table or process(gamma)[1]
    now = off.Settings(**EXACT | {"gamma": gamma} | settings)
    found = []
    for block in range(BLOCKS):
        rollout = off.said_now(table, block_of(gamma, block))
        data = Batch.of(rollout, *off.estimated(rollout, now))
        value = off.objective(table.evaluate(data), data, now)
        found.append(torch.autograd.grad(value, table.logits)[0])
    return torch.stack(found)


@pytest.mark.parametrize("weights", ["decision", "trajectory"])
@pytest.mark.parametrize(("gamma", "from_start"), [(1.0, False), (0.8, True)])
def test_products_of_ratios_give_the_exact_policy_gradient(weights: str, gamma: float, from_start: bool) -> None:
    """Unbiased whatever the critic says (here it is wrong), at γ = 1 or with γᵗ in front."""
    mdp, table, _ = process(gamma)
    found = sampled(gamma, weights=weights, discount_from_start=from_start)
    truth = exact_policy_gradient(mdp, table.logits.detach().numpy())
    print(f"{weights}, γ = {gamma}: within {within(found, truth):.1f} standard errors")
    assert np.abs(truth).max() > 0.05


def by_states_of(mdp: MDP, table: Table, states_of: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Σ_s d(s) Σ_a w(s, a) (Q^π(s, a) − V(s)) ∇log π(a|s), d the visits of a policy: what weights a step estimate.

    V is the table's critic, which is wrong: with w = π it is a baseline and drops out, with another w it does not.
    """
    visits = np.asarray(state_visitation(mdp, states_of))
    advantages = mdp.q(policy_values(mdp, table.policy)) - table.values.numpy()[:, None]
    pull = visits[:, None] * weight * advantages
    return pull - table.policy * pull.sum(1, keepdims=True)


def test_a_ratio_a_step_corrects_the_action_and_not_the_state() -> None:
    """Its own exact expectation has the states of μ (ERRATA 11); ∇J is elsewhere, and fails the same test."""
    mdp, table, uniform = process(1.0)
    table.values.copy_(torch.from_numpy(policy_values(mdp, table.policy)))  # so that δ alone will do
    found = sampled(1.0, table, weights="step", gae_lambda=0.0)
    print(f"step: within {within(found, by_states_of(mdp, table, uniform, table.policy)):.1f} standard errors")
    with pytest.raises(AssertionError, match="standard errors"):
        within(found, exact_policy_gradient(mdp, table.logits.detach().numpy()))


@pytest.mark.parametrize("cap", [1.0, 1.2])
def test_truncation_is_biased_by_what_is_computed(cap: float) -> None:
    mdp, table, uniform = process(1.0)
    found = sampled(1.0, weights="step", weight_cap=cap)
    ratio = table.policy / uniform
    assert (ratio > cap).any()
    kept = uniform * np.minimum(ratio, cap)
    truncated = by_states_of(mdp, table, uniform, kept)
    print(f"cap {cap}: within {within(found, truncated):.1f} standard errors of the truncated expectation")
    with pytest.raises(AssertionError, match="standard errors"):
        within(found, by_states_of(mdp, table, uniform, table.policy))


def test_without_correction_in_the_advantage_it_would_be_that_of_the_behaviour() -> None:
    """One wrong choice shows: ratios cut to nearly 0 leave one-step advantages of a wrong critic."""
    mdp, table, uniform = process(1.0)
    with pytest.raises(AssertionError, match="standard errors"):
        within(sampled(1.0, weights="step", trace_cap=1e-6), by_states_of(mdp, table, uniform, table.policy))


def test_targets_of_the_critic_are_values_of_the_learner() -> None:
    """E_μ[V + c Â] = V^π at the first state of an episode, with no cap; returns as they came would be V^μ."""
    mdp, table, _ = process(0.9)
    now, blocks = off.Settings(**EXACT | {"gamma": 0.9}), []
    for block in range(BLOCKS):
        rollout = off.said_now(table, block_of(0.9, block))
        _, returns = off.estimated(rollout, now)
        first = rollout.context["observation"][:, 0]
        blocks.append(torch.stack([returns[first == s, 0].mean() for s in range(4)]))
    V = (table.policy * mdp.R).sum(1)  # solved by hand: V = R_π + γ P_π V
    P = np.einsum("sa,ast->st", table.policy, mdp.P)
    V = np.linalg.solve(np.eye(5) - 0.9 * P, V)
    print(f"targets: within {within(torch.stack(blocks), V[:4]):.1f} standard errors")


# By hand.


def rows(*numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def batch_of(log_ratios: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Batch]:
    mask = torch.ones_like(log_ratios, dtype=torch.bool) if mask is None else mask
    logp = torch.full_like(log_ratios, -1.0)
    columns = {"advantages": torch.ones_like(logp), "returns": torch.zeros_like(logp), "logp_old": logp}
    context = {"observation": torch.zeros(*logp.shape, 1)}
    batch = Batch.of_rows(context, torch.zeros_like(logp), mask, logp_sampler=logp - log_ratios, **columns)
    return logp, batch


def test_weights_by_hand() -> None:
    ratios = rows([2.0, 0.5, 3.0], [4.0, 1.0, 1.0])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    logp, batch = batch_of(ratios.log(), mask)
    expected = {
        "step": [[2.0, 0.5, 3.0], [4.0, 1.0, 1.0]],
        "decision": [[2.0, 1.0, 3.0], [4.0, 4.0, 4.0]],
        "trajectory": [[3.0, 3.0, 3.0], [4.0, 4.0, 4.0]],
    }
    for weights, numbers in expected.items():
        now = off.Settings(weights=weights)
        torch.testing.assert_close(off.log_weights(logp, batch, now).exp(), torch.tensor(numbers).double())
    capped = off.truncated(ratios.log(), off.Settings(weight_cap=2.5))
    torch.testing.assert_close(capped, rows([2.0, 0.5, 2.5], [2.5, 1.0, 1.0]))
    from_start = off.truncated(ratios.log(), off.Settings(weight_cap=None, discount_from_start=True, gamma=0.5))
    torch.testing.assert_close(from_start, rows([2.0, 0.25, 0.75], [4.0, 0.5, 0.25]))


def test_the_objective_by_hand() -> None:
    """Mean over two episodes of Σ w Â log π − c₁ ½ error²: weights 2, 0.5 | 10 truncated from 20."""
    mask = torch.tensor([[True, True], [True, False]])
    logp, batch = batch_of(rows([2.0, 0.5], [20.0, 1.0]).log(), mask)
    batch = batch.replace(advantages=rows([1.0, -2.0], [3.0, 99.0]), returns=rows([1.0, 0.0], [2.0, 99.0]))
    said = Evaluation(logp.requires_grad_(), rows([0.1, 0.2], [0.3, 9.0]), rows([0.0, 2.0], [2.0, 9.0]))
    value = off.objective(said, batch, off.Settings(vf_coef=0.4, ent_coef=0.5))
    policy, critic, entropy = (2 * -1 + 0.5 * 2 + 10 * -3) / 2, (0.5 + 2.0) / 2, 0.6 / 2
    assert float(value.detach()) == pytest.approx(policy - 0.4 * critic + 0.5 * entropy)
    slope = torch.autograd.grad(value, logp)[0]
    torch.testing.assert_close(slope, rows([1.0, -0.5], [15.0, 0.0]))  # w Â / episodes: the weight has no gradient


def support(batch: Batch, now: off.Settings) -> dict[str, float]:
    weights = off.log_weights(batch.logp_old, batch, now)
    return off.support(batch, weights, off.truncated(weights, now), now.weight_cap)


def test_effective_sample_size_by_hand() -> None:
    """(Σw)²/(n Σw²): 1 of equal weights, 1/n of a single one, and finite however large the products are."""
    now = off.Settings(weight_cap=3.0)
    for weights, share in (([2.0, 2.0, 2.0], 1.0), ([1.0, 2.0, 3.0], 36 / 14 / 3), ([1e-9, 1e-9, 5.0], 1 / 3)):
        _, batch = batch_of(rows(weights).log())
        found = support(batch, now)
        assert found["train/effective_sample_size"] == pytest.approx(share, rel=1e-6)
        assert found["train/weight_mean"] == pytest.approx(sum(weights) / 3)
    assert found["train/truncated_weights"] == pytest.approx(1 / 3)
    _, batch = batch_of(rows([300.0, 300.0, 300.0]))
    found = support(batch, off.Settings(weights="decision"))
    assert all(math.isfinite(value) for value in found.values())
    assert found["train/effective_sample_size"] == pytest.approx(1 / 3)


def test_the_trace_by_hand() -> None:
    """δ = 1, 1 (no critic, γ = 1): Â_1 = 1, Â_0 = 1 + λ c_1; targets c_t Â_t."""
    logp = rows([0.0, 0.0, 0.0])
    ratios = rows([0.5, 3.0, 7.0])
    rollout = Rollout(
        context={}, actions=logp, mask=torch.tensor([[True, True, False]]),
        terminated=torch.tensor([[False, True, False]]), truncated=torch.zeros(1, 3, dtype=torch.bool),
        rewards=rows([1.0, 1.0, 0.0]), values=0 * logp, next_values=0 * logp,
        logp_old=ratios.log(), logp_sampler=logp,
    )  # fmt: skip
    now = off.Settings(gamma=1.0, gae_lambda=0.8, trace_cap=2.0)
    advantages, targets = off.estimated(rollout, now)
    assert advantages[0, :2].tolist() == pytest.approx([1 + 0.8 * 2.0, 1.0])
    assert targets[0, :2].tolist() == pytest.approx([0.5 * 2.6, 2.0])
    plain, _ = off.estimated(rollout, off.Settings(gamma=1.0, gae_lambda=0.8, weights="trajectory"))
    assert plain[0, :2].tolist() == pytest.approx([1.8, 1.0])


# Behaviours and the log.

ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4, start=2),
    "multi discrete": spaces.MultiDiscrete([2, 3]),
    "bits": spaces.MultiBinary((2, 2)),
    "box": spaces.Box(np.float32([-1.0, 0.0]), np.float32([1.0, 5.0])),
    "number": spaces.Box(-2.0, 2.0, (), np.float32),
}
ACTIONS["dict"] = spaces.Dict(dict(ACTIONS))
ACTIONS["tuple"] = spaces.Tuple((ACTIONS["box"], spaces.Dict({"a": ACTIONS["discrete"]})))


def log_volume(space: spaces.Space[Any]) -> float:
    """log of the number of actions, or of their volume."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return sum(map(log_volume, space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces))
    if isinstance(space, spaces.Box):
        return float(np.log(space.high - space.low).sum())
    if isinstance(space, spaces.MultiBinary):
        return math.prod(space.shape) * math.log(2)
    return math.log(space.n if isinstance(space, spaces.Discrete) else math.prod(space.nvec))


@pytest.mark.parametrize("name", ACTIONS)
def test_uniform_is_uniform(name: str) -> None:
    space, count = ACTIONS[name], 4000
    uniform = Uniform(space, "clip")
    context = {"observation": torch.zeros(count, 1)}
    actions = uniform.act(context, uniform.noise(np.random.default_rng(0), (count,)))
    sent = Bounds(space, "clip").applied(actions)
    batch = Batch.of_rows(
        tree_map(lambda leaf: leaf[:, None], context),
        tree_map(lambda leaf: leaf[:, None], actions),
        torch.ones(count, 1, dtype=torch.bool),
    )
    torch.testing.assert_close(uniform.logp(batch), torch.full((count, 1), -log_volume(space)))
    if name == "box":
        assert (sent == actions.numpy()).all(), "nothing is cut off"
        quarters = ((actions - torch.tensor([-1.0, 0.0])) / torch.tensor([2.0, 5.0]) * 4).long()
        shares = torch.stack([(quarters == quarter).float().mean(0) for quarter in range(4)])
        assert (shares - 0.25).abs().max() < 4.5 * math.sqrt(0.25 * 0.75 / count)
    if name == "discrete":
        assert (actions.bincount(minlength=4) / count - 0.25).abs().max() < 4.5 * math.sqrt(0.25 * 0.75 / count)


def test_uniform_over_what_is_legal() -> None:
    legal = torch.tensor([[True, False, True, False]]).expand(2000, 4)
    uniform, context = Uniform(spaces.Discrete(4), "clip"), {"observation": torch.zeros(2000, 1), "action_mask": legal}
    actions = uniform.act(context, uniform.noise(np.random.default_rng(0), (2000,)))
    assert set(actions.tolist()) == {0, 2}
    batch = Batch.of_rows(
        tree_map(lambda leaf: leaf[:, None], context), actions[:, None], torch.ones(2000, 1, dtype=torch.bool)
    )
    torch.testing.assert_close(uniform.logp(batch), torch.full((2000, 1), -math.log(2)))


def test_a_box_without_bounds_is_refused() -> None:
    with pytest.raises(UserError, match="is not bounded on all sides; give a run's directory instead"):
        Uniform(spaces.Box(-np.inf, 1.0, (2,)), "clip")


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_a_log_shows_what_followed_every_decision(mode: str) -> None:
    """Observations, actions and rewards as the environments made them, the ending ones behind the last decision."""
    ends = lambda episode: ((3, "terminated"), (1, "truncated"), (4, "both"))[episode % 3]  # noqa: E731
    found = world([lambda: Paid(ends)] * 2, mode=mode)  # episode 0 is under way and not asked for
    uniform = Uniform(spaces.Discrete(3), "clip")
    log = collect_log(found.envs, uniform, found.normalizer, found.bounds, 5, np.random.default_rng(0))
    assert log.mask.sum(-1).tolist() == [1, 4, 3, 1, 4] and log.mask.shape == (5, 5)
    logs = found.logs()
    for stream, (env, skipped) in enumerate([(0, 0), (0, 1), (0, 5), (1, 0), (1, 1)]):
        for t in range(int(log.mask[stream].sum())):
            s, action, reward, terminated, truncated, after = logs[env][skipped + t]
            assert np.array_equal(log.context["observation"][stream, t].numpy(), s)
            assert np.array_equal(log.context["observation"][stream, t + 1].numpy(), s if terminated else after)
            assert int(log.actions[stream, t]) == action and float(log.rewards[stream, t]) == pytest.approx(reward)
            assert bool(log.terminated[stream, t]) == terminated and bool(log.truncated[stream, t]) == truncated
            assert float(log.logp_old[stream, t]) == pytest.approx(-math.log(3))


def test_a_time_limit_is_no_end() -> None:
    """V(s') at a limit is that of the observation that followed; at an end there is nothing."""
    found = world([lambda: Paid(lambda episode: (2, "truncated" if episode % 2 else "terminated"))])
    log = collect_log(found.envs, Uniform(spaces.Discrete(3), "clip"), found.normalizer, found.bounds, 2,
                      np.random.default_rng(0))  # fmt: skip
    rollout = off.said_now(found.policy, log.replace(logp_sampler=log.logp_old))
    after = found.policy.value({"observation": log.context["observation"][:, 2]})
    torch.testing.assert_close(rollout.next_values[:, 1], after)
    now = off.Settings(gamma=0.9, gae_lambda=0.0)
    advantages, _ = off.estimated(rollout, now)
    expected = rollout.rewards[:, 1] + torch.tensor([0.9, 0.0]) * after - rollout.values[:, 1]
    torch.testing.assert_close(advantages[:, 1], expected)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "run"
    small = {"num_envs": 2, "num_steps": 32, "minibatch_size": 32, "epochs": 2, "network": (8,)}
    advantage.train("ppo", "CartPole-v1", steps=128, run_dir=path, quiet=True, normalize_observations=True, **small)
    return path


def test_the_log_of_a_run_is_scored_as_the_run_acts(teacher: Path, tmp_path: Path) -> None:
    """The behaviour's log-probabilities are those of its own network behind its own moments."""
    run = advantage.train("off_policy_pg", "CartPole-v1", run_dir=tmp_path / "r", quiet=True,
                          behaviour=str(teacher), **SMALL)  # fmt: skip
    agent = advantage.load(teacher).policy
    rollout = Rollout(**run.reader.rollout()[0])
    raw = rollout.context["observation"].numpy()
    seen = {"observation": torch.from_numpy(agent.normalizer.observe(raw))}
    theirs = agent.network.evaluate(Batch.of(rollout).replace(context=seen)).logp
    torch.testing.assert_close(rollout.logp_sampler[rollout.mask], theirs[rollout.mask].detach())
    assert run.metrics()["train/effective_sample_size"].min() > 0.3


@pytest.mark.parametrize(
    ("behaviour", "settings", "text"),
    [
        ("nowhere", {}, "nowhere"),
        ("teacher", {"action_bounds": "rescale"}, "give action_bounds=clip"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(
    behaviour: str, settings: dict[str, Any], text: str, teacher: Path, tmp_path: Path
) -> None:
    name = str(teacher) if behaviour == "teacher" else behaviour
    with pytest.raises(UserError, match=text) as caught:
        advantage.train("off_policy_pg", "CartPole-v1", run_dir=tmp_path / "r", quiet=True, behaviour=name,
                        **SMALL | settings)  # fmt: skip
    assert "\n" not in str(caught.value) and not (tmp_path / "r").exists()


def test_a_run_of_another_environment_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was trained on CartPole-v1, whose spaces are not this environment's"):
        advantage.train("off_policy_pg", "Acrobot-v1", run_dir=tmp_path / "r", quiet=True, behaviour=str(teacher),
                        **SMALL)  # fmt: skip


def test_a_run_that_learns_values_is_refused(tmp_path: Path) -> None:
    small = {"steps": 200, "learning_starts": 50, "minibatch_size": 8}
    advantage.train("dqn", "CartPole-v1", run_dir=tmp_path / "dqn", quiet=True, **small)
    with pytest.raises(UserError, match="the policy of dqn has no probabilities to weigh by"):
        advantage.train("off_policy_pg", "CartPole-v1", run_dir=tmp_path / "r", quiet=True,
                        behaviour=str(tmp_path / "dqn"), **SMALL)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"weights": "product"}, "weights is 'product'; it must be one of step, decision, trajectory"),
        ({"weight_cap": 0}, "weight_cap is 0.0; it must be above 0"),
        ({"log_episodes": 0}, "log_episodes is 0; it must be at least 1"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(off.Settings, given)
    assert text in str(caught.value)


def test_the_flag_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "off_policy_pg", "CartPole-v1", "--dry-run", "--behaviour", "uniform"]
    assert main(command) == 0 and 'behaviour = "uniform"' in capsys.readouterr().out
    assert main(["train", "ppo", "CartPole-v1", "--dry-run", "--behaviour", "uniform"]) == 2
    assert "--behaviour is for off_policy_pg" in capsys.readouterr().err


# From one end to the other.

SKIPPED = ("value_clip", "target_kl", "dual_clip")
CASES = {name: case for name, case in ENDS_TO_END.items() if not set(SKIPPED) & set(case[1])}
CASES = {
    name: (target, {key: v for key, v in given.items() if key != "num_steps"})
    for name, (target, given) in CASES.items()
}
CASES |= {f"{weights} weights": ("CartPole-v1", {"weights": weights}) for weights in ("decision", "trajectory")}
CASES["batch norm"] = ("CartPole-v1", {"batch_norm": True, "critics": 2})
CASES["entropy bonus"] = ("CartPole-v1", {"ent_coef": 0.01, "discount_from_start": True})


@pytest.mark.parametrize("case", CASES)
def test_from_one_end_to_the_other(case: str, tmp_path: Path) -> None:
    target, settings = CASES[case]
    run = advantage.train("off_policy_pg", target, run_dir=tmp_path / "run", quiet=True, **SMALL | settings)
    metrics = run.metrics()
    assert run.reader.status()["state"] == "finished" and run.reader.status()["steps"] >= 60
    assert metrics["train/first_ratio_error"].max() < 1e-5
    assert metrics["train/gradient_norm"].min() > 0
    assert (metrics["train/effective_sample_size"] > 0).all() and (metrics["train/effective_sample_size"] <= 1).all()
    assert len(run.evaluate(episodes=2).returns) == 2
    if isinstance(target, str):
        rungs = {rung.name: rung.value for rung in explain(tmp_path / "run").rungs}
        assert {"behaviour's ratio", "corrected advantage", "share of the gradient"} <= set(rungs)


def test_masks_are_met(tmp_path: Path) -> None:
    masks = [[1, 0, 1], [0, 1, 0], [1, 1, 1]]
    run = advantage.train("off_policy_pg", lambda: gym.wrappers.TransformReward(Masked(masks), lambda _: 1.0),
                          run_dir=tmp_path / "run", quiet=True, **SMALL)  # fmt: skip
    rollout = Rollout(**run.reader.rollout()[0])
    allowed = rollout.context["action_mask"].gather(-1, rollout.actions[..., None]).squeeze(-1)
    assert allowed[rollout.mask].all()
    legal = rollout.context["action_mask"].sum(-1)
    torch.testing.assert_close(rollout.logp_sampler[rollout.mask], -legal[rollout.mask].float().log())


@pytest.mark.parametrize(
    "settings", [{}, {"normalize_observations": True, "normalize_rewards": True, "batch_norm": True}]
)
def test_a_run_in_two_parts_ends_where_a_run_in_one_does(settings: dict[str, Any], tmp_path: Path) -> None:
    """The log is read from the first part's directory: nothing is played again."""
    asked = {**SMALL, **settings, "learning_rate": 1e-2, "checkpoint_every": 0.0}
    target = functools.partial(Echo, BOX, BOX)
    whole = advantage.train("off_policy_pg", target, run_dir=tmp_path / "whole", quiet=True, **asked | {"steps": 120})
    advantage.train("off_policy_pg", target, run_dir=tmp_path / "parts", quiet=True, **asked)
    written = (tmp_path / "parts" / "log" / "rollout.safetensors").read_bytes()
    assert written == (tmp_path / "whole" / "log" / "rollout.safetensors").read_bytes()
    parts = advantage.resume(tmp_path / "parts", steps=120, env=target, quiet=True)
    one, other = (run.reader.policy()[0]["policy"] for run in (whole, parts))
    for name in one:
        assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])), name


def test_the_log_is_collected_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    class Counted(Echo):
        def step(self, action: Any) -> Any:
            steps.append(1)
            return super().step(action)

    target = functools.partial(Counted, BOX, spaces.Discrete(2), length=4)
    advantage.train("off_policy_pg", target, run_dir=tmp_path / "r", quiet=True, **SMALL | {"steps": 2000})
    assert len(steps) < 2 * 20 * 4 + 2 * 64  # 20 episodes of 4 steps, whatever of a chunk is left over


@pytest.mark.slow
def test_it_learns_from_what_a_coin_did(tmp_path: Path) -> None:
    """CartPole from 3,000 episodes of a uniform policy (mean return 22): at least 200 for each of 3 seeds, of which at
    least 37 % of all seeds then do, with 95 % confidence (0.37³ = 5 %)."""
    scores = []
    for seed in range(3):
        run = advantage.train("off_policy_pg", "CartPole-v1", seed=seed, run_dir=tmp_path / str(seed), quiet=True)
        scores.append(run.evaluate(episodes=100, seed=1000 + seed).mean)
    print(scores)
    assert min(scores) >= 200
