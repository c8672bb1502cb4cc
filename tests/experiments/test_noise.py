"""The noise of a gradient: the estimator against known covariances, estimates against identities of the ladder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import advantage
from advantage.algorithms import module, reinforce
from advantage.errors import UserError
from advantage.experiments.noise import Material, _gradient, _gradients, measure, noise_of, play
from advantage.runs.reader import RunReader
from advantage.settings import resolve
from advantage.trajectory import Batch

QUICK: dict[str, Any] = {"steps": 600, "network": (8,), "quiet": True, "gamma": 0.99}
PLAIN = {"normalize_advantages": False, "num_envs": 4, "num_steps": 16}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noise") / "reference"
    advantage.train("ppo", "CartPole-v1", run_dir=path, num_steps=64, num_envs=2, minibatch_size=32, **QUICK)
    return path


@pytest.fixture(scope="module")
def material(reference: Path) -> Material:
    return play(RunReader(reference), streams=40, steps=16, seed=3)


def gradients(material: Material, algorithm: str, estimates: int = 5, **settings: Any) -> torch.Tensor:
    own = module(algorithm)
    return _gradients(own, resolve(own.Settings, settings), material, estimates)[0]


def test_variance_and_signal_of_known_gradients() -> None:
    """Normal gradients with tr Σ = 9 and mean 2 along the direction, whose spread there is 1: the means of 2,000
    experiments of eight are within four standard errors: a right implementation fails with 1 seed in 5,000."""
    rng, mean, spread = np.random.default_rng(0), np.array([2.0, 1.0, 0.0]), np.array([1.0, 2.0, 2.0])
    along = torch.tensor([1.0, 0.0, 0.0])
    found = [noise_of(torch.from_numpy(mean + spread * rng.normal(size=(8, 3))), 50.0, along) for _ in range(2000)]
    for values, truth in (
        ([one.variance for one in found], 9.0),
        ([one.signal for one in found], 2.0),
        ([one.error**2 for one in found], 1.0 / 8.0),
        ([one.signal**2 - one.error**2 for one in found], 4.0),  # what the scale divides by
    ):
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / np.sqrt(2000)


def test_the_scale_is_in_steps_and_knows_no_unit() -> None:
    gradients, along = torch.tensor([[3.0, 0.0], [1.0, 2.0], [2.0, 1.0]]), torch.tensor([1.0, 0.0])
    found = noise_of(gradients, 10.0, along)
    assert (found.estimates, found.variance, found.signal) == (3, 2.0, 2.0)
    assert found.error**2 == pytest.approx(1.0 / 3.0)
    assert found.scale == pytest.approx(10.0 * 2.0 / (4.0 - 1.0 / 3.0))
    assert noise_of(1000.0 * gradients, 10.0, along).scale == pytest.approx(found.scale)
    with pytest.raises(ValueError, match="two estimates"):
        noise_of(gradients[:1], 1.0, along)


@pytest.mark.parametrize("mean", [0.0, 0.5, -9.0])
def test_what_does_not_show_has_no_scale(mean: float) -> None:
    """No signal, one below two standard errors, one against the gradient."""
    gradients = torch.tensor([[mean - 1.0], [mean], [mean + 1.0]])
    assert noise_of(gradients, 10.0, torch.ones(1)).scale is None


def test_the_direction_is_that_of_the_gradient_whatever_the_estimate(material: Material) -> None:
    for settings in ({"baseline": "value"}, {"baseline": "none"}):
        mean = gradients(material, "reinforce", 5, **settings).mean(0)
        assert float(torch.cosine_similarity(mean, material.direction.float(), dim=0)) > 0.5
    assert float(material.direction.norm()) == pytest.approx(1.0)
    now = reinforce.Settings(gamma=0.99, baseline="value", vf_coef=0.0)
    psi, targets = reinforce.credit(material.episodes, now)
    own = _gradient(reinforce, now, material.policy, Batch.of(material.episodes, psi, targets).single_steps())
    assert float(torch.cosine_similarity(own, material.direction.float(), dim=0)) < 0.999  # u is of other episodes


def test_all_that_is_the_same_at_the_first_step_has_the_same_gradient(material: Material) -> None:
    """At ρ = 1 neither ratio nor clip does anything; λ = 0 is a single step; epochs come later."""
    a2c = gradients(material, "a2c", gae_lambda=0.9, **PLAIN)
    for eps in (0.2, 1e9):
        reuse = {"gae_lambda": 0.9, "minibatch_size": 8, "epochs": 3, "eps_low": eps, "eps_high": eps}
        torch.testing.assert_close(gradients(material, "ppo", **PLAIN, **reuse), a2c, rtol=1e-4, atol=1e-7)
    one = gradients(material, "actor_critic_td", n_step=1, **PLAIN)
    torch.testing.assert_close(one, gradients(material, "a2c", gae_lambda=0.0, **PLAIN))
    assert not torch.allclose(one, a2c)


def test_the_critic_and_the_bonus_are_left_out(material: Material) -> None:
    weighed = gradients(material, "a2c", vf_coef=7.0, ent_coef=0.3, **PLAIN)
    torch.testing.assert_close(weighed, gradients(material, "a2c", **PLAIN))


def test_estimates_are_of_streams_of_their_own(material: Material) -> None:
    few, many = (gradients(material, "a2c", estimates=count, **PLAIN) for count in (3, 10))
    torch.testing.assert_close(few, many[:3])
    assert len({tuple(row.tolist()) for row in many}) == 10


def test_reward_to_go_and_the_whole_return_estimate_one_gradient(material: Material) -> None:
    """At γ = 1 their difference has mean 0: Hotelling's T² of its projections on five fixed directions, 40 single
    episodes, stays below the 99.9 % quantile; the seed is fixed."""
    from scipy import stats

    common = {"episodes": 1, "gamma": 1.0}
    whole, rest = (gradients(material, "reinforce", 40, psi=psi, **common) for psi in ("trajectory", "reward_to_go"))
    directions = torch.from_numpy(np.random.default_rng(1).normal(size=(whole.shape[1], 5))).float()
    found = ((whole - rest) @ directions).double().numpy()
    n, p = found.shape
    statistic = n * found.mean(0) @ np.linalg.solve(np.cov(found.T), found.mean(0))
    assert statistic * (n - p) / (p * (n - 1)) < stats.f.ppf(0.999, p, n - p)
    assert whole.var(0).sum() > rest.var(0).sum()


def test_a_constant_baseline_is_the_mean_of_the_other_episodes(material: Material) -> None:
    """The estimate with it is the one without, less the mean return times the score: the same episodes' R(τ) = 1."""
    plain, less = (gradients(material, "reinforce", 5, baseline=name, gamma=1.0) for name in ("none", "running_mean"))
    lengths = material.episodes.mask.sum(-1).double()  # the returns of CartPole at γ = 1
    others = [(lengths.sum() - lengths[k * 8 : k * 8 + 8].sum()) / 32 for k in range(5)]
    score = (plain - less) / torch.tensor(others)[:, None]
    for k in range(5):
        again = (gradients(material, "reinforce", 5, baseline="none", gamma=0.0))[k]  # every reward is 1: Ψ = 1
        torch.testing.assert_close(score[k].float(), again, rtol=1e-3, atol=1e-5)


def test_runs_are_measured_on_the_reference(reference: Path, tmp_path: Path) -> None:
    runs = []
    for algorithm, settings in (("reinforce", {"episodes": 2}), ("a2c", {"num_envs": 2, "num_steps": 16}),
                                ("actor_critic_mc", {"episodes": 2})):  # fmt: skip
        runs.append(tmp_path / algorithm)
        advantage.train(algorithm, "CartPole-v1", run_dir=runs[-1], **settings, **QUICK)
    found = measure(RunReader(reference), [RunReader(run) for run in runs], estimates=4)
    assert set(found) == {"reinforce", "a2c", "actor_critic_mc"}
    assert found["a2c"].steps <= 32 < found["reinforce"].steps == found["actor_critic_mc"].steps * 1.0
    assert all(np.isfinite(noise.variance) and noise.estimates == 4 for noise in found.values())
    again = measure(RunReader(reference), [RunReader(run) for run in runs], estimates=4)
    assert again == found


def test_a_critic_of_actions_is_refused(material: Material) -> None:
    with pytest.raises(UserError, match="critic is 'q'"):
        gradients(material, "actor_critic_td", critic="q", **PLAIN)
