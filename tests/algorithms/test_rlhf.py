"""RLHF: the reward seam, the price of leaving the reference, the critic's values, and the same loop as PPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import advantage
from advantage.algorithms import rlhf
from advantage.core import kl_k1
from advantage.errors import UserError
from advantage.language import setup
from advantage.language.generate import Samples
from advantage.language.models import load_model, load_tokenizer
from advantage.language.policy import Critic, LanguagePolicy
from advantage.language.rewards import Scored
from advantage.language.rows import batch_of
from advantage.language.scalar import load_scalar, save_scalar, scalar_from_causal
from advantage.language.setup import critic_of, frozen, trainable
from advantage.language.tasks import task
from advantage.language.types import Completion, Prompt
from advantage.planning import recorded_settings
from advantage.runs import tensors
from advantage.update import estimate
from tests.language.small import small_llama, token_scores

SMALL: dict[str, Any] = {"task": "add", "threads": 1, "batch_size": 8, "minibatch_size": 4, "steps": 2, "quiet": True}
NOW: Any = SimpleNamespace(seed=lambda name: 3)

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


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


@pytest.mark.parametrize(("critic", "rank"), [("head", 0), ("copy", 0), ("head", 2), ("copy", 2)])
def test_the_first_updates_of_a_run_teach_the_critic_alone(critic: str, rank: int, tmp_path: Path) -> None:
    given = {
        "critic": critic,
        "critic_warmup": 1,
        "lora_rank": rank,
        "learning_rate": 1e-2,
        "checkpoint_every": 0,
        "epochs": 3,
    }
    run = advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", **SMALL | given)
    warm, taught = (run.reader.policy(step)[0]["policy"] for step in (1, 2))
    begun = dict(LanguagePolicy(trainable(load_model("tiny"), run_settings(run), NOW)).named_parameters())
    heads = {name for name in warm if name.startswith("critic.")}
    assert any(torch.as_tensor(warm[name]).abs().max() > 0 for name in heads if "value_head" in name)
    for name in warm.keys() - heads:
        if "lora_A" not in name:  # drawn under a seed of the run's own; B is 0 as long as nothing is learnt
            assert torch.equal(torch.as_tensor(warm[name]).view_as(begun[name]), begun[name]), name
    assert any(
        not torch.equal(torch.as_tensor(warm[name]), torch.as_tensor(taught[name])) for name in warm.keys() - heads
    )


def run_settings(run: advantage.Run) -> rlhf.Settings:
    settings: rlhf.Settings = recorded_settings(run.reader)
    return settings


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


# --- a critic that begins as the reward model ---


def a_reward_model(folder: Path, more: Sequence[str] = ()) -> Path:
    """`tiny` with a head that scores; with more tokens than it has, another vocabulary."""
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_tokens(list(more))
    save_scalar(scalar_from_causal(load_model("tiny"), std=1.0, seed=5), tokenizer, folder)
    return folder


@pytest.mark.parametrize("rank", [0, 2])
def test_the_critic_values_a_text_as_the_reward_model_scores_it(rank: int, tmp_path: Path) -> None:
    folder = a_reward_model(tmp_path / "scorer")
    settings = rlhf.Settings(rewards=f"exact,reward_model:{folder}*0.5", critic="reward_model", lora_rank=rank)
    model = trainable(load_model("tiny"), settings, NOW)
    critic = critic_of("reward_model", model, load_tokenizer("tiny"), settings, NOW)
    batch = batch_of(samples().rollout())
    with torch.no_grad():
        values = LanguagePolicy(model, critic=critic).evaluate(batch).values
        scores = token_scores(load_scalar(str(folder)), batch.context["tokens"], batch.length)
    places = batch.context["positions"] - 1
    assert values is not None
    torch.testing.assert_close(values[batch.mask], scores.gather(1, places)[batch.mask], rtol=1e-4, atol=1e-5)
    own = {name for name, parameter in critic.named_parameters() if parameter.requires_grad}
    assert {"value_head.weight", "value_head.bias"} < own
    assert all("lora_" in name for name in own if name.startswith("backbone")) == bool(rank)


def test_it_learns_from_there(tmp_path: Path) -> None:
    folder = a_reward_model(tmp_path / "scorer")
    given = {"rewards": f"reward_model:{folder}", "critic": "reward_model", "learning_rate": 1e-4}
    run = advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", **SMALL | given)
    assert "rewards/reward_model/mean" in run.metrics()
    saved, _ = tensors.read(run.path / "policy/critic.safetensors")
    begun = load_scalar(str(folder))
    name = "layers.0.self_attn.q_proj.weight"
    moved = (torch.as_tensor(saved[f"backbone.{name}"]) - begun.model.get_parameter(name)).abs().max()
    assert 0 < moved < 1e-2
    assert (torch.as_tensor(saved["value_head.weight"]) - begun.score.weight).abs().max() < 1e-2


def test_a_critic_without_its_reward_model_is_refused(tmp_path: Path) -> None:
    mistakes = [
        ({}, "no reward of the run is one"),
        ({"rewards": "exact"}, "rewards is 'exact'"),
        ({"rewards": f"reward_model:{a_reward_model(tmp_path / 'other', ['<|more|>'])}"}, "reads other tokens"),
        ({"rewards": "reward_model:./nowhere"}, "./nowhere: no such folder"),
    ]
    for given, told in mistakes:
        with pytest.raises(UserError, match=told) as caught:
            advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", critic="reward_model", **SMALL | given)
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


# --- the seam ---


def test_a_verifier_and_a_reward_model_differ_by_the_call_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One update of each has the same samples, values and log-probabilities; the rewards differ, and nothing else."""
    given = {**SMALL, "steps": 1}
    specs = {"rlvr": "task", "rlhf": f"reward_model:{a_reward_model(tmp_path / 'scorer')}"}
    runs = {
        name: advantage.train("rlhf", "tiny", run_dir=tmp_path / name, rewards=it, **given)
        for name, it in specs.items()
    }
    rlvr, other = (run.reader.rollout()[0] for run in runs.values())
    assert rlvr.keys() == other.keys() and rlvr["finish_reason"] == other["finish_reason"]
    for name, value in rlvr.pop("context").items():
        assert torch.equal(value, other["context"][name])
    differ = {name for name in rlvr.keys() - {"finish_reason"} if not torch.equal(rlvr[name], other[name])}
    assert differ == {"rewards"}
    assert runs["rlvr"].metrics().keys() - runs["rlhf"].metrics().keys() == {"rewards/task/mean"}
    assert weights(runs["rlvr"]) != weights(runs["rlhf"])
    add = task("add")  # a reward model that scores as the verifier judges: the same policy, to the last bit
    monkeypatch.setattr(setup, "scorer", lambda path, device: partial(judged_by, add))
    same = advantage.train("rlhf", "tiny", run_dir=tmp_path / "same", rewards="reward_model:any", **given)
    assert weights(same) == weights(runs["rlvr"])


def judged_by(add: Any, prompts: Any, completions: Any, cut: Any) -> list[float]:
    answers = [str(sum(int(part) for part in prompt[0]["content"].rstrip("=").split("+"))) for prompt in prompts]
    return [float(value) for value in add.reward(prompts, completions, answer=answers)]


def weights(run: advantage.Run) -> bytes:
    return (run.path / "policy/model.safetensors").read_bytes()


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


def test_a_price_of_nothing_cannot_be_adapted():
    with pytest.raises(UserError, match="beta is 0, which kl_target multiplies"):
        rlhf.Settings(beta=0.0, kl_target=1.0)
