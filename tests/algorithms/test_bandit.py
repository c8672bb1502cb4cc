"""Where DPO, RLHF and GRPO come to rest: on a bandit whose six completions can be enumerated, against closed forms.

A completion is one token. Where the expectation is exact, every group (or pair) that can be drawn is a part of the
batch, weighted by its probability; where it is not, thousands of groups are drawn an update. Objectives, advantages and
`ascend` are those of the trainings.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advantage.algorithms import dapo, dpo, dr_grpo, grpo, gspo, rlhf, rloo
from advantage.core import standardize
from advantage.language.generate import Samples
from advantage.language.rewards import Scored
from advantage.language.rows import batch_of as language_batch
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import ascend, estimate, minibatches

REWARDS = torch.tensor([0.0, 0.3, -0.5, 1.0, 0.8, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.3, 0.05, 0.25, 0.1, 0.1, 0.2], dtype=torch.float64)
ARMS = len(REWARDS)


class Softmax(nn.Module):
    """π(token) ∝ exp(logit), the same after every prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(REFERENCE.log())

    def evaluate(self, batch: Batch) -> Evaluation:
        return Evaluation(logp=self.logits.log_softmax(-1)[batch.actions])

    @property
    def chances(self) -> Tensor:
        return self.logits.detach().softmax(-1)


def batch_of(actions: Tensor, **columns: Any) -> Batch:
    """Completions of one token each, (rows,), against the reference."""
    columns = {name: column[:, None] for name, column in columns.items()}
    mask = torch.ones(len(actions), 1, dtype=torch.bool)
    return Batch.of_rows({}, actions[:, None], mask, logp_ref=REFERENCE.log()[actions][:, None], **columns)


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum()) / 2


def tilted(rewards: Tensor, beta: float) -> Tensor:
    """π_ref exp(r/β)/Z: the optimum of E r − β KL(π‖π_ref)."""
    return (REFERENCE.log() + rewards / beta).softmax(-1)


def fixed_point(rewards: Tensor, beta: float) -> Tensor:
    """β π_ref/(ν − r), with the ν above every r that makes it a distribution: of E r − β KL(π_ref‖π)."""
    low, high = rewards.max() + 1e-12, rewards.max() + beta
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (beta * REFERENCE / (middle - rewards)).sum() > 1 else (low, middle)
    return beta * REFERENCE / (high - rewards)


def test_the_closed_forms_are_optima() -> None:
    for beta, best, regulariser in (
        (0.3, tilted, lambda p: (p * (p / REFERENCE).log()).sum()),
        (0.3, fixed_point, lambda p: (REFERENCE * (REFERENCE / p).log()).sum()),
    ):
        p = best(REWARDS, beta)
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
        value = p @ REWARDS - beta * regulariser(p)
        for i, j in itertools.permutations(range(ARMS), 2):
            other = p.clone()
            other[i] += 1e-3
            other[j] -= 1e-3
            assert other @ REWARDS - beta * regulariser(other) < value
    assert total_variation(tilted(REWARDS, 0.3), fixed_point(REWARDS, 0.3)) > 0.1


# --- pairs ---

STRENGTHS = (2, 3, 1, 7, 5, 4)  # of Bradley and Terry: i beats j with probability s_i/(s_i + s_j), and r = log s


def every_comparison() -> Batch:
    """Of each two completions as many comparisons as both are strong, each won as often as the winner is strong."""
    orders = [(i, j) for i, j in itertools.permutations(range(ARMS), 2) for _ in range(STRENGTHS[i])]
    return batch_of(torch.tensor(orders).flatten())


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_dpo_finds_the_optimum_of_the_rewards_that_made_the_comparisons(beta: float) -> None:
    policy, now = Softmax(), dpo.Settings(beta=beta, max_grad_norm=1e9)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    batch = every_comparison()
    for _ in range(250):
        step = ascend(policy, optimizer, dpo.objective, batch, now)
    rewards = torch.tensor(STRENGTHS).double().log()
    found = total_variation(policy.chances, tilted(rewards, beta))
    print(f"dpo, beta {beta}: {found:.1e}")
    assert found < 1e-2
    assert step.gradient_norm < 1e-4
    assert total_variation(policy.chances, tilted(rewards, 2 * beta)) > 5e-2


