"""Estimate, minibatches, ascend: the same gradient however a batch is split, in both worlds, and nothing non-finite."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from advantage import core
from advantage.adam import FlatAdam
from advantage.errors import NonFinite
from advantage.runs.moment import Update
from advantage.settings import Schedule
from advantage.trajectory import Batch, Evaluation, Rollout, tree_map
from advantage.update import Step, ascend, descend, estimate, minibatches, schedule, scored, statistics

NAN = float("nan")
LENGTHS = (3, 5, 0, 1, 4, 2, 5)  # of seven completions; the third was filtered out
GROUP = torch.tensor([0, 0, 0, 1, 1, 2, 2])
LONGEST, PROMPT, WORDS = 5, 2, 11


@dataclass(frozen=True)
class Now:
    """Settings of a moment."""

    max_grad_norm: float = 1e9
    micro_batch: int | None = None
    reduction: str = "token"
    learning_rate: Schedule = 0.1
    eps_low: Schedule = 0.2
    eps_high: Schedule = 0.2
    beta: float = 0.1
    numerics: str = "advantage"


@dataclass(frozen=True)
class Warm(Now):
    """And of a language model's."""

    warmup: int = 0


# --- a language batch and a policy over tokens ---


class Tokens(nn.Module):
    """The least language model: the next word by the present one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(WORDS, 6), nn.Linear(6, WORDS)

    def evaluate(self, batch: Batch) -> Evaluation:
        before = batch.context["tokens"].gather(1, batch.context["positions"] - 1)
        log_probs = self.head(self.embedding(before).tanh()).log_softmax(-1)
        logp = log_probs.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
        return Evaluation(logp=logp, entropy=-(log_probs.exp() * log_probs).sum(-1))


def tokens_policy(seed: int = 0) -> Tokens:
    torch.manual_seed(seed)
    return Tokens().double()


def language_batch(unit: Tensor | None = None) -> Batch:
    """Seven ragged completions in three groups; whatever a sampler left behind an end is NaN."""
    rng = np.random.default_rng(3)
    tokens = torch.from_numpy(rng.integers(0, WORDS, (len(LENGTHS), PROMPT + LONGEST)))
    positions = torch.arange(PROMPT, PROMPT + LONGEST).expand(len(LENGTHS), LONGEST)
    mask = torch.arange(LONGEST) < torch.tensor(LENGTHS)[:, None]
    drawn = [torch.from_numpy(rng.normal(-2.0, 0.3, mask.shape)).masked_fill(~mask, NAN) for _ in range(3)]
    rewards = torch.from_numpy(rng.normal(size=len(LENGTHS)))
    rollout = Rollout(
        context={"tokens": tokens, "positions": positions},
        actions=tokens.gather(1, positions),
        mask=mask,
        terminated=torch.zeros_like(mask),
        truncated=torch.zeros_like(mask),
        logp_old=drawn[0],
        logp_ref=drawn[1],
        logp_sampler=drawn[2],
        group=GROUP,
        finish_reason=("stop", "length", "error", "stop", "stop", "stop", "length"),
    )
    advantages = core.group_advantages(rewards, GROUP)[:, None].expand(mask.shape)
    return Batch.of(rollout, advantages=advantages).replace(unit=unit)


REDUCTIONS: dict[str, Callable[[Tensor, Batch], Tensor]] = {
    "token": lambda x, batch: core.token_mean(x, batch.mask, total=batch.tokens),
    "sequence": lambda x, batch: core.sequence_mean(x, batch.mask, total=batch.sequences),
    "fixed": lambda x, batch: core.fixed_length_mean(x, batch.mask, LONGEST, total=batch.sequences),
}


def grpo(new: Evaluation, batch: Batch, now: Now) -> Tensor:
    """Clipped surrogate with a correction for the sampler and a price on leaving the reference."""
    assert new.logp is not None and batch.logp_old is not None and batch.advantages is not None
    assert batch.logp_ref is not None and batch.logp_sampler is not None
    weight = core.truncated_importance(batch.logp_old, batch.logp_sampler, cap=2.0)
    ratio = core.likelihood_ratio(new.logp, batch.logp_old)
    gain = weight * core.clipped_surrogate(ratio, batch.advantages, now.eps_low, now.eps_high)
    return REDUCTIONS[now.reduction](gain - now.beta * core.kl_k3(new.logp, batch.logp_ref), batch)


def grpo_by_hand(policy: Tokens, batch: Batch, now: Now) -> Tensor:
    """The same objective, word by word, from the paper."""
    sums, lengths = [], []
    for row, length in enumerate(LENGTHS):
        total = torch.zeros((), dtype=torch.float64)
        for t in range(length):
            before, word = batch.context["tokens"][row, PROMPT + t - 1], batch.context["tokens"][row, PROMPT + t]
            logits = policy.head(torch.tanh(policy.embedding.weight[before]))
            logp = logits[word] - torch.logsumexp(logits, 0)
            old, ref, sampler = (float(c[row, t]) for c in (batch.logp_old, batch.logp_ref, batch.logp_sampler))
            ratio, advantage = torch.exp(logp - old), float(batch.advantages[row, t])
            gain = min(ratio * advantage, min(max(ratio.item(), 0.8), 1.2) * advantage)
            kl = torch.exp(ref - logp) - (ref - logp) - 1.0
            total = total + min(math.exp(old - sampler), 2.0) * gain - now.beta * kl
        sums.append(total)
        lengths.append(length)
    some = [(total, length) for total, length in zip(sums, lengths, strict=True) if length]
    if now.reduction == "token":
        return sum(sums) / sum(lengths)
    if now.reduction == "sequence":
        return sum(total / length for total, length in some) / len(some)
    return sum(sums) / (len(some) * LONGEST)


def ascent(policy: nn.Module, objective: Any, batch: Batch, now: Any, **more: Any) -> tuple[Step, list[Tensor]]:
    """One call of `ascend` with a learning rate of 0: what it returned, and the gradient of the objective."""
    step = ascend(policy, torch.optim.SGD(policy.parameters(), lr=0.0), objective, batch, now, **more)
    return step, [-parameter.grad for parameter in policy.parameters() if parameter.grad is not None]


def close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3, 5, 100])
def test_value_and_gradient_do_not_depend_on_the_split(reduction: str, micro_batch: int | None) -> None:
    policy, batch, now = tokens_policy(), language_batch(), Now(reduction=reduction, micro_batch=micro_batch)
    step, gradient = ascent(policy, grpo, batch, now)
    expected = grpo_by_hand(policy, batch, now)
    close(step.objective.to(torch.float64), expected.detach())
    close(gradient, list(torch.autograd.grad(expected, list(policy.parameters()))))
    close(step.gradient_norm, math.sqrt(sum(float(part.square().sum()) for part in gradient)))
    whole = policy.evaluate(batch)
    close(step.new.logp, whole.logp.detach())
    close(step.new.entropy, whole.entropy.detach())
    assert step.taken and step.new.logp is not None and not step.new.logp.requires_grad


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_minibatch_is_a_whole_batch_of_its_own(reduction: str) -> None:
    """Two minibatches of a language batch: each divides by its own count, in one piece or in three."""
    now = Now(reduction=reduction)
    for batch in minibatches(language_batch(), 1, 4, np.random.default_rng(0)):
        assert batch.mask is not None
        assert (batch.tokens, batch.sequences) == (int(batch.mask.sum()), int(batch.mask.any(-1).sum()))
        in_one, in_three = (ascent(tokens_policy(), grpo, batch, replace(now, micro_batch=size)) for size in (None, 2))
        close(in_one[1], in_three[1])
        close(in_one[0].objective, in_three[0].objective)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_ratio_is_exactly_1_where_the_whole_batch_is_one_step(epochs: int) -> None:
    policy, batch = tokens_policy().float(), language_batch()
    reals = {name: getattr(batch, name).float() for name in ("advantages", "logp_ref", "logp_sampler")}
    batch = batch.replace(logp_old=policy.evaluate(batch).logp.detach(), **reals)
    wholes = minibatches(batch, epochs, len(batch), np.random.default_rng(1))
    steps = [ascent(policy, grpo, whole, Now())[0] for whole in wholes]
    found = statistics(batch, steps, Now())
    assert len(steps) == epochs
    assert found["train/first_ratio_error"] == 0.0
    assert found["train/ratio_min"] == found["train/ratio_max"] == 1.0
    assert found["train/clip_fraction"] == found["train/approx_kl"] == 0.0


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 5, 6, 7])
def test_a_unit_is_never_parted(micro_batch: int) -> None:
    sizes = Counter(GROUP.tolist())
    seen: list[list[int]] = []

    def spy(new: Evaluation, batch: Batch, now: Now) -> Tensor:
        assert batch.unit is not None
        seen.append(batch.unit.tolist())
        return grpo(new, batch, now)

    batch = language_batch(unit=GROUP)
    _, gradient = ascent(tokens_policy(), spy, batch, Now(micro_batch=micro_batch))
    assert [label for part in seen for label in part] == GROUP.tolist()
    for part in seen:
        assert all(part.count(label) == sizes[label] for label in set(part))
        assert len(part) <= micro_batch or len(set(part)) == 1
    close(gradient, ascent(tokens_policy(), grpo, batch, Now())[1])


def test_rows_of_a_unit_that_stand_apart_are_not_split_silently() -> None:
    batch = language_batch(unit=torch.tensor([0, 1, 2, 0, 1, 2, 2]))
    with pytest.raises(ValueError, match="rows of one unit stand apart"):
        ascent(tokens_policy(), grpo, batch, Now(micro_batch=2))
    together = next(iter(minibatches(batch, 1, 7, np.random.default_rng(0))))
    assert together.unit is not None and len(torch.unique_consecutive(together.unit)) == 3
    split, whole = (
        ascent(tokens_policy(), grpo, together, Now(micro_batch=2)),
        ascent(tokens_policy(), grpo, batch, Now()),
    )
    close(split[1], whole[1])


class Scorer(nn.Module):
    """A reward model: one number a row, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

    def evaluate(self, batch: Batch) -> Evaluation:
        return Evaluation(values=batch.context @ self.weight)


