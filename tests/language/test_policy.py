"""A language policy: what it says about a batch is the model's own word, wherever the rows are padded or cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advantage.adam import FlatAdam
from advantage.core import clipped_surrogate, group_advantages, likelihood_ratio, token_mean, value_loss
from advantage.language.policy import Critic, LanguagePolicy
from advantage.language.rows import batch_of, batch_of_rows, rollout_of
from advantage.language.types import Completion, Prompt
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import ascend, scored
from tests.language.small import small_llama, with_precise_norms


@dataclass(frozen=True)
class Now:
    max_grad_norm: float = 1e9
    micro_batch: int | None = None
    micro_tokens: int | None = None


def sampled(n: int = 3) -> Rollout:
    rng = np.random.default_rng(0)
    prompts = [Prompt(tuple(rng.integers(3, 61, size)), "", {}, index) for index, size in enumerate((4, 9, 2))]
    completions = []
    for length in (5, 1, 7, 3, 3, 6, 2, 8, 4):
        ids = tuple(rng.integers(3, 61, length))
        completions.append(Completion(ids, tuple(-rng.random(length)), "stop" if length % 2 else "length"))
    return rollout_of(prompts, completions)


def data(rollout: Rollout) -> Batch:
    rewards = torch.linspace(-1, 1, len(rollout.mask), dtype=torch.float64) ** 3
    assert rollout.group is not None
    advantages = group_advantages(rewards, rollout.group)[:, None].expand(rollout.mask.shape)
    batch = batch_of(rollout, advantages, 0.5 * advantages)
    return batch.replace(logp_old=torch.full_like(advantages, -4.0))


def by_hand(model: Any, rollout: Rollout, temperature: float) -> Tensor:
    found = torch.zeros(rollout.mask.shape, dtype=torch.float64)
    for row, mask in enumerate(rollout.mask):
        places = rollout.context["positions"][row, mask]
        ids = rollout.context["tokens"][row, : int(places[-1]) + 1]
        logp = (model(input_ids=ids[None]).logits[0] / temperature).log_softmax(-1)
        found[row, mask] = logp[places - 1, ids[places]]
    return found


def test_a_rollout_ends_each_stream_at_its_completion_s_last_token() -> None:
    rollout = sampled()
    assert rollout.mask.sum(-1).tolist() == [5, 1, 7, 3, 3, 6, 2, 8, 4]
    assert rollout.terminated.sum(-1).tolist() == [1] * 9
    assert not rollout.truncated.any()
    assert torch.equal(rollout.terminated & rollout.mask, rollout.terminated)
    assert rollout.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # type: ignore[union-attr]
    assert rollout.finish_reason == ("stop", "stop", "stop", "stop", "stop", "length", "length", "length", "length")


@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_each_row_is_scored_as_it_would_be_alone(temperature: float) -> None:
    model, rollout = small_llama(), sampled()
    new = LanguagePolicy(model, temperature).evaluate(batch_of(rollout))
    torch.testing.assert_close(new.logp, by_hand(model, rollout, temperature), rtol=0, atol=1e-10)
    assert torch.equal(new.entropy != 0, rollout.mask)


def objective(new: Evaluation, batch: Batch, now: Now) -> Tensor:
    gain = clipped_surrogate(likelihood_ratio(new.logp, batch.logp_old), batch.advantages, 0.2, 0.3)
    if new.values is not None:
        gain = gain - 0.5 * value_loss(new.values, batch.returns)
    return token_mean(gain + 0.01 * new.entropy, batch.mask, total=batch.tokens)


def gradient(now: Now, critic: str | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    model = with_precise_norms(small_llama(dtype=dtype))
    value = None
    if critic:
        backbone = with_precise_norms(small_llama(dtype=dtype, seed=7)).get_decoder() if critic == "own" else None
        value = Critic(32, backbone).to(dtype)
        torch.nn.init.normal_(value.value_head.weight, generator=torch.Generator().manual_seed(0))
    policy = LanguagePolicy(model, critic=value)
    batch = data(sampled())
    columns = {name: getattr(batch, name).to(dtype) for name in ("advantages", "returns", "logp_old")}
    ascend(policy, torch.optim.SGD(policy.parameters(), lr=0.0), objective, batch.replace(**columns), now)
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


@pytest.mark.parametrize("critic", [None, "head", "own"])
@pytest.mark.parametrize("now", [Now(micro_batch=2), Now(micro_tokens=1), Now(micro_tokens=30)])
def test_any_split_gives_the_same_gradient(now: Now, critic: str | None) -> None:
    torch.testing.assert_close(gradient(now, critic), gradient(Now(), critic), rtol=1e-10, atol=1e-10)


def test_in_single_precision_too() -> None:
    whole, split = (gradient(now, dtype=torch.float32) for now in (Now(), Now(micro_tokens=30)))
    assert float((whole - split).norm() / whole.norm()) < 2e-5


def test_a_part_without_a_decision_is_nothing() -> None:
    batch = data(sampled())
    empty = batch.rows(torch.tensor([1])).replace(mask=torch.zeros_like(batch.mask[1:2]))
    policy = LanguagePolicy(small_llama(), critic=Critic(32).double())
    objective(policy.evaluate(empty), empty, Now()).backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())


def test_marked_tokens_of_given_texts_are_the_actions() -> None:
    batch = batch_of_rows([(5, 6, 7, 8), (9, 10)], [(True, False, True, True), (False, True)])
    assert batch.actions.tolist() == [[7, 8], [10, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False]]  # type: ignore[union-attr]
    assert (batch.tokens, batch.sequences, batch.length.tolist()) == (3, 2, [3, 1])  # type: ignore[union-attr]


def test_scores_do_not_depend_on_the_split() -> None:
    policy = LanguagePolicy(small_llama())
    batch = data(sampled())
    whole, split = (scored(policy, batch, now).logp for now in (Now(), Now(micro_tokens=25)))
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-10)


def test_the_flat_optimiser_trains_what_is_not_frozen() -> None:
    policy = LanguagePolicy(small_llama(dtype=torch.float32))
    policy.model.get_input_embeddings().requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    batch = data(sampled())
    columns = {name: getattr(batch, name).float() for name in ("advantages", "returns", "logp_old")}
    ascend(policy, FlatAdam(policy, 0.01, 1e-8), objective, batch.replace(**columns), Now())
    moved = {name for name, parameter in policy.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if "embed_tokens" not in name}
