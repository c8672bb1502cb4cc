"""From a rollout to new parameters: estimate, minibatches, ascend. The same road for control and for language."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from advantage.core import (
    clipped_surrogate,
    discounted_return,
    discounts,
    gae,
    kl_k3,
    policy_gradient,
    standardize,
    surrogate,
    td_residual,
    traces,
    value_loss,
)
from advantage.core.dialects import DIALECTS
from advantage.errors import NonFinite
from advantage.settings import at
from advantage.trajectory import Batch, Evaluation, Evaluator, Rollout, tree_leaves

Objective = Callable[[Evaluation, Batch, Any], Tensor]
"""An algorithm's equation over plain tensors, maximised: (what the policy says, batch, settings of now) → scalar."""


S = TypeVar("S", bound=Any)


class Moment(Protocol):
    """Where a run stands when an update begins."""

    @property
    def steps(self) -> int:
        """Steps done before it."""
        ...

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        ...


class Optimizer(Protocol):
    """What the update asks of an optimiser: one of torch's, or `advantage.adam.FlatAdam`."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients."""
        ...

    def step(self) -> Any:
        """One step down the gradients."""
        ...


class Permuter(Protocol):
    """What draws the order of rows: a NumPy generator, or a test that gives an order of its own."""

    def permutation(self, n: int, /) -> Any:
        """The numbers 0 … n − 1 in some order."""
        ...


@dataclass(frozen=True)
class Step:
    """One optimiser step: its batch, what the policy said before it, the objective's value, the gradient's norm."""

    batch: Batch
    new: Evaluation
    objective: Tensor
    gradient_norm: float
    taken: bool


def estimate(rollout: Rollout, gamma: float, lam: float, target: str = "lambda_return") -> tuple[Tensor, Tensor]:
    """Advantages by GAE and the critic's targets, from the values of the collecting critic.

        δ_t = r_t + γ_t V(s_{t+1}) − V(s_t);   Â_t = δ_t + γ_t λ_t Â_{t+1};   target Â_t + V(s_t)

    Args:
        rollout: with `rewards`, `values` and `next_values`.
        gamma, lam: γ and λ in [0, 1].
        target: "lambda_return" as above, "return" for G_t (λ = 1), "td" for r_t + γ_t V(s_{t+1}) (λ = 0).

    Returns:
        advantages and returns, (streams, time). On masked rows they mean nothing.

    Source: Schulman et al. 2016, equation 16.
    """
    if rollout.rewards is None or rollout.values is None or rollout.next_values is None:
        raise ValueError("estimate needs rewards, values and next_values in the rollout")
    factors = discounts(rollout.terminated, gamma, rollout.rewards.dtype)
    delta = td_residual(rollout.rewards, rollout.values, rollout.next_values, factors)
    advantages = gae(delta, factors, traces(rollout.cut, lam, rollout.rewards.dtype))
    if target == "return":
        return advantages, returns_to_go(rollout, gamma)
    return advantages, (delta if target == "td" else advantages) + rollout.values


def returns_to_go(rollout: Rollout, gamma: float) -> Tensor:
    """G_t = r_t + γ_t G_{t+1}, and at a cut r_t + γ_t V(s_{t+1}) where the rollout has `next_values`, else r_t."""
    if rollout.rewards is None:
        raise ValueError("returns_to_go needs rewards in the rollout")
    factors = discounts(rollout.terminated, gamma, rollout.rewards.dtype)
    return discounted_return(rollout.rewards, factors, rollout.cut, rollout.next_values)


def normalized(batch: Batch, now: Any) -> Batch:
    """The batch with its advantages at mean 0 and std 1, where the settings ask for it; a lone one has no spread."""
    dialect = DIALECTS[now.numerics]
    if not now.normalize_advantages or (len(batch) == 1 and dialect.lone_advantage == "raw"):
        return batch
    return batch.replace(advantages=standardize(batch.advantages, batch.mask, ddof=dialect.advantage_ddof))


def minibatches(data: Batch, epochs: int, size: int, rng: Permuter) -> Iterator[Batch]:
    """Every row once an epoch, in a new order, `size` rows at a time; the last minibatch of an epoch may be smaller.

    Each minibatch is counted anew: it is the whole batch of its optimiser step. Rows of one `unit` stay together; a
    minibatch is then as large as `size` admits, and larger only where one unit is. Without units, a minibatch of all
    rows keeps their order: it is then evaluated as it was scored, and its first ratio is 1 to the bit.
    """
    for _ in range(epochs):
        if size >= len(data) and data.unit is None:
            yield data.counted()
            continue
        order, ends = _order(data, size, rng)
        shuffled = data.rows(order)  # one gather an epoch; the minibatches are views of it
        start = 0
        for end in ends:
            yield shuffled.rows(slice(start, end)).counted()
            start = end