# --- groups ---


def every_group(policy: Softmax, size: int, advantages: Callable[..., Tensor], now: Any) -> Batch:
    """All groups of that size, with the probability of each in `returns`."""
    groups = torch.cartesian_prod(*[torch.arange(ARMS)] * size)
    actions, place = groups.flatten(), torch.arange(len(groups)).repeat_interleave(size)
    found = advantages(REWARDS[actions], place, torch.ones_like(actions, dtype=torch.bool), now)
    chance = policy.chances[groups].prod(-1).repeat_interleave(size) / size
    return batch_of(actions, advantages=found, returns=chance, logp_old=policy.chances.log()[actions])


def expected(gain: Tensor, batch: Batch, now: Any, longest: int) -> Tensor:
    return (gain * batch.returns).sum()


def rest(stages: grpo.Stages, size: int = 2, inner: int = 1, updates: int = 400, **settings: Any) -> Tensor:
    """Where exact expectations lead, with `inner` steps on the groups of one policy."""
    policy, now = Softmax(), grpo.Settings(max_grad_norm=1e9, **settings)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.03)
    objective = partial(grpo.objective, stages=replace(stages, reduce=expected))
    for _ in range(updates):
        batch = every_group(policy, size, stages.advantages, now)
        if inner == 1:
            batch = batch.replace(logp_old=None)
        for _ in range(inner):
            ascend(policy, optimizer, objective, batch, now)
    return policy.chances


@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("beta", [0.2, 0.5])
def test_leave_one_out_and_the_corrected_kl_find_the_optimum(beta: float, inner: int) -> None:
    chances = rest(rloo.STAGES, inner=inner, updates=600 // (inner + 1), beta=beta, kl_correction=True)
    found = total_variation(chances, tilted(REWARDS, beta))
    print(f"corrected, beta {beta}, {inner} steps a batch: {found:.1e}")
    assert found < 1e-2
    assert total_variation(chances, fixed_point(REWARDS, beta)) > 5e-2


@pytest.mark.parametrize("beta", [0.2, 0.5])
def test_the_plain_kl_finds_its_own_fixed_point_and_not_the_optimum(beta: float) -> None:
    chances = rest(rloo.STAGES, beta=beta)
    found = total_variation(chances, fixed_point(REWARDS, beta))
    print(f"plain, beta {beta}: {found:.1e}")
    assert found < 1e-2
    assert total_variation(chances, tilted(REWARDS, beta)) > 5e-2


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("corrected", "closed_form"), [(True, tilted), (False, fixed_point)])
def test_a_mean_with_the_sample_in_it_acts_as_a_larger_beta(
    size: int, corrected: bool, closed_form: Callable[..., Tensor]
) -> None:
    chances = rest(dr_grpo.STAGES, size, beta=0.2, kl_correction=corrected)
    found = total_variation(chances, closed_form(REWARDS, 0.2 / (1 - 1 / size)))
    print(f"dr_grpo, groups of {size}, corrected {corrected}: {found:.1e}")
    assert found < 1e-2
    assert total_variation(chances, closed_form(REWARDS, 0.2)) > 2e-2


def test_division_by_the_spread_rescales_it_once_more() -> None:
    chances = rest(grpo.STAGES, size=3, beta=0.2, kl_correction=True)
    assert total_variation(chances, tilted(REWARDS, 0.2)) > 5e-2
    assert total_variation(chances, tilted(REWARDS, 0.3)) > 5e-2


def test_without_a_price_the_best_completion_is_left() -> None:
    for stages in (rloo.STAGES, grpo.STAGES, gspo.STAGES, dapo.STAGES):
        assert int(rest(stages, updates=120, beta=0.0).argmax()) == int(REWARDS.argmax())


# --- drawn ---