def test_pairs_to_rank_go_through_the_same_ascend() -> None:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(6, 1, 2)))
    unit = torch.tensor([4, 4, 9, 9, 1, 1])  # row 2k was chosen over row 2k + 1
    batch = Batch.of_rows(features, torch.zeros(6, 1), torch.ones(6, 1, dtype=torch.bool), unit=unit)

    def objective(new: Evaluation, part: Batch, now: Now) -> Tensor:
        assert new.values is not None
        chosen, rejected = new.values.squeeze(-1).view(-1, 2).unbind(-1)
        return -2.0 * core.bradley_terry_loss(chosen, rejected).sum() / part.sequences

    model = Scorer()
    difference = (features[0::2] - features[1::2]).squeeze(1)
    expected = torch.autograd.grad(logsigmoid(difference @ model.weight).mean(), model.weight)[0]
    for micro_batch in (None, 2, 3, 4):
        step, gradient = ascent(model, objective, batch, Now(micro_batch=micro_batch))
        close(gradient, [expected])
        assert statistics(batch, [step], Now())["train/gradient_norm"] == step.gradient_norm


# --- the step ---


class Line(nn.Module):
    """A critic of one weight vector over real contexts; its "log-probabilities" are the same numbers."""

    def __init__(self, weight: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def evaluate(self, batch: Batch) -> Evaluation:
        said = batch.context @ self.weight
        return Evaluation(logp=said, values=said)


def line_batch(rows: int = 4) -> Batch:
    context = torch.arange(2.0 * rows).reshape(rows, 1, 2) / rows
    return Batch.of_rows(context, torch.zeros(rows, 1), torch.ones(rows, 1, dtype=torch.bool)).single_steps()


def upward(new: Evaluation, batch: Batch, now: Any) -> Tensor:
    assert new.values is not None
    return new.values.sum() / batch.tokens


def test_ascend_goes_up_and_descend_goes_down() -> None:
    policy, batch = Line([1.0, -1.0]), line_batch()
    slope = batch.context.mean((0, 1))
    step = ascend(policy, torch.optim.SGD(policy.parameters(), lr=0.5), upward, batch, Now())
    close(policy.weight.detach(), torch.tensor([1.0, -1.0]) + 0.5 * slope, 1e-6)
    close(step.objective, (batch.context @ torch.tensor([1.0, -1.0])).mean(), 1e-6)
    assert step.batch is batch
    norm = descend(torch.optim.SGD(policy.parameters(), lr=0.5), (policy.weight * slope).sum(), 1e9)
    close(policy.weight.detach(), torch.tensor([1.0, -1.0]), 1e-6)
    close(norm, float(slope.norm()), 1e-6)


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_the_global_norm_is_clipped_as_torch_clips(max_norm: float) -> None:
    mine, theirs, batch = tokens_policy(1), tokens_policy(1), language_batch()
    step, gradient = ascent(mine, grpo, batch, Now(max_grad_norm=max_norm, beta=9.0))
    (-grpo(theirs.evaluate(batch), batch, Now(beta=9.0))).backward()
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    close(gradient, [-parameter.grad for parameter in theirs.parameters()], 1e-9)
    close(step.gradient_norm, float(norm), 1e-9)
    assert step.gradient_norm > 0.5, "the smaller bound must bind"


@pytest.mark.parametrize("flat", [False, True], ids=["torch's", "flat"])
def test_only_what_the_optimizer_trains_is_clipped(flat: bool) -> None:
    policy, batch = tokens_policy(), language_batch()
    trained = policy.head
    optimizer = FlatAdam(trained, 1e-3, 1e-5) if flat else torch.optim.SGD(trained.parameters(), lr=0.0)
    step = ascend(policy, optimizer, grpo, batch, Now(beta=9.0))
    both = sum(float(parameter.grad.square().sum()) for parameter in policy.parameters() if parameter.grad is not None)
    own = sum(float(parameter.grad.square().sum()) for parameter in trained.parameters() if parameter.grad is not None)
    close(step.gradient_norm, math.sqrt(own), 1e-9)
    assert both > 1.01 * own


def test_a_step_that_is_not_accepted_is_not_taken() -> None:
    policy, batch = Line([1.0, -1.0]), line_batch()
    asked: list[tuple[Evaluation, Batch]] = []

    def accept(new: Evaluation, of: Batch) -> bool:
        asked.append((new, of))
        return len(asked) > 1

    optimizer = FlatAdam(policy, 0.1, 1e-5)
    step = ascend(policy, optimizer, upward, batch, Now(micro_batch=2), accept)
    assert not step.taken and policy.weight.tolist() == [1.0, -1.0] and optimizer.state()["steps"] == 0
    new, of = asked[0]
    assert of is batch and new.values is not None and not new.values.requires_grad
    close(new.values, batch.context @ torch.tensor([1.0, -1.0]))
    step = ascend(policy, optimizer, upward, batch, Now(), accept)
    assert step.taken and policy.weight.tolist() != [1.0, -1.0]


def spoiled_value(new: Evaluation, batch: Batch, now: Any) -> Tensor:
    return upward(new, batch, now) + math.inf


def spoiled_slope(new: Evaluation, batch: Batch, now: Any) -> Tensor:
    assert new.values is not None
    return (new.values - new.values.detach()).sqrt().sum()


def spoiled_data(new: Evaluation, batch: Batch, now: Any) -> Tensor:
    assert new.values is not None
    return (new.values * torch.tensor([[1.0], [1.0], [NAN], [1.0]])).sum()


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (spoiled_value, "the objective of a minibatch of 4 rows is not finite"),
        (spoiled_slope, "the gradient of a minibatch of 4 rows is not finite"),
        (spoiled_data, "the objective of a minibatch of 4 rows is not finite"),
    ],
)
def test_a_non_finite_number_stops_before_the_step(objective: Any, text: str) -> None:
    policy = Line([1.0, -1.0])
    optimizer = FlatAdam(policy, 0.1, 1e-5)
    ascend(policy, optimizer, upward, line_batch(), Now())
    before = copy.deepcopy(optimizer.state() | policy.state_dict())
    with pytest.raises(NonFinite, match=text) as caught:
        ascend(policy, optimizer, objective, line_batch(), Now(max_grad_norm=0.5))
    assert "\n" not in str(caught.value)
    close(optimizer.state() | policy.state_dict(), before, 0.0)
    assert before["steps"] == 1