def ascend(
    policy: Evaluator,
    optimizer: Optimizer,
    objective: Objective,
    batch: Batch,
    now: Any,
    accept: Callable[[Evaluation, Batch], bool] | None = None,
) -> Step:
    """One optimiser step up the objective: evaluate, differentiate, clip, step.

    Args:
        policy: answers `evaluate(batch)`.
        optimizer: over the parameters to train; its own parameters are those whose gradient is clipped.
        objective: maximised; the sign is turned here and nowhere else.
        batch: one minibatch with its counts.
        now: settings of this moment, with `max_grad_norm` and what fits in memory at once: `micro_batch` rows, or
            `micro_tokens` tokens where the batch says how long its rows are; None for all.
        accept: asked with what the policy says before the step; where it answers False, no step is taken.

    Raises:
        NonFinite: the objective or its gradient has a NaN or an infinity; the parameters are as they were.
        ValueError: rows of one unit stand apart, so that a split into micro-batches would part them.
    """
    optimizer.zero_grad(set_to_none=True)
    said, total = [], torch.zeros(())
    batch, ends = _split(batch, now)
    for part in _parts(batch, ends):
        new = policy.evaluate(part)
        value = objective(new, part, now)
        (-value).backward()
        said.append(new.detach())
        total = total + value.detach()
    new = _joined(said)
    norm = _clip_gradient(optimizer, now.max_grad_norm)
    reached = float(total)
    if not (math.isfinite(norm) and math.isfinite(reached)):
        kind = "gradient" if math.isfinite(reached) else "objective"
        found = f"{reached:g}, norm {norm:g}"
        raise NonFinite(f"the {kind} of a minibatch of {len(batch)} rows is not finite ({found})")
    taken = accept is None or accept(new, batch)
    if taken:
        optimizer.step()
    return Step(batch, new, total, norm, taken)


@torch.no_grad()
def scored(policy: Evaluator, batch: Batch, now: Any) -> Evaluation:
    """What a policy says about a batch, row for row, without a gradient, as much at once as `ascend` takes."""
    index = torch.arange(len(batch), device=next(tree_leaves(batch.actions)).device)
    numbered = batch.replace(group=index)  # to know each row again after they are sorted
    parted, ends = _split(numbered, now)
    place = parted.group
    assert place is not None
    parted = parted.replace(group=None if batch.group is None else batch.group[place])
    new = _joined([policy.evaluate(part).detach() for part in _parts(parted, ends)])
    return new.rows(place.argsort())


def descend(optimizer: Optimizer, loss: Tensor, max_grad_norm: float) -> float:
    """One optimiser step down a loss, with the gradient's global norm clipped; returns the norm before clipping.

    Raises:
        NonFinite: the loss or its gradient has a NaN or an infinity; the parameters are as they were.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = _clip_gradient(optimizer, max_grad_norm)
    if not (math.isfinite(norm) and math.isfinite(loss.item())):
        raise NonFinite(f"a loss of {loss.item():g} with a gradient of norm {norm:g} is not finite")
    optimizer.step()
    return norm


def schedule(settings: S, update: Moment, collected: int, optimizer: Optimizer) -> S:
    """The settings of this update, its schedules read, and the learning rate handed to the optimiser.

    A schedule is read where the update's budget stood when it began: the first one at its full value, none below 0. The
    sb3 dialect reads it behind the rollout.
    """
    now = scheduled_settings(settings, update.steps, update.total, collected)
    for group in optimizer.param_groups:
        group["lr"] = now.learning_rate
    return now


def critic_error(new: Evaluation, targets: Tensor) -> Tensor:
    """½ (V − target)², elementwise; of several critics the mean of their own errors."""
    return new.of_each_critic(lambda values: value_loss(values, targets))


def within_target_kl(now: Any) -> Callable[[Evaluation, Batch], bool] | None:
    """Whether the policy is still near enough to the collecting one for another step; None where nothing is asked."""
    if now.target_kl is None:
        return None
    bound: float = DIALECTS[now.numerics].kl_stop * now.target_kl

    def near(new: Evaluation, batch: Batch) -> bool:
        logp, logp_old = (_true(batch, column) for column in (new.logp, batch.logp_old))
        return float(kl_k3(logp_old, logp).mean()) <= bound

    return near


def scheduled_settings(settings: S, steps: int, total: int, collected: int) -> S:
    """The settings behind `steps` of `total`, for a rollout of `collected` more; a `warmup` rises to them."""
    if DIALECTS[settings.numerics].schedule_after_rollout:
        steps += collected
    now, warmup = at(settings, max(0.0, 1.0 - steps / total)), getattr(settings, "warmup", 0)
    if steps >= warmup:
        return now
    return replace(now, learning_rate=now.learning_rate * (steps + 1) / warmup)


Ratio = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What an algorithm weighs by in the place of ρ = π/π_old a decision: of (log π, log π_old, mask), as they stand."""


