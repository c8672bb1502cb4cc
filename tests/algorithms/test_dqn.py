"""DQN: its targets by hand, its fixed point against value iteration, its traps, its refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import advantage
from advantage.algorithms import ALGORITHMS, dqn
from advantage.control import replay
from advantage.control.q_network import QNetwork
from advantage.control.replay import Replay, Transitions
from advantage.errors import NonFinite, RunFailed, UserError
from advantage.runs.keys import KEYS
from tests.algorithms.memory_run import MemoryRun
from tests.control.scripted import Masked
from tests.control.worlds import MODES, Paid

SMALL: dict[str, Any] = {"network": (16,), "learning_starts": 32, "minibatch_size": 16, "log_every": 64}


class ThatEnds(MemoryRun):
    """A run in memory to its last step."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(updates=10**6, seed=seed)

    def held_out(self, evaluate: Callable[[], Any]) -> None:
        self.evaluate = evaluate

    def updates(self, total: int) -> Any:
        for update in super().updates(total):
            if update.steps >= total:
                return
            yield update


def trained(target: Any, seed: int = 0, **settings: Any) -> ThatEnds:
    run = ThatEnds(seed)
    dqn.train(target, dqn.Settings(**SMALL | settings), run)  # type: ignore[arg-type]
    return run