@pytest.mark.parametrize("spoiled", [NAN, math.inf])
def test_descend_stops_too(spoiled: float) -> None:
    policy = Line([1.0, -1.0])
    with pytest.raises(NonFinite, match=f"a loss of {spoiled} with a gradient of norm"):
        descend(FlatAdam(policy, 0.1, 1e-5), policy.weight.sum() + spoiled, 0.5)
    with pytest.raises(NonFinite, match="gradient of norm nan is not finite"):
        descend(FlatAdam(policy, 0.1, 1e-5), (policy.weight * NAN).sum(), 0.5)
    assert policy.weight.tolist() == [1.0, -1.0]


# --- minibatches ---


class Given:
    """A generator that gives the orders it was told to."""

    def __init__(self, *orders: list[int]) -> None:
        self.orders = list(orders)

    def permutation(self, n: int, /) -> np.ndarray:
        order = self.orders.pop(0)
        assert len(order) == n
        return np.array(order)


def numbered(rows: int, unit: list[int] | None = None) -> Batch:
    """Rows that are their own numbers, in every column."""
    x = torch.arange(float(rows))[:, None]
    whole = torch.ones(rows, 1, dtype=torch.bool)
    labels = None if unit is None else torch.tensor(unit)
    return Batch.of_rows({"x": x}, x.long(), whole, advantages=x, logp_old=x, unit=labels)