def statistics(data: Batch, steps: Sequence[Step], now: Any, ratio_of: Ratio | None = None) -> dict[str, float]:
    """What the literature plots of an update, over all steps that were taken, computed once after it.

    Args:
        data: the whole rollout as a batch, with raw advantages, returns and the collecting critic's values.
        steps: what `ascend` returned.
        now: settings of this moment; the clip fraction is taken where they have a clip range.
        ratio_of: what the objective clips, where it is another than PPO's, whose loss is then not told; None for PPO's.
    """
    taken = [step for step in steps if step.taken]
    stepped = taken or steps  # where the very first step was refused, it is all there is to tell of
    norms = [step.gradient_norm for step in stepped]
    found = {
        "train/learning_rate": now.learning_rate,
        "train/minibatches": float(len(taken)),
        "train/stopped_early": float(len(taken) < len(steps)),
        "train/gradient_norm": sum(norms) / len(norms),
        "train/gradient_norm_max": max(norms),
        "train/loss": -float(torch.stack([step.objective for step in stepped]).mean()),
    }
    logp, logp_old, advantages, entropy, values, returns = (_column(stepped, name) for name in _STEP_COLUMNS)
    eps_low, eps_high = getattr(now, "eps_low", None), getattr(now, "eps_high", None)
    if logp is not None and logp_old is not None:
        first = steps[0]
        found["train/first_ratio_error"] = float((_of(first, "logp") - _of(first, "logp_old")).expm1().abs().max())
    if logp is not None and advantages is not None and len(steps) == 1 and eps_low is None:
        found["train/policy_gradient_loss"] = -float(policy_gradient(logp, advantages).mean())
    elif logp is not None and logp_old is not None:  # a single step has nothing behind it that it could have moved from
        ratio = (logp - logp_old).exp() if ratio_of is None else _ratios(stepped, ratio_of)
        found["train/approx_kl"] = float(kl_k3(logp_old, logp).mean())
        if not (last := steps[-1]).taken:
            found["train/stopping_kl"] = float(kl_k3(_of(last, "logp_old"), _of(last, "logp")).mean())
        found["train/ratio_min"], found["train/ratio_max"] = float(ratio.min()), float(ratio.max())
        if advantages is not None and eps_low is not None and eps_high is not None:
            outside = (ratio < 1.0 - eps_low) | (ratio > 1.0 + eps_high)
            found["train/clip_fraction"] = float(outside.float().mean())
            if ratio_of is None:
                gain = clipped_surrogate(ratio, advantages, eps_low, eps_high, getattr(now, "dual_clip", None))
                found["train/policy_gradient_loss"] = -float(gain.mean())
        elif advantages is not None:
            found["train/policy_gradient_loss"] = -float(surrogate(ratio, advantages).mean())
    if entropy is not None:
        found["train/entropy"] = float(entropy.mean())
    if values is not None and returns is not None:
        found["train/value_loss"] = float((values - returns).square().mean())
    return found | _of_fresh_data(data)


def _ratios(steps: Sequence[Step], ratio_of: Ratio) -> Tensor:
    found = []
    for step in steps:
        assert step.new.logp is not None and step.batch.logp_old is not None and step.batch.mask is not None
        found.append(_true(step.batch, ratio_of(step.new.logp, step.batch.logp_old, step.batch.mask)))
    return torch.cat(found)


def _of_fresh_data(data: Batch) -> dict[str, float]:
    """Of the rollout before it was trained on: advantages as estimated, and how well the critic foresaw the returns."""
    found = {}
    if data.advantages is not None:
        a = _true(data, data.advantages)
        deviation = a - a.mean()
        std = deviation.square().mean().sqrt()
        skew = (deviation**3).mean() / std**3 if std > 0 else torch.zeros(())
        found = {"train/advantage_mean": float(a.mean()), "train/advantage_std": float(std)}
        found["train/advantage_skew"] = float(skew)
    if data.values_old is not None:
        found["train/value_mean"] = float(_true(data, data.values_old).mean())
    if data.returns is not None and data.values_old is not None:
        values, returns = _true(data, data.values_old), _true(data, data.returns)
        error = returns - values
        spread = returns.var(correction=0)
        found["train/return_mean"] = float(returns.mean())
        found["train/value_error"] = float(error.abs().mean())
        if spread > 0:
            found["train/explained_variance"] = 1.0 - float(error.var(correction=0) / spread)
    return found


