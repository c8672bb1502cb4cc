"""RLHF: the reward seam, the price of leaving the reference, the critic's values, and the same loop as PPO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import advantage
from advantage.algorithms import rlhf
from advantage.core import kl_k1
from advantage.errors import UserError
from advantage.language.generate import Samples
from advantage.language.policy import Critic, LanguagePolicy
from advantage.language.rewards import Scored
from advantage.language.rows import batch_of
from advantage.language.setup import frozen
from advantage.language.types import Completion, Prompt
from advantage.update import estimate
from tests.language.small import small_llama

SMALL: dict[str, Any] = {"task": "add", "threads": 1, "batch_size": 8, "minibatch_size": 4, "steps": 2, "quiet": True}


def samples(tokens: list[list[float]] | None = None) -> Samples:
    prompts = (Prompt((3, 4, 5), "", {}, 0), Prompt((6, 7), "", {}, 1))
    completions = (Completion((9, 8, 1), (-1.0,) * 3, "stop"), Completion((5, 5), (-1.0,) * 2, "length"))
    scored = Scored(torch.tensor([2.0, -1.0]), torch.tensor([True, True]), {"r": [2.0, -1.0]}, tokens, {}, 0)
    return Samples(prompts, completions, ("", ""), scored)


def said(settings: rlhf.Settings) -> Any:
    model = small_llama(dtype=torch.float32)
    policy = LanguagePolicy(model, critic=Critic(32))
    torch.nn.init.normal_(policy.critic.value_head.weight, generator=torch.Generator().manual_seed(1))  # type: ignore[union-attr]
    reference = frozen(LanguagePolicy(small_llama(dtype=torch.float32, seed=4)))
    return rlhf.said(policy, reference, samples().rollout(), settings)


def test_the_score_stands_on_the_last_token_and_every_token_pays_its_kl() -> None:
    now = rlhf.Settings(beta=0.3)
    rollout = said(now)
    priced = rlhf.priced(rollout, samples(), now)
    kl = kl_k1(rollout.logp_old, rollout.logp_ref)
    expected = torch.tensor([[0.0, 0.0, 2.0], [0.0, -1.0, 0.0]]) - 0.3 * kl
    torch.testing.assert_close(priced.rewards, expected.masked_fill(~rollout.mask, 0.0))


def test_process_rewards_stand_where_they_were_earned() -> None:
    now = rlhf.Settings(beta=0.0)
    priced = rlhf.priced(said(now), samples([[0.5, 0.0, 1.5], [-2.0, 1.0]]), now)
    assert priced.rewards.tolist() == [[0.5, 0.0, 1.5], [-2.0, 1.0, 0.0]]


def test_nothing_is_worth_anything_behind_a_completion_s_end() -> None:
    now = rlhf.Settings(beta=0.0)
    rollout = rlhf.priced(said(now), samples(), now)
    assert rollout.values[rollout.mask].abs().min() > 0
    advantages, returns = estimate(rollout, 1.0, 1.0)
    torch.testing.assert_close(returns[rollout.mask], torch.tensor([2.0, 2.0, 2.0, -1.0, -1.0]))
    torch.testing.assert_close(advantages, returns - rollout.values)


def test_the_price_follows_the_kl() -> None:
    price = rlhf.Price(rlhf.Settings(beta=0.1, kl_target=2.0, kl_horizon=100))
    price.adapt(50.0, completions=10)
    assert price.beta == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    price.adapt(1.9, completions=10)
    assert price.beta == pytest.approx(0.102 * (1 - 0.05 * 0.1))
    other = rlhf.Price(rlhf.Settings())
    other.restore(price.state())
    assert other.beta == price.beta
    other.adapt(50.0, 10)
    assert other.beta == price.beta, "without a target it stays"


def test_while_the_critic_warms_up_the_actor_stays() -> None:
    policy = LanguagePolicy(
        small_llama(dtype=torch.float32), critic=Critic(32, small_llama(dtype=torch.float32, seed=2).model)
    )
    now = rlhf.Settings()
    rollout = rlhf.priced(rlhf.said(policy, frozen(policy), samples().rollout(), now), samples(), now)
    advantages, returns = estimate(rollout, 1.0, 0.95)
    batch = batch_of(rollout, advantages, returns)
    rlhf.critic_alone(policy.evaluate(batch), batch, now).backward()
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    assert policy.critic is not None and policy.critic.value_head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("critic", ["head", "copy"])
def test_it_runs_and_says_what_the_field_plots(critic: str, tmp_path: Path) -> None:
    run = advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", critic=critic, kl_target=0.5, **SMALL)
    metrics = run.metrics()
    for name in (
        "reward",
        "kl",
        "train/beta",
        "train/value_loss",
        "train/explained_variance",
        "time/score",
        "num_tokens",
    ):
        assert len(metrics[name]) == 2, name
    assert metrics["train/first_ratio_error"].max() < 1e-5
    assert metrics["kl"][0] == pytest.approx(0.0, abs=1e-5)
    assert (tmp_path / "run/policy/model.safetensors").exists() and (
        tmp_path / "run/policy/critic.safetensors"
    ).exists()


def test_a_verifier_and_a_reward_model_differ_by_the_call_alone(tmp_path: Path) -> None:
    from advantage.language.models import load_model, load_tokenizer
    from advantage.language.scalar import save_scalar, scalar_from_causal

    save_scalar(scalar_from_causal(load_model("tiny"), std=1.0), load_tokenizer("tiny"), tmp_path / "scorer")
    runs = {
        name: advantage.train("rlhf", "tiny", run_dir=tmp_path / name, rewards=spec, **SMALL)
        for name, spec in (("rlvr", "task"), ("rlhf", f"reward_model:{tmp_path / 'scorer'}"))
    }
    first = [run.reader.rollout()[0] for run in runs.values()]
    assert first[0].keys() == first[1].keys()
    assert runs["rlvr"].metrics().keys() - runs["rlhf"].metrics().keys() == {"rewards/task/mean"}


@pytest.mark.parametrize("settings", [{"beta": -0.1}, {"critic": "none"}, {"kl_target": 0.0}, {"gae_lambda": 1.5}])
def test_what_cannot_be(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", **SMALL | settings)
    assert not (tmp_path / "run").exists()


def test_its_objective_is_ppo_s_with_a_clipped_critic() -> None:
    from advantage.algorithms import ppo
    from advantage.trajectory import Batch, Evaluation

    rng = torch.Generator().manual_seed(0)
    columns = {name: torch.randn(4, 5, generator=rng) for name in ("advantages", "returns", "values_old", "logp_old")}
    mask = torch.rand(4, 5, generator=rng) > 0.3
    batch = Batch.of_rows(None, mask.long(), mask, **columns)
    new = Evaluation(
        logp=torch.randn(4, 5, generator=rng), entropy=torch.zeros(4, 5), values=torch.randn(4, 5, generator=rng)
    )
    theirs = ppo.Settings(vf_coef=0.2, value_clip=0.2, ent_coef=0.0)
    ours = replace(rlhf.Settings(), vf_coef=0.2, value_clip=0.2)
    torch.testing.assert_close(rlhf.objective(new, batch, ours), ppo.objective(new, batch, theirs))