def test_an_order_of_ones_own_is_kept() -> None:
    batches = list(minibatches(numbered(5), 2, 2, Given([4, 2, 0, 1, 3], [0, 1, 2, 3, 4])))
    assert [batch.actions.squeeze(-1).tolist() for batch in batches] == [[4, 2], [0, 1], [3], [0, 1], [2, 3], [4]]
    assert [(batch.tokens, batch.sequences) for batch in batches] == [(2, 2), (2, 2), (1, 1)] * 2
    for batch in batches:
        assert torch.equal(batch.context["x"], batch.actions.float()) and torch.equal(batch.logp_old, batch.advantages)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 3), st.integers(0, 9))
def test_every_row_once_an_epoch_and_the_remainder_kept(rows: int, size: int, epochs: int, seed: int) -> None:
    batches = list(minibatches(numbered(rows), epochs, size, np.random.default_rng(seed)))
    per_epoch = math.ceil(rows / size)
    assert len(batches) == epochs * per_epoch
    for epoch in range(epochs):
        own = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert [len(batch) for batch in own[:-1]] == [size] * (per_epoch - 1)
        assert sorted(row for batch in own for row in batch.actions.squeeze(-1).tolist()) == list(range(rows))


def test_every_epoch_has_an_order_of_its_own() -> None:
    halves = minibatches(numbered(30), 5, 15, np.random.default_rng(0))
    rows = [batch.actions.squeeze(-1).tolist() for batch in halves]
    orders = {tuple(first + second) for first, second in zip(rows[::2], rows[1::2], strict=True)}
    assert len(orders) == 5 and tuple(range(30)) not in orders


