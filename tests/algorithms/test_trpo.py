"""TRPO: its settings, its step against exact solutions, its search, what it moves, and every kind of environment."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import advantage
from advantage.algorithms import trpo
from advantage.control.distributions import constant
from advantage.control.trust_region import Moved, move
from advantage.core import fisher
from advantage.errors import NonFinite, UserError
from advantage.settings import resolve
from advantage.tabular import (
    MDP,
    exact_fisher,
    exact_natural_gradient,
    exact_policy_gradient,
    expected_return,
    performance_difference,
    state_visitation,
)
from advantage.trajectory import Batch, Evaluation
from advantage.views.explain import explain
from tests.algorithms.memory_run import MemoryRun
from tests.algorithms.tables import Table, advantages_of, episodes_of, within
from tests.algorithms.test_ppo import ENDS_TO_END, Salary, column
from tests.control.scripted import Echo
from tests.tabular.processes import random_logits, random_mdp

SMALL: dict[str, Any] = {
    "num_envs": 2, "num_steps": 16, "minibatch_size": 12, "critic_epochs": 2, "network": (16,), "steps": 64,
}  # fmt: skip
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


# Settings and objective.


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"target_kl": 0}, "target_kl is 0.0; it must be above 0"),
        ({"step": "newton"}, "step is 'newton'; it must be one of line_search, natural"),
        ({"cg_iterations": 0}, "cg_iterations is 0; it must be at least 1"),
        ({"cg_damping": -1}, "cg_damping is -1.0; it must be at least 0"),
        ({"line_search_shrink": 1}, "line_search_shrink is 1.0; it must be in 0.01 … 0.99"),
        ({"cg_max_steps": 3}, "cg_max_steps is called cg_iterations here"),
        ({"n_critic_updates": 3}, "n_critic_updates is called critic_epochs here"),
        ({"eps_low": 0.2}, "there is no setting 'eps_low'"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(trpo.Settings, given)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_the_objective_by_hand() -> None:
    """Ratios 1.5, 0.5, 3 against advantages 1, −2, −1: 1.5 − 1 − 3 = −2.5; entropies 0.1, 0.2, 0.3."""
    said = Evaluation(column(1.5, 0.5, 3.0).log() - 1.0, column(0.1, 0.2, 0.3), column(1.0, 2.0, 4.0))
    mask = torch.ones(3, 1, dtype=torch.bool)
    columns = {"advantages": column(1, -2, -1), "returns": column(0, 2, 0), "logp_old": column(-1, -1, -1)}
    batch = Batch.of_rows({"observation": column(0, 0, 0)}, column(0, 0, 0), mask, **columns)
    assert float(trpo.objective(said, batch, trpo.Settings())) == pytest.approx(-2.5 / 3)
    assert float(trpo.objective(said, batch, trpo.Settings(ent_coef=0.5))) == pytest.approx(-2.5 / 3 + 0.1)
    assert float(trpo.critic_objective(said, batch, trpo.Settings(vf_coef=0.4))) == pytest.approx(-0.4 * 8.5 / 3)


# The step against exact solutions of random processes: expectations, not samples.


class Exact:
    """L and the mean KL of a table in expectation, from the table that it began as."""

    def __init__(self, mdp: MDP, logits: Any) -> None:
        self.mdp, self.table = mdp, Table(logits)
        self.old = self.table.policy
        self.visits = torch.as_tensor(np.asarray(state_visitation(mdp, self.old)))
        self.advantages = torch.from_numpy(advantages_of(mdp, self.old))

    def __call__(self) -> tuple[Tensor, Tensor]:
        logp = self.table.logits.log_softmax(-1)
        old = torch.from_numpy(self.old)
        gain = (self.visits[:, None] * old * (logp - old.log()).exp() * self.advantages).sum()
        kl = (self.visits[:, None] * old * (old.log() - logp)).sum() / self.visits.sum()
        return gain, kl

    def expected_return(self) -> float:
        return expected_return(self.mdp, self.table.policy)


def exact(seed: int, gamma: float = 0.9) -> Exact:
    mdp = random_mdp(seed, gamma)
    return Exact(mdp, random_logits(seed, mdp))


def search(**changes: Any) -> Any:
    defaults = {"target_kl": 1e-3, "step": "natural", "cg_iterations": 200, "cg_damping": 1e-3}
    return SimpleNamespace(**defaults | {"line_search_tries": 10, "line_search_shrink": 0.8} | changes)


@pytest.mark.parametrize("seed", range(5))
def test_the_surrogate_begins_at_zero_and_its_slope_is_the_policy_gradient(seed: int) -> None:
    """L(θ_old) = 0, not J (ERRATA 9); ∇L(θ_old) = ∇J, against the closed form of the table."""
    measure = exact(seed)
    gain, kl = measure()
    assert (
        abs(float(gain.detach())) < 1e-12 and abs(float(kl.detach())) < 1e-12 and abs(measure.expected_return()) > 1e-2
    )
    slope = torch.autograd.grad(gain, measure.table.logits)[0]
    theirs = exact_policy_gradient(measure.mdp, measure.table.logits.detach().numpy())
    np.testing.assert_allclose(slope.numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_performance_difference_lemma(seed: int) -> None:
    """J(π') − J(π) = Σ d^π' Σ π' A^π, exactly, however far π' is; with d^π in its place it is L, and only near."""
    measure = exact(seed)
    other = Table(random_logits(seed + 50, measure.mdp)).policy
    before = measure.expected_return()
    truth = expected_return(measure.mdp, other) - before
    assert performance_difference(measure.mdp, measure.old, other) == pytest.approx(truth, abs=1e-12)
    by_hand = np.asarray(state_visitation(measure.mdp, other)) @ (other * advantages_of(measure.mdp, measure.old)).sum(
        1
    )
    assert by_hand == pytest.approx(truth, abs=1e-12)
    surrogate = float(measure.visits.numpy() @ (other * advantages_of(measure.mdp, measure.old)).sum(1))
    assert abs(surrogate - truth) > 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_baselines_of_a_state_have_no_mean(seed: int) -> None:
    """Σ_a π ∇log π b(s) = 0 for any b, by all states and actions, so that A may stand for Q in ∇J."""
    measure = exact(seed)
    logp = measure.table.logits.log_softmax(-1)
    old, baseline = torch.from_numpy(measure.old), torch.randn(len(logp), 1, generator=torch.manual_seed(seed)).double()
    slope = torch.autograd.grad((measure.visits[:, None] * old * logp * baseline).sum(), measure.table.logits)[0]
    assert slope.abs().max() < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_the_kl_is_half_d_f_d_and_its_error_shrinks_as_the_cube(seed: int) -> None:
    measure = exact(seed)
    direction = torch.from_numpy(random_logits(seed + 9, measure.mdp)).flatten()
    origin = measure.table.logits.detach().clone()
    quadratic = (0.5 * direction @ fisher(measure()[1], [measure.table.logits], 0.0)(direction)).detach()
    matrix = torch.as_tensor(np.asarray(exact_fisher(measure.mdp, origin.numpy())))
    assert float(quadratic) == pytest.approx(float(0.5 * direction @ matrix @ direction), rel=1e-12)
    errors = []
    for size in (0.04, 0.02, 0.01):
        measure.table.logits.data = origin + size * direction.view_as(origin)
        errors.append(float(measure()[1].detach() - size**2 * quadratic))
    for larger, smaller in itertools.pairwise(errors):
        assert smaller / larger == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_the_natural_step_is_that_of_the_exact_fisher_matrix(seed: int) -> None:
    """Direction against a linear solve, length against √(2δ / xᵀ(F + damping) x), and the KL it reaches is δ."""
    measure, now = exact(seed), search()
    origin = measure.table.logits.detach().clone()
    x = np.asarray(exact_natural_gradient(measure.mdp, origin.numpy(), damping=now.cg_damping)).reshape(-1)
    F = np.asarray(exact_fisher(measure.mdp, origin.numpy())) + now.cg_damping * np.eye(len(x))
    expected = math.sqrt(2 * now.target_kl / (x @ F @ x)) * x
    moved = move([measure.table.logits], measure, now)
    step = (measure.table.logits.detach() - origin).flatten().numpy()
    np.testing.assert_allclose(step, expected, atol=1e-5 * np.abs(expected).max())
    assert moved.taken and moved.gain > 0
    assert moved.kl == pytest.approx(now.target_kl, rel=0.2)


def test_without_damping_it_is_the_advantages_themselves() -> None:
    """F⁻¹ ∇J of a softmax table is A(s, ·) up to a constant a state: states rarely seen move as far as others."""
    measure = exact(0)
    origin = measure.table.logits.detach().clone()
    move([measure.table.logits], measure, search(cg_damping=0.0))
    step = (measure.table.logits.detach() - origin).numpy()
    seen = measure.visits.numpy() > 0
    centred = (measure.advantages - measure.advantages.mean(1, keepdim=True)).numpy()
    found = (step - step.mean(1, keepdims=True))[seen]
    cosine = (found * centred[seen]).sum() / np.linalg.norm(found) / np.linalg.norm(centred[seen])
    assert cosine > 1 - 1e-6
    plain = np.asarray(exact_policy_gradient(measure.mdp, origin.numpy()))[seen]
    assert (plain * centred[seen]).sum() / np.linalg.norm(plain) / np.linalg.norm(centred[seen]) < 0.99


def test_sampled_surrogate_gradients_are_the_exact_one_on_average() -> None:
    """40 blocks of 500 episodes at γ = 1, every entry within 4.5 standard errors (99.99 % for all)."""
    mdp = random_mdp(3, 1.0)
    table = Table(random_logits(3, mdp))
    A, blocks = torch.from_numpy(advantages_of(mdp, table.policy)), []
    for block in range(40):
        rollout = episodes_of(mdp, table.policy, 500, seed=block)
        rollout = rollout.replace(logp_old=rollout.logp_sampler)
        chosen = A[rollout.context["observation"], rollout.actions]
        data = Batch.of(rollout, chosen, chosen).single_steps()
        value = trpo.objective(table.evaluate(data), data, trpo.Settings())
        slope = torch.autograd.grad(value, table.logits)[0]
        blocks.append(slope * len(data) / 500)  # the mean over steps times the mean length: a sum over the episode
    print(within(torch.stack(blocks), exact_policy_gradient(mdp, table.logits.detach().numpy())))


def test_a_sampled_step_goes_where_the_exact_one_goes() -> None:
    """`policy_step` on 20,000 episodes: the policy that it makes, against the one of the exact natural gradient."""
    mdp = random_mdp(3, 1.0)
    logits = random_logits(3, mdp)
    table, measure = Table(logits), Exact(mdp, logits)
    A = torch.from_numpy(advantages_of(mdp, table.policy))
    rollout = episodes_of(mdp, table.policy, 20_000, seed=1)
    rollout = rollout.replace(logp_old=rollout.logp_sampler)
    chosen = A[rollout.context["observation"], rollout.actions]
    data = Batch.of(rollout, chosen, chosen).single_steps()
    now = trpo.Settings(target_kl=1e-3, cg_damping=1e-3, cg_iterations=50)
    found = trpo.policy_step(table, data, now)
    move([measure.table.logits], measure, search())
    apart = np.abs(table.policy - measure.table.policy).max() / np.abs(measure.table.policy - measure.old).max()
    print(f"sampled against exact: {apart:.3f} of the step")
    assert apart < 0.1 and found["train/is_line_search_success"] == 1
    assert found["train/kl_divergence_loss"] == pytest.approx(1e-3, rel=0.2)
    assert found["train/first_ratio_error"] < 1e-12


# The line search.


def test_a_step_inside_the_trust_region_may_lower_j() -> None:
    """ERRATA 10: one p in two states, J = p − 2p². From .24 the surrogate's best step goes past the top at .25."""
    p = torch.tensor([0.24], dtype=torch.float64, requires_grad=True)
    old = 0.24

    def measure() -> tuple[Tensor, Tensor]:
        kl = old * torch.log(old / p) + (1 - old) * torch.log((1 - old) / (1 - p))
        return ((p - old) * (1 - 4 * old)).sum(), kl.sum()

    moved = move([p], measure, search(step="line_search", target_kl=0.01, cg_damping=0.0))
    assert moved.taken and moved.kl <= 0.01 and moved.gain > 0
    J = lambda q: q - 2 * q * q  # noqa: E731
    assert J(0.24) == pytest.approx(0.1248) and J(float(p.detach())) < 0.1248
    assert float(p.detach()) > 0.25 and J(0.3036) == pytest.approx(0.1193, abs=1e-4)


def planted(answers: list[tuple[float, float]]) -> tuple[Tensor, Any, list[float]]:
    """A parameter at 0 with slope 1 and curvature 1, and answers of L and KL at the tries to come."""
    theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    tried: list[float] = []

    def measure() -> tuple[Tensor, Tensor]:
        if theta.item() == 0.0 and torch.is_grad_enabled():
            return theta.sum(), 0.5 * (theta**2).sum()
        gain, kl = answers[len(tried)]
        tried.append(theta.item())
        return torch.tensor(gain), torch.tensor(kl)

    return theta, measure, tried


BAD = {
    "no gain": (0.0, 0.001),
    "a loss": (-0.1, 0.001),
    "too far": (1.0, 0.0101),
    "not a number": (math.nan, 0.001),
    "not a distance": (1.0, math.nan),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_step_is_refused_and_a_shorter_good_one_taken(bad: str) -> None:
    theta, measure, tried = planted([BAD[bad], BAD[bad], (0.3, 0.01)])
    moved = move([theta], measure, search(step="line_search", target_kl=0.01, cg_damping=0.0, line_search_shrink=0.5))
    full = math.sqrt(0.02)
    assert tried == pytest.approx([full, full / 2, full / 4])
    assert moved == Moved(pytest.approx(0.3), pytest.approx(0.01), True, 1.0)
    assert float(theta.detach()) == pytest.approx(full / 4)


def test_parameters_are_moved_where_they_lie() -> None:
    """A resumed run has them at the beginnings of tensors of their own; elsewhere vectorised sums round otherwise."""
    measure = exact(0)
    before = measure.table.logits.data_ptr()
    assert move([measure.table.logits], measure, search()).taken
    assert measure.table.logits.data_ptr() == before


@pytest.mark.parametrize("bad", BAD)
def test_where_every_step_is_bad_nothing_has_moved(bad: str) -> None:
    theta, measure, tried = planted([BAD[bad]] * 4)
    moved = move([theta], measure, search(step="line_search", target_kl=0.01, line_search_tries=4))
    assert len(tried) == 4 and moved == Moved(0.0, 0.0, False, 1.0)
    assert float(theta.detach()) == 0.0


def test_the_natural_step_is_not_looked_at() -> None:
    theta, measure, tried = planted([(-5.0, 7.0)])
    assert move([theta], measure, search(target_kl=0.01, cg_damping=0.0)) == Moved(-5.0, 7.0, True, 1.0)
    assert float(theta.detach()) == pytest.approx(math.sqrt(0.02)) and len(tried) == 1


def test_without_a_gradient_there_is_no_step() -> None:
    theta = torch.ones(2, dtype=torch.float64, requires_grad=True)
    moved = move([theta], lambda: ((theta * 0).sum(), 0.5 * ((theta - 1) ** 2).sum()), search(step="line_search"))
    assert not moved.taken and theta.tolist() == [1.0, 1.0]


def test_a_surrogate_that_is_not_finite_is_named() -> None:
    theta = torch.ones(1, requires_grad=True)
    with pytest.raises(NonFinite, match="the surrogate is nan"):
        move([theta], lambda: ((theta * math.nan).sum(), (theta**2).sum()), search())


def test_a_search_that_only_looks_at_the_gain_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the KL not asked for, a step far outside would be taken: the test of the bound can fail."""
    run = MemoryRun(2)
    wide = {"line_search_tries": 1, "cg_damping": 0.0, "cg_iterations": 1, "target_kl": 0.5, "num_steps": 64}
    target = functools.partial(Echo, BOX, BOX)
    trpo.train(target, trpo.Settings(**SMALL | wide), run)
    refused = [row["train/is_line_search_success"] for row in run.logged]
    assert max(row["train/kl_divergence_loss"] for row in run.logged) <= 0.5
    other = MemoryRun(2)
    trpo.train(target, trpo.Settings(**SMALL | wide | {"step": "natural"}), other)
    assert "train/is_line_search_success" not in other.logged[0]
    assert 0.0 in refused or max(row["train/kl_divergence_loss"] for row in other.logged) <= 0.5


# What moves what.


def trained(target: Any, updates: int = 1, **settings: Any) -> MemoryRun:
    run = MemoryRun(updates)
    trpo.train(target, trpo.Settings(**SMALL | settings), run)
    return run


@pytest.mark.parametrize("share_trunk", [False, True])
def test_the_critic_cannot_move_the_policy(share_trunk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy stands where its step has put it, whatever the critic then learns; a shared trunk is the policy's."""
    seen: list[dict[str, Tensor]] = []
    right = trpo.policy_step

    def watched(policy: Any, *rest: Any) -> Any:
        before = {name: each.detach().clone() for name, each in policy.named_parameters()}
        found = right(policy, *rest)
        seen.extend([before, {name: each.detach().clone() for name, each in policy.named_parameters()}])
        return found

    monkeypatch.setattr(trpo, "policy_step", watched)
    run = trained(functools.partial(Echo, BOX, BOX), share_trunk=share_trunk, learning_rate=1e-2)
    before, moved = seen
    after = dict(run.kept["policy"].named_parameters())
    actors = set(run.kept["policy"].actor_parameters())
    assert "actor.0.weight" in actors and "value_head.weight" not in actors
    for name, parameter in after.items():
        assert torch.equal(parameter, moved[name]) == (name in actors), name
        assert torch.equal(before[name], moved[name]) == (name not in actors), name


@pytest.mark.parametrize(("numerics", "left"), [("advantage", [1.0, 0.75, 0.5, 0.25]), ("sb3", [0.75, 0.5, 0.25, 0.0])])
def test_schedules_fall_over_the_budget(numerics: str, left: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    right = trpo.policy_step

    def watched(policy: Any, data: Batch, now: trpo.Settings, noise: Tensor | None) -> Any:
        seen.append([now.learning_rate, now.target_kl, now.ent_coef])
        return right(policy, data, now, noise)

    monkeypatch.setattr(trpo, "policy_step", watched)
    schedules = {"learning_rate": "lin_1e-3", "target_kl": "lin_0.02", "ent_coef": "lin_0.1"}
    trained(lambda: Salary(5), 4, **schedules, steps=128, numerics=numerics)
    assert seen == [pytest.approx([1e-3 * share, 0.02 * share, 0.1 * share]) for share in left]


def test_micro_batches_of_the_critic_change_nothing_but_rounding() -> None:
    target = functools.partial(Echo, BOX, spaces.Discrete(3))
    whole, parts = trained(target, 2), trained(target, 2, micro_batch=5)
    for name, parameter in whole.kept["policy"].named_parameters():
        torch.testing.assert_close(parameter, parts.kept["policy"].get_parameter(name), rtol=1e-4, atol=1e-6)


def test_the_kl_of_a_joint_action_is_the_sum_of_its_parts() -> None:
    run = trained(functools.partial(Echo, BOX, spaces.Tuple((spaces.Discrete(3), BOX))))
    policy = run.kept["policy"]
    data = Batch.of(run.rollouts[0]).single_steps()
    new = constant(policy.evaluate(data).distribution)
    with torch.no_grad():
        policy.head.parts[0].logits.bias += torch.tensor([0.5, 0.0, -0.3])
        policy.head.parts[1].log_std += 0.2
    old = policy.evaluate(data).distribution
    parts = [old.parts[key].kl(new.parts[key]).mean() for key in (0, 1)]
    assert min(parts) > 1e-3
    assert float(trpo.mean_kl(old, new, data, trpo.Settings()).detach()) == pytest.approx(
        float(sum(parts).detach()), rel=1e-5
    )


# From one end to the other.

CASES = {
    name: case for name, case in ENDS_TO_END.items() if not {"value_clip", "target_kl", "dual_clip"} & set(case[1])
}
CASES["natural"] = ("CartPole-v1", {"step": "natural"})
CASES["entropy bonus"] = ("CartPole-v1", {"ent_coef": 0.01})


@pytest.mark.parametrize("case", CASES)
def test_from_one_end_to_the_other(case: str, tmp_path: Path) -> None:
    target, settings = CASES[case]
    run = advantage.train("trpo", target, run_dir=tmp_path / "run", quiet=True, **SMALL | settings)
    metrics = run.metrics()
    assert run.reader.status()["state"] == "finished" and run.reader.status()["steps"] >= 64
    assert metrics["train/first_ratio_error"].max() < 1e-5
    assert metrics["train/policy_gradient_norm"].min() > 0
    if case != "natural":
        assert metrics["train/kl_divergence_loss"].max() <= 0.01
        assert metrics["train/is_line_search_success"].mean() > 0
        assert (metrics["train/policy_objective"] >= -1e-6).all()
    assert all(math.isfinite(value) for name in metrics for value in metrics[name] if name.startswith("train/loss"))
    if not isinstance(target, str):
        return
    rungs = {rung.name: rung.value for rung in explain(tmp_path / "run").rungs}
    assert {"reward", "GAE, recursion", "ratio", "surrogate", "share of the gradient"} <= set(rungs)
    assert len(run.evaluate(episodes=2).returns) == 2


@pytest.mark.slow
def test_cartpole_is_solved(tmp_path: Path) -> None:
    """At least 475 as the mean of 100 episodes after 100,000 steps, for 5 seeds of 5: with 95 % confidence at least
    55 % of the seeds reach it (0.55⁵ = 5 %)."""
    scores = []
    for seed in range(5):
        run = advantage.train("trpo", "CartPole-v1", seed=seed, run_dir=tmp_path / str(seed), quiet=True)
        scores.append(run.evaluate(episodes=100, seed=1000 + seed).mean)
    print(f"CartPole-v1, means of 100 episodes: {scores}")
    assert min(scores) >= 475