def values(run: ThatEnds, observations: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return run.kept["policy"]({"observation": torch.from_numpy(observations)}).numpy()


# --- targets and losses by hand ---


def batch(rows: int = 40, seed: int = 0, masked: bool = False) -> Transitions:
    rng = np.random.default_rng(seed)
    discounts = np.where(rng.random(rows) < 0.3, 0.0, 0.9 ** rng.integers(1, 4, rows)).astype(np.float32)
    following = {"observation": torch.from_numpy(rng.normal(size=(rows, 3)).astype(np.float32))}
    if masked:
        mask = rng.random((rows, 4)) < 0.5
        mask[np.arange(rows), rng.integers(4, size=rows)] = True
        following["action_mask"] = torch.from_numpy(mask)
    return Transitions(
        context={"observation": torch.from_numpy(rng.normal(size=(rows, 3)).astype(np.float32))},
        actions=torch.from_numpy(rng.integers(4, size=rows)),
        returns=torch.from_numpy(rng.normal(size=rows).astype(np.float32)),
        discounts=torch.from_numpy(discounts),
        following=following,
        index=np.arange(rows),
    )


def network(seed: int) -> QNetwork:
    torch.manual_seed(seed)
    space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    return QNetwork(space, gym.spaces.Discrete(4), dqn.Settings(network=(8,)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_targets_by_a_loop_over_rows_and_actions(double: bool, masked: bool) -> None:
    drawn, online, frozen = batch(masked=masked), network(1), network(2)
    with torch.no_grad():
        plain = {"observation": drawn.following["observation"]}
        q, ahead = online(plain), frozen(plain)
        found = dqn.targets(drawn, online, frozen, dqn.Settings(double=double))
    differ = 0
    for row in range(len(found)):
        legal = [a for a in range(4) if not masked or drawn.following["action_mask"][row, a]]
        best = max(legal, key=lambda a: float((q if double else ahead)[row, a]))
        differ += best != max(legal, key=lambda a: float(ahead[row, a]))
        expected = float(drawn.returns[row]) + float(drawn.discounts[row]) * float(ahead[row, best])
        assert float(found[row]) == pytest.approx(expected, abs=1e-5)
    assert (differ > 5) == double


def test_what_follows_a_termination_may_be_anything() -> None:
    drawn, online = batch(), network(1)
    ahead = network(2)(drawn.following).detach()
    ahead[drawn.discounts == 0] = torch.nan
    for double in (False, True):
        found = dqn.targets(drawn, online, lambda _: ahead, dqn.Settings(double=double))  # type: ignore[arg-type]
        assert found.isfinite().all()


@pytest.mark.parametrize("kind", ["huber", "squared"])
def test_losses_and_their_slopes(kind: str) -> None:
    delta = torch.tensor([-3.0, -1.0, -0.4, 0.0, 0.7, 1.0, 5.0], dtype=torch.float64)
    weights = torch.linspace(0.1, 1.0, 7, dtype=torch.float64)
    q = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    loss = dqn.objective(q, delta, weights, dqn.Settings(loss=kind))
    pieces = [abs(d) - 0.5 if kind == "huber" and abs(d) > 1 else d * d / 2 for d in delta.tolist()]
    assert loss.item() == pytest.approx(sum(w * p for w, p in zip(weights.tolist(), pieces, strict=True)) / 7)
    (slope,) = torch.autograd.grad(loss, q)
    pull = delta.clamp(-1, 1) if kind == "huber" else delta
    assert torch.allclose(slope, -weights * pull / 7)


# --- the fixed point ---


class Chain(gym.Env[Any, Any]):
    """A random MDP of six states, the last terminal; a step limit truncates. `P` (S, A, S), `R` (S, A, S)."""

    states, actions = 6, 3

    def __init__(self, certain: bool = True, limit: int = 12) -> None:
        self.observation_space = gym.spaces.Discrete(self.states)
        self.action_space = gym.spaces.Discrete(self.actions)
        rng = np.random.default_rng(0)
        self.P = rng.dirichlet(np.full(self.states, 0.3), size=(self.states, self.actions))
        self.R = rng.normal(size=(self.states, self.actions, self.states)) * 0.5
        if certain:
            self.P = np.eye(self.states)[self.P.argmax(-1)]
        self.limit = limit

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.s, self.t = int(self.np_random.integers(self.states - 1)), 0
        return self.s, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        before, self.t = self.s, self.t + 1
        self.s = int(np.searchsorted(self.P[before, action].cumsum(), self.np_random.random(), side="right"))
        terminated = self.s == self.states - 1
        return self.s, float(self.R[before, action, self.s]), terminated, not terminated and self.t >= self.limit, {}


def optimum(P: np.ndarray, R: np.ndarray, gamma: float) -> np.ndarray:
    """Q* (S, A) by value iteration; the last state is terminal."""
    q, alive = np.zeros(P.shape[:2]), np.arange(len(P)) < len(P) - 1
    for _ in range(500):
        q = (P * (R + gamma * np.where(alive, q.max(1), 0.0))).sum(-1)
    return q[:-1]


TABLE: dict[str, Any] = {
    "network": (),
    "steps": 3_000,
    "epsilon_end": 1.0,
    "learning_rate": "lin_3e-2",
    "loss": "squared",
    "gamma": 0.7,
    "minibatch_size": 128,
    "train_every": 4,
    "target_update_every": 40,
    "log_every": 1000,
}


@pytest.mark.parametrize(
    "variation",
    [
        {},
        {"double": True},
        {"dueling": True},
        {"replay": "prioritized"},
        {"tau": 0.1, "target_update_every": 4},
        {"num_envs": 4, "train_every": 1},
    ],
    ids=str,
)
def test_q_goes_to_its_optimum_on_a_table(variation: dict[str, Any]) -> None:
    """One weight a state and action: where nothing is left to chance the largest error of Q* is below 0.02."""
    world = Chain()
    run = trained(Chain, **TABLE | variation)
    right = optimum(world.P, world.R, TABLE["gamma"])
    worst = float(np.abs(values(run, np.arange(world.states - 1)) - right).max())
    print(f"{variation}: largest error {worst:.3f} of values that span {np.ptp(right):.2f}")
    assert worst < 0.02 < 1.0 < np.ptp(right)
    assert any(rollout.truncated.any() for rollout in run.rollouts)


def counted(replay: Replay) -> tuple[np.ndarray, np.ndarray]:
    """P and R as the steps that it holds say."""
    rows, n = replay.rows, len(replay)
    before, after = (rows[name]["observation"][:n] for name in ("context", "following"))
    after = np.where(rows["discounts"][:n] == 0, Chain.states - 1, after)  # behind an end stands what came next
    counts, paid = np.zeros((2, Chain.states, Chain.actions, Chain.states))
    np.add.at(counts, (before, rows["actions"][:n], after), 1.0)
    np.add.at(paid, (before, rows["actions"][:n], after), rows["returns"][:n])
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1.0), paid / np.maximum(counts, 1.0)


@pytest.mark.parametrize("variation", [{}, {"replay": "prioritized", "priority_beta": 1.0}], ids=str)
def test_under_chance_q_goes_to_the_optimum_of_what_it_has_seen(variation: dict[str, Any]) -> None:
    """The fixed point is Q* of the model that the replay's counts make: error below 0.08, without any of sampling."""
    run = trained(lambda: Chain(certain=False), **TABLE | {"steps": 4000, "learning_rate": "lin_2e-2"} | variation)
    P, R = counted(run.kept["replay"])
    worst = float(np.abs(values(run, np.arange(Chain.states - 1)) - optimum(P, R, TABLE["gamma"])).max())
    print(f"{variation}: largest error {worst:.3f}")
    assert worst < 0.08


def always(limit: int, how: str) -> Callable[[], gym.Env[Any, Any]]:
    """Pays 1 a step and ends after so many; nothing in its one observation says when."""
    return lambda: Paid(lambda _: (limit, how), gym.spaces.Discrete(1), gym.spaces.Discrete(2), lambda rng: 1.0)


TRAP: dict[str, Any] = {
    "network": (),
    "gamma": 0.9,
    "steps": 1500,
    "learning_starts": 100,
    "learning_rate": "lin_2e-1",
    "target_update_every": 20,
    "loss": "squared",
    "log_every": 1000,
}


@pytest.mark.parametrize(("mode", "n_step"), [*((mode, 1) for mode in MODES), ("next_step", 3)])
def test_a_time_limit_is_no_end(mode: str, n_step: int) -> None:
    """Reward 1 for ever is worth 1/(1 − γ) = 10, however often a limit cuts it off."""
    envs = SyncVectorEnv([always(5, "truncated")] * 2, autoreset_mode=AutoresetMode[mode.upper()])
    found = values(trained(envs, num_envs=2, n_step=n_step, **TRAP), np.zeros(1, int))
    assert found == pytest.approx(10.0, abs=0.05)


def test_an_end_is_one() -> None:
    """One step in five terminates: V = 1 + γ (4/5) V on average over the steps that look alike."""
    found = values(trained(always(5, "terminated"), **TRAP), np.zeros(1, int))
    assert found == pytest.approx(1 / (1 - 0.9 * 0.8), abs=0.25)


def test_truncation_as_termination_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    right = replay._windows

    def wrong(steps: Any, n: int) -> Any:
        steps.terminated[:] |= steps.truncated
        return right(steps, n)

    monkeypatch.setattr(replay, "_windows", wrong)
    assert values(trained(always(5, "truncated"), **TRAP), np.zeros(1, int)).max() < 6


def test_an_illegal_action_is_never_sent_nor_bootstrapped_from() -> None:
    """The value of the action that no one may take is 50 and stays so. It counts behind a time limit alone, where no
    mask is known: V = 1 + γ (4/5 V + 1/5 · 50), not 1 + γ · 50."""
    sent: list[int] = []

    class Guarded(Masked):
        def step(self, action: Any) -> Any:
            sent.append(int(action))
            seen, _, terminated, truncated, info = super().step(action)
            return seen, 1.0, terminated, truncated, info

    class Tempting(ThatEnds):
        def keep(self, **things: Any) -> None:
            super().keep(**things)
            for name in ("policy", "target"):
                things[name].head.bias.data[1] = 50.0

    run = Tempting()
    target = lambda: gym.wrappers.TimeLimit(Guarded([[1, 0, 1]], length=10**9), 5)  # noqa: E731
    dqn.train(target, dqn.Settings(**SMALL | TRAP | {"epsilon_end": 0.5, "learning_rate": "lin_1"}), run)  # type: ignore[arg-type]
    assert set(sent) == {0, 2}
    found = values(run, np.zeros((1, 1), np.float32))[0]
    assert found[1] == 50.0 and found[[0, 2]] == pytest.approx(10 / (1 - 0.9 * 0.8), abs=1.0)


# --- what a run says and keeps ---


def test_metrics_are_defined_and_steps_are_counted_once() -> None:
    run = trained("CartPole-v1", steps=500, num_envs=3, train_every=5, gradient_steps=2)
    assert set().union(*run.logged) <= set(KEYS)
    assert {"train/loss", "rollout/exploration_rate", "train/n_updates", "train/td_error"} <= set(run.logged[-1])
    assert "train/loss" not in trained("CartPole-v1", steps=100, learning_starts=99).logged[0]
    steps = sum(rollout.steps for rollout in run.rollouts)
    assert steps == run.kept["replay"].added == run.kept["envs"].steps
    assert 500 <= steps < 500 + 15
    rates = [row["rollout/exploration_rate"] for row in run.logged]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(0.05)
    assert run.kept["optimizer"].steps == sum(row["train/minibatches"] for row in run.logged)


def test_a_gradient_step_a_step_taken() -> None:
    run = trained("CartPole-v1", steps=300, num_envs=2, vectorization="sync", train_every=3, gradient_steps=None)
    assert run.kept["optimizer"].steps == 300 - 30  # rounds of 6 end at 36, 42, … 300


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    runs = [trained("CartPole-v1", seed, steps=400, replay="prioritized", n_step=2) for seed in (1, 1, 2)]
    first, same, other = (run.kept["policy"].head.weight for run in runs)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_in_double_precision_all_is() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        run = trained("CartPole-v1", steps=200)
        assert run.kept["policy"].head.weight.dtype == torch.float64
        assert run.kept["replay"].rows["returns"].dtype == np.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_saved_policy_acts_values_and_is_evaluated(tmp_path: Path) -> None:
    run = advantage.train(
        "dqn", "CartPole-v1", run_dir=tmp_path / "run", steps=400, quiet=True, eval_every=200, eval_episodes=2,
        epsilon_end=1.0, dueling=True, **SMALL,
    )  # fmt: skip
    seen = np.array([[0.0, 0.1, 0.0, 0.2], [0.3, -0.1, 0.05, 0.0]], np.float32)
    with torch.no_grad():
        q = run.policy.network({"observation": torch.from_numpy(seen)})
    assert np.allclose(run.policy.value(seen), q.amax(-1)) and run.policy.value(seen[0]) == pytest.approx(
        float(q[0].max())
    )
    assert np.array_equal(run.policy.act(seen), q.argmax(-1))
    assert {int(run.policy.act(seen[0], deterministic=False)) for _ in range(20)} == {0, 1}  # it ends at ε = 1
    assert run.evaluate(3).mean == run.evaluate(3).mean > 0
    assert (tmp_path / "run" / "best" / "policy.safetensors").exists()
    assert np.isfinite(run.metrics()["eval/mean_reward"]).sum() >= 2


@pytest.mark.parametrize("target", ["Pendulum-v1", "tests.algorithms.test_dqn:Pairs-v0"])
def test_actions_that_cannot_be_listed_are_refused_with_what_fits(target: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dqn needs Discrete actions, those of this environment are ") as refused:
        advantage.train("dqn", target, run_dir=tmp_path / "run", steps=5000, quiet=True)
    others = [name for name, entry in ALGORITHMS.items() if entry.world == "control" and name != "dqn"]
    assert all(name in str(refused.value) for name in others) and "ppo" in others
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


gym.register("Pairs-v0", lambda: Paid(lambda _: (3, "terminated"), action=gym.spaces.MultiDiscrete([2, 2])))

REFUSED = {
    "minibatch": ({"buffer_size": 10}, "buffer_size is 10; give minibatch_size, 64, or more"),
    "never learns": ({"steps": 1000}, "learning_starts is 1000 and the run has 1000 steps; lower learning_starts"),
    "epsilon": ({"epsilon_end": 1.5}, "epsilon_end is 1.5; it must be in 0 … 1"),
    "tau": ({"tau": 0}, "tau is 0.0; it must be above 0"),
    "loss": ({"loss": "mse"}, "loss is 'mse'; it must be one of huber, squared"),
    "a peer's word": ({"train_freq": 4}, "train_freq is called train_every here"),
    "another peer's word": ({"target_update_interval": 4}, "is called target_update_every here"),
    "batch": ({"batch_size": 4}, "batch_size is called minibatch_size here"),
    "PPO's": ({"share_trunk": True}, "there is no setting 'share_trunk'"),
    "memory": (
        {"buffer_size": 10**13},
        "buffer_size is 10000000000000, .* GiB at .* bytes a transition; .* give at most",
    ),
}


@pytest.mark.parametrize(("given", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_step_0(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told) as refused:
        advantage.train("dqn", "CartPole-v1", run_dir=tmp_path / "run", quiet=True, **given)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_a_reward_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    paid = iter([1.0] * 100 + [np.inf] * 1000)
    target = lambda: Paid(lambda _: (7, "terminated"), reward=lambda rng: next(paid))  # noqa: E731
    with pytest.raises(NonFinite, match="reward is inf in environment 0 at step 1"):
        trained(target, steps=500)


def test_a_network_that_runs_away_is_stopped() -> None:
    with pytest.raises(RunFailed, match="not finite"):
        trained("CartPole-v1", steps=20_000, learning_rate=1e30, max_grad_norm=1e30, loss="squared")


@pytest.mark.slow
def test_it_learns_cartpole_with_every_addition() -> None:
    """Of three seeds two at least balance for 100 of 500 steps within 20,000: by chance none would (20 on average)."""
    settings = {"double": True, "dueling": True, "n_step": 3, "replay": "prioritized", "learning_rate": "lin_1e-3"}
    settings |= {"network": (64, 64), "learning_starts": 500, "minibatch_size": 64, "log_every": 1000}
    best = []
    for seed in range(3):
        run = trained("CartPole-v1", seed, steps=20_000, vectorization="sync", eval_every=20_000, **settings)
        best.append(run.evaluate()["eval/mean_reward"])
    print(best)
    assert sum(score > 100 for score in best) >= 2