@given(st.lists(st.integers(0, 6), min_size=1, max_size=25), st.integers(1, 9), st.integers(0, 9))
def test_units_stay_whole_and_together(unit: list[int], size: int, seed: int) -> None:
    rows = Counter(unit)
    batches = list(minibatches(numbered(len(unit), unit), 1, size, np.random.default_rng(seed)))
    taken = [row for batch in batches for row in batch.actions.squeeze(-1).tolist()]
    assert sorted(taken) == list(range(len(unit)))
    held = []
    for batch in batches:
        assert batch.unit is not None
        labels = batch.unit.tolist()
        assert labels == [unit[row] for row in batch.actions.squeeze(-1).tolist()]
        assert all(labels.count(label) == rows[label] for label in labels)
        assert len(torch.unique_consecutive(batch.unit)) == len(set(labels))
        assert len(labels) <= size or len(set(labels)) == 1
        held.append(rows[labels[0]])
    for batch, following in zip(batches, held[1:], strict=False):
        assert len(batch) + following > size, "there was room for the next unit"


def test_units_are_shuffled() -> None:
    unit = [0, 0, 1, 1, 2, 2, 3, 3]
    orders = {tuple(b.unit.tolist()) for b in minibatches(numbered(8, unit), 9, 8, np.random.default_rng(0))}
    assert len(orders) > 5


# --- estimate ---


def streams(seed: int, shape: tuple[int, int] = (4, 12)) -> Rollout:
    """Random rewards and values, ends of all kinds; rows that are no steps behind half of the ends, and elsewhere."""
    rng = np.random.default_rng(seed)
    terminated, truncated = rng.random(shape) < 0.2, rng.random(shape) < 0.15
    mask = np.ones(shape, bool)
    behind = np.where((terminated | truncated)[:, :-1], 0.5, 0.1)
    mask[:, 1:] = rng.random(behind.shape) > behind
    terminated, truncated = terminated & mask, truncated & mask
    numbers = [torch.from_numpy(rng.normal(size=shape)) for _ in range(3)]
    nothing = torch.zeros(shape, dtype=torch.int64)
    flags = (torch.from_numpy(flag) for flag in (mask, terminated, truncated))
    return Rollout(nothing, nothing, *flags, rewards=numbers[0], values=numbers[1], next_values=numbers[2])