def drawn(stages: grpo.Stages, size: int, groups: int, updates: int, **settings: Any) -> Tensor:
    """The mean of the later policies of a training on samples, by the algorithm's own reduction."""
    policy, now = Softmax(), grpo.Settings(max_grad_norm=1e9, **settings)
    optimizer = torch.optim.SGD(policy.parameters(), lr=2.0)
    objective = partial(grpo.objective, stages=stages)
    generator, late = torch.Generator().manual_seed(0), torch.zeros(ARMS, dtype=torch.float64)
    everywhere = torch.ones(size * groups, dtype=torch.bool)
    place = torch.arange(groups).repeat_interleave(size)
    for update in range(updates):
        actions = torch.multinomial(policy.chances, size * groups, replacement=True, generator=generator)
        advantages = stages.advantages(REWARDS[actions], place, everywhere, now)
        ascend(policy, optimizer, objective, batch_of(actions, advantages=advantages), now)
        late += policy.chances * (update >= updates // 2) / (updates - updates // 2)
    return late


def test_samples_lead_where_expectations_do() -> None:
    settings: dict[str, Any] = {"size": 4, "groups": 1024, "updates": 240, "beta": 0.3}
    found = {
        "corrected": total_variation(drawn(rloo.STAGES, kl_correction=True, **settings), tilted(REWARDS, 0.3)),
        "plain": total_variation(drawn(rloo.STAGES, **settings), fixed_point(REWARDS, 0.3)),
        "mean": total_variation(drawn(dr_grpo.STAGES, kl_correction=True, **settings), tilted(REWARDS, 0.4)),
    }
    print(", ".join(f"{name}: {value:.1e}" for name, value in found.items()))
    assert max(found.values()) < 1e-2


# --- with a critic, and the price in the reward ---


class WithCritic(Softmax):
    """The same, and one number that says what a completion is worth on average."""

    def __init__(self) -> None:
        super().__init__()
        self.worth = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def evaluate(self, batch: Batch) -> Evaluation:
        return replace(super().evaluate(batch), values=self.worth.expand(batch.actions.shape))


def as_often_as_likely(chances: Tensor, rows: int) -> Tensor:
    """Completions, each as many times as its probability says: an expectation to within 1/rows."""
    ends = (chances.cumsum(-1) * rows).round().long()
    return torch.arange(ARMS).repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))


def sampled(actions: Tensor) -> tuple[Samples, Rollout]:
    """Those completions as RLHF has them: judged, with their ends."""
    mask = torch.ones(len(actions), 1, dtype=torch.bool)
    scored = Scored(REWARDS[actions], mask[:, 0], {}, None, {}, 0)
    context = {"tokens": torch.zeros(len(actions), 2).long(), "positions": mask.long()}
    return Samples((), (), (), scored), Rollout(context, actions[:, None], mask, mask, ~mask)


def rest_of_rlhf(updates: int = 80, rows: int = 1000, **settings: Any) -> tuple[Tensor, float]:
    """Where its own phases lead, without the network: score, price, estimate, whiten, ascend."""
    policy, reference = WithCritic(), Softmax()
    now = rlhf.Settings(max_grad_norm=1e9, minibatch_size=None, micro_tokens=None, **settings)
    optimizer = torch.optim.Adam(policy.parameters())
    rng = np.random.default_rng(0)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - update / updates)  # whitened advantages do not fade by themselves
        samples, rollout = sampled(as_often_as_likely(policy.chances, rows))
        rollout = rlhf.priced(rlhf.said(policy, reference, rollout, now), samples, now)
        advantages, returns = estimate(rollout, now.gamma, now.gae_lambda)
        data = language_batch(rollout, standardize(advantages, rollout.mask), returns)
        for batch in minibatches(data, now.epochs, len(data), rng):
            ascend(policy, optimizer, rlhf.objective, batch, now)
    return policy.chances, float(policy.worth.detach())


@pytest.mark.parametrize("beta", [0.2, 0.5, 1.0])
def test_rlhf_finds_the_optimum_and_its_critic_what_that_is_worth(beta: float) -> None:
    chances, worth = rest_of_rlhf(beta=beta)
    found = total_variation(chances, tilted(REWARDS, beta))
    print(f"rlhf, beta {beta}: {found:.1e}")
    assert found < 1e-2
    assert total_variation(chances, fixed_point(REWARDS, beta)) > 2e-2
    partition = beta * (REFERENCE.log() + REWARDS / beta).logsumexp(-1)  # of the optimum, E r − β KL = β log Z
    assert worth == pytest.approx(float(partition), abs=2e-2)


def test_rlhf_without_a_price_is_left_with_the_best_completion() -> None:
    assert rest_of_rlhf(updates=60, beta=0.0)[0].argmax() == REWARDS.argmax()