_STEP_COLUMNS = ("logp", "logp_old", "advantages", "entropy", "values", "returns")


def _of(step: Step, name: str) -> Tensor:
    source = step.new if hasattr(step.new, name) else step.batch
    column: Tensor = getattr(source, name)
    return _true(step.batch, column)


def _column(steps: Sequence[Step], name: str) -> Tensor | None:
    source = steps[0].new if hasattr(steps[0].new, name) else steps[0].batch
    return None if getattr(source, name) is None else torch.cat([_of(step, name) for step in steps])


def _true(batch: Batch, column: Tensor) -> Tensor:
    return column.reshape(-1) if batch.mask is None else column[batch.mask]


def _order(data: Batch, size: int, rng: Permuter) -> tuple[Tensor, list[int]]:
    """An order of all rows, and the ends of minibatches in it."""
    if data.unit is None:
        device = next(tree_leaves(data.actions)).device
        order = torch.as_tensor(rng.permutation(len(data)), device=device)
        return order, [*range(size, len(data), size), len(data)]
    units, unit = torch.unique(data.unit, return_inverse=True)
    place = torch.as_tensor(rng.permutation(len(units)), device=unit.device)[unit]
    order = place.argsort(stable=True)
    return order, _ends(place[order], size)


def _ends(unit: Tensor, size: int) -> list[int]:
    """Where to cut sorted rows so that no unit is parted and a part has at most `size` rows, if a unit has not more."""
    ends, filled, last = [], 0, 0
    for end in torch.unique_consecutive(unit, return_counts=True)[1].cumsum(0).tolist():
        if end - filled > size and last > filled:
            ends.append(last)
            filled = last
        last = end
    return [*ends, last]


def _split(batch: Batch, now: Any) -> tuple[Batch, list[int]]:
    """The batch in an order that can be cut, and where: units whole, long rows first where tokens count."""
    rows, tokens = now.micro_batch, getattr(now, "micro_tokens", None)
    if tokens is not None and batch.length is not None:
        batch = batch.rows(_longest_first(batch.length, batch.unit))
        return batch, _ends_by_tokens(batch, tokens)
    if rows is None or rows >= len(batch):
        return batch, [len(batch)]
    if batch.unit is None:
        return batch, [*range(rows, len(batch), rows), len(batch)]
    if len(batch.unit.unique()) < len(batch.unit.unique_consecutive()):
        raise ValueError("rows of one unit stand apart; `minibatches` puts them together")
    return batch, _ends(batch.unit, rows)


def _longest_first(length: Tensor, unit: Tensor | None) -> Tensor:
    """An order by falling length; rows of a unit stand together, where its longest one belongs."""
    if unit is None:
        return length.argsort(descending=True, stable=True)
    _, unit = torch.unique(unit, return_inverse=True)
    longest = torch.zeros_like(unit).scatter_reduce(0, unit, length.to(unit.dtype), "amax", include_self=False)
    by_unit = unit.argsort(stable=True)
    return by_unit[longest[unit[by_unit]].argsort(descending=True, stable=True)]


def _ends_by_tokens(batch: Batch, budget: int) -> list[int]:
    """Where to cut so that no part, padded to its longest row, exceeds the budget, if a unit does not."""
    assert batch.length is not None
    lengths = batch.length.tolist()
    unit = list(range(len(lengths))) if batch.unit is None else batch.unit.tolist()
    ends, start, last, longest = [], 0, 0, 0
    for border in [i for i in range(1, len(unit)) if unit[i] != unit[i - 1]] + [len(unit)]:
        of_unit = max(lengths[last:border])
        longest = max(longest, of_unit)
        if last > start and (border - start) * longest > budget:
            ends.append(last)
            start, longest = last, of_unit
        last = border
    return [*ends, last]


def _parts(batch: Batch, ends: list[int]) -> Iterator[Batch]:
    """The batch itself where it is not cut."""
    if len(ends) == 1:
        yield batch
        return
    for start, end in zip([0, *ends], ends, strict=False):
        yield batch.rows(slice(start, end))


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    if len(parts) == 1:
        return parts[0]
    columns = [[getattr(part, name) for part in parts] for name in ("logp", "entropy", "values")]
    return Evaluation(*(None if column[0] is None else torch.cat(column) for column in columns))


def _clip_gradient(optimizer: Optimizer, max_norm: float) -> float:
    """Scales the gradient down to a global norm of at most `max_norm`; returns the norm before."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(
        torch.nn.utils.get_total_norm(gradients) if len(gradients) > 1 else torch.linalg.vector_norm(gradients[0])
    )
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / (norm + 1e-6))
    return norm