def advantage_by_definition(data: Rollout, row: int, t: int, gamma: float, lam: float) -> float:
    """Σ over n of (1 − λ) λⁿ⁻¹ times the n-step advantage, with the rest of the weight on the longest one."""
    rewards, values, following = (x[row].tolist() for x in (data.rewards, data.values, data.next_values))
    end = t
    while not (data.terminated | data.truncated)[row, end] and end + 1 < len(rewards) and data.mask[row, end + 1]:
        end += 1
    found, longest = 0.0, end - t + 1
    for n in range(1, longest + 1):
        last = t + n - 1
        gain = sum(gamma**k * rewards[t + k] for k in range(n)) - values[t]
        if not data.terminated[row, last]:
            gain += gamma**n * (following[last] if last == end else values[last + 1])
        found += gain * (lam ** (n - 1) if n == longest else (1 - lam) * lam ** (n - 1))
    return found


@pytest.mark.parametrize(("gamma", "lam"), [(0.9, 0.8), (0.99, 1.0), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_estimate_is_the_mean_of_n_step_advantages(gamma: float, lam: float, seed: int) -> None:
    data = streams(seed)
    real = data.mask & ~data.cut  # where the next row is the state that really followed
    real[:, -1] = False
    following = torch.where(real, data.values.roll(-1, 1), data.next_values)
    data = data.replace(next_values=following)
    assert data.terminated.any() and data.truncated.any() and not data.mask.all()
    spoiled = {name: getattr(data, name).masked_fill(~data.mask, NAN) for name in ("rewards", "values")}
    spoiled["next_values"] = following.masked_fill(~data.mask | data.terminated, NAN)
    advantages, returns = estimate(data.replace(**spoiled), gamma, lam)
    for row, t in data.mask.nonzero().tolist():
        expected = advantage_by_definition(data, row, t, gamma, lam)
        assert advantages[row, t].item() == pytest.approx(expected, abs=1e-10)
        assert returns[row, t].item() == pytest.approx(expected + float(data.values[row, t]), abs=1e-10)


def test_estimate_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="needs rewards, values and next_values"):
        estimate(streams(0).replace(values=None), 0.9, 0.9)


# --- statistics ---


def sampled_steps() -> tuple[Batch, list[Step]]:
    """Three steps on ragged rows, the last one not taken."""
    rng = np.random.default_rng(5)
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])

    def column(scale: float) -> Tensor:
        return torch.from_numpy(rng.normal(0.0, scale, (3, 3))).masked_fill(~mask, NAN)

    steps = []
    for index in range(3):
        batch = Batch(None, mask.long(), mask, 6, 3, *(column(scale) for scale in (2.0, 1.0, 1.0, 0.2)))
        new = Evaluation(logp=column(0.2), entropy=column(1.0), values=column(1.0))
        steps.append(Step(batch, new, torch.tensor(0.5 + index), 1.0 + index, taken=index < 2))
    return steps[0].batch, steps


def test_statistics_are_what_their_names_say() -> None:
    data, steps = sampled_steps()
    now = Now(eps_low=0.1, eps_high=0.3, learning_rate=0.25)
    found = statistics(data, steps, now)

    def column(of: Callable[[Step], Any], among: list[Step]) -> np.ndarray:
        return np.concatenate([of(step)[step.batch.mask].numpy() for step in among])

    taken = steps[:2]
    logp, logp_old = column(lambda s: s.new.logp, taken), column(lambda s: s.batch.logp_old, taken)
    ratio, a = np.exp(logp - logp_old), column(lambda s: s.batch.advantages, taken)
    refused = np.exp(column(lambda s: s.new.logp, steps[2:]) - column(lambda s: s.batch.logp_old, steps[2:]))
    first = np.exp(column(lambda s: s.new.logp, steps[:1]) - column(lambda s: s.batch.logp_old, steps[:1]))
    v, r = column(lambda s: s.new.values, taken), column(lambda s: s.batch.returns, taken)
    fresh_a, fresh_r, fresh_v = (x[data.mask].numpy() for x in (data.advantages, data.returns, data.values_old))
    expected = {
        "learning_rate": 0.25,
        "minibatches": 2,
        "stopped_early": 1,
        "gradient_norm": 1.5,
        "gradient_norm_max": 2.0,
        "loss": -1.0,
        "first_ratio_error": np.abs(first - 1).max(),
        "approx_kl": np.mean(ratio - 1 - np.log(ratio)),
        "stopping_kl": np.mean(refused - 1 - np.log(refused)),
        "ratio_min": ratio.min(),
        "ratio_max": ratio.max(),
        "clip_fraction": np.mean((ratio < 0.9) | (ratio > 1.3)),
        "policy_gradient_loss": -np.mean(np.minimum(ratio * a, np.clip(ratio, 0.9, 1.3) * a)),
        "entropy": column(lambda s: s.new.entropy, taken).mean(),
        "value_loss": np.mean((v - r) ** 2),
        "advantage_mean": fresh_a.mean(),
        "advantage_std": fresh_a.std(),
        "advantage_skew": np.mean(((fresh_a - fresh_a.mean()) / fresh_a.std()) ** 3),
        "value_mean": fresh_v.mean(),
        "return_mean": fresh_r.mean(),
        "value_error": np.abs(fresh_v - fresh_r).mean(),
        "explained_variance": 1 - np.var(fresh_r - fresh_v) / np.var(fresh_r),
    }
    assert {name.removeprefix("train/") for name in found} == set(expected)
    for name, value in expected.items():
        assert found[f"train/{name}"] == pytest.approx(value, rel=1e-6), name
    assert 0 < expected["clip_fraction"] < 1


def test_a_baseline_that_nothing_is_taught_is_told_all_the_same() -> None:
    data, steps = sampled_steps()
    found = statistics(data.replace(returns=None), steps, Now())
    assert found["train/value_mean"] == pytest.approx(float(data.values_old[data.mask].mean()))
    assert not {"train/return_mean", "train/value_error", "train/explained_variance"} & set(found)


def test_the_clip_fraction_is_that_of_the_ratio_that_is_clipped() -> None:
    data, steps = sampled_steps()
    now = Now(eps_low=0.1, eps_high=0.3)
    found = statistics(data, steps, now, core.sequence_ratio)
    ratios = [core.sequence_ratio(s.new.logp, s.batch.logp_old, s.batch.mask)[s.batch.mask] for s in steps[:2]]
    ratio = torch.cat(ratios)
    assert found["train/clip_fraction"] == pytest.approx(float(((ratio < 0.9) | (ratio > 1.3)).float().mean()))
    assert found["train/ratio_max"] == pytest.approx(float(ratio.max()))
    assert "train/policy_gradient_loss" not in found
    assert found["train/ratio_max"] != statistics(data, steps, now)["train/ratio_max"]


def test_without_a_taken_step_the_first_one_is_described() -> None:
    data, steps = sampled_steps()
    found = statistics(data, [replace(steps[0], taken=False)], Now())
    assert (found["train/minibatches"], found["train/stopped_early"]) == (0.0, 1.0)
    assert math.isfinite(found["train/approx_kl"])


def test_what_has_no_spread_and_what_is_not_there() -> None:
    data, steps = sampled_steps()
    flat = data.replace(advantages=torch.full((3, 3), 7.0), returns=torch.full((3, 3), 7.0))
    bare = [Step(flat.replace(logp_old=None), Evaluation(logp=steps[0].new.logp), torch.tensor(0.0), 1.0, taken=True)]
    found = statistics(flat.replace(values_old=None), bare, Now())
    assert (found["train/advantage_std"], found["train/advantage_skew"]) == (0.0, 0.0)
    assert not {"train/approx_kl", "train/entropy", "train/value_loss", "train/explained_variance"} & set(found)
    assert "train/explained_variance" not in statistics(flat, bare, Now()), "0/0 is no number"


# --- schedules ---


def rates(total: int, rollout: int, numerics: str) -> tuple[list[float], list[Any]]:
    """Learning rates and clip ranges of a run of `total` steps, `rollout` steps an update."""
    optimizer = torch.optim.SGD(Line([1.0]).parameters(), lr=9.0)
    now = Now(learning_rate="lin_2.0", eps_low="lin_0.2", numerics=numerics)  # type: ignore[arg-type]
    found, clips = [], []
    for index, steps in enumerate(range(0, total, rollout)):
        moment = schedule(now, Update(index, steps, total), rollout, optimizer)
        assert optimizer.param_groups[0]["lr"] == moment.learning_rate
        found.append(moment.learning_rate)
        clips.append(moment.eps_low)
    return found, clips


@pytest.mark.parametrize(("total", "rollout"), [(1000, 100), (1000, 96), (1000, 999), (10, 64)])
def test_a_schedule_begins_full_and_ends_above_0(total: int, rollout: int) -> None:
    found, clips = rates(total, rollout, "advantage")
    assert found == pytest.approx([2.0 * (1 - steps / total) for steps in range(0, total, rollout)])
    assert found[0] == 2.0 and found[-1] > 0.0
    assert clips == pytest.approx([rate / 10 for rate in found])


def test_a_warmup_rises_to_the_schedule() -> None:
    now, optimizer = Warm(learning_rate="lin_1.0", warmup=4), torch.optim.SGD(Line([1.0]).parameters(), lr=9.0)
    found = [schedule(now, Update(step, step, 10), 0, optimizer).learning_rate for step in range(6)]
    assert found == pytest.approx([1.0 * 0.25, 0.9 * 0.5, 0.8 * 0.75, 0.7, 0.6, 0.5])


@pytest.mark.parametrize(("total", "rollout"), [(1000, 100), (1000, 96), (10, 64)])
def test_sb3_reads_it_behind_the_rollout_and_never_below_0(total: int, rollout: int) -> None:
    found, _ = rates(total, rollout, "sb3")
    behind = [steps + rollout for steps in range(0, total, rollout)]
    assert found == pytest.approx([max(0.0, 2.0 * (1 - steps / total)) for steps in behind])
    assert found[-1] == 0.0


def test_a_gather_an_epoch_keeps_trees_in_step() -> None:
    """Every leaf of a nested context moves with its row."""
    base = numbered(9)
    nested = base.replace(context={"a": (base.context["x"], base.context["x"].expand(9, 3)), "b": base.actions})
    for batch in minibatches(nested, 2, 4, np.random.default_rng(2)):
        tree_map(lambda leaf, batch=batch: close(leaf[:, 0].float(), batch.actions[:, 0].float()), batch.context)


# --- micro-batches by tokens ---


@dataclass(frozen=True)
class ByTokens(Now):
    micro_tokens: int | None = None


def sized(unit: Tensor | None = None) -> Batch:
    return language_batch(unit).replace(length=torch.tensor(LENGTHS) + PROMPT)


@pytest.mark.parametrize("budget", [1, 6, 12, 25, 1000])
@pytest.mark.parametrize("unit", [None, GROUP], ids=["rows", "groups"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_split_by_tokens_keeps_gradient_units_and_budget(
    budget: int, unit: Tensor | None, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Batch] = []
    evaluate = Tokens.evaluate
    monkeypatch.setattr(Tokens, "evaluate", lambda self, batch: (seen.append(batch), evaluate(self, batch))[1])
    gradients = []
    for tokens in (None, budget):
        policy = tokens_policy()
        seen.clear()
        now = ByTokens(reduction=reduction, micro_tokens=tokens)
        step = ascend(policy, torch.optim.SGD(policy.parameters(), lr=0.0), grpo, sized(unit), now)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in policy.parameters()]))
        torch.testing.assert_close(step.new.logp, evaluate(policy, step.batch).logp.detach())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-12)
    widths = [int(part.length.max()) for part in seen]
    assert widths == sorted(widths, reverse=True), "what needs most memory comes first"
    if unit is None:
        assert all(len(part) * width <= max(budget, width) for part, width in zip(seen, widths, strict=True))
    else:
        assert sum(len(part.unit.unique()) for part in seen) == 3, "no unit is parted"


@pytest.mark.parametrize("tokens", [None, 4, 11])
@pytest.mark.parametrize("rows", [None, 2])
def test_scores_come_back_row_for_row(tokens: int | None, rows: int | None) -> None:
    policy, data = tokens_policy(), sized()
    found = scored(policy, data, ByTokens(micro_tokens=tokens, micro_batch=rows))
    torch.testing.assert_close(found.logp, policy.evaluate(data).logp.detach())
    assert not found.logp.requires_grad
