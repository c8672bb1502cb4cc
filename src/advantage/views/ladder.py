"""Rungs of the ladder: from a reward to an advantage, from an advantage to a share in the gradient.

They are computed by the core and by the algorithm's own objective, and are the same for an action in an environment and
for a token of a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advantage.core import (
    clipped_surrogate,
    discounts,
    gae,
    likelihood_ratio,
    n_step_advantage,
    policy_gradient,
    surrogate,
    td_residual,
    traces,
)
from advantage.trajectory import Batch, Rollout
from advantage.update import estimate

SHOWN = 6  # n-step advantages with a rung of their own; the weighted mean is over all

Place: TypeAlias = tuple[int, int]
"""Stream and step."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: what it is called, how it is written, what went in, what came out."""

    name: str
    symbol: str
    formula: str
    inputs: Mapping[str, float | str]
    value: Any


@dataclass(frozen=True)
class Ladder:
    """All rungs of one decision, and where it stands."""

    run: str
    update: int
    stream: int
    step: int
    rungs: list[Rung] = field(default_factory=list)


def render(ladder: Ladder) -> str:
    """The ladder as lines for a terminal."""
    lines = [f"{ladder.run}: update {ladder.update}, stream {ladder.stream}, step {ladder.step}", ""]
    for rung in ladder.rungs:
        inputs = "  ".join(f"{name} {_shown(value)}" for name, value in rung.inputs.items())
        if isinstance(rung.value, str | list):  # longer than a column is wide
            lines += [f"{rung.name:<22}{rung.symbol:<27}   {rung.formula}", f"{'':<22}{_shown(rung.value)}"]
        else:
            lines.append(f"{rung.name:<22}{rung.symbol:<12}{_shown(rung.value):>14}   {rung.formula}")
        if inputs:
            lines.append(f"{'':<22}{inputs}")
    return "\n".join(lines)


def credit(rollout: Rollout, gamma: float, lam: float, place: Place, target: str = "lambda_return") -> list[Rung]:
    """From the value of a state to the advantage of what was done in it, and the critic's target."""
    return [
        *residual(rollout, gamma, place),
        *n_steps(rollout, gamma, place, SHOWN),
        *gae_rungs(rollout, gamma, lam, place),
        target_rung(rollout, gamma, lam, place, target),
    ]


def residual(rollout: Rollout, gamma: float, place: Place) -> list[Rung]:
    """Values before and after a decision, and the surprise between them."""
    assert rollout.rewards is not None and rollout.values is not None and rollout.next_values is not None
    factors, delta = _residuals(rollout, gamma)
    r, v, nxt, discount = (float(x[place]) for x in (rollout.rewards, rollout.values, rollout.next_values, factors))
    return [
        Rung("value", "V(s_t)", "what the critic expected from here", {}, v),
        Rung("next value", "V(s_t+1)", "what it expects from where that led", {"γ_t": discount}, nxt),
        Rung("TD residual", "δ_t", "r_t + γ_t V(s_t+1) − V(s_t)", {"r_t": r, "γ_t V(s_t+1)": discount * nxt, "V": v},
             float(delta[place])),
    ]  # fmt: skip


def n_steps(rollout: Rollout, gamma: float, place: Place, longest: int) -> list[Rung]:
    """The n-step advantages for n up to `longest`, or to the cut."""
    factors, delta = _residuals(rollout, gamma)
    rewards, values, following = rollout.rewards, rollout.values, rollout.next_values
    assert rewards is not None and values is not None and following is not None
    rungs = []
    for n in range(1, min(_left(rollout, place), longest) + 1):
        estimate_n = float(n_step_advantage(delta, factors, rollout.cut, n)[place])
        rungs.append(_n_step(rewards, values, following, factors, place, n, estimate_n))
    return rungs


def gae_rungs(rollout: Rollout, gamma: float, lam: float, place: Place) -> list[Rung]:
    """GAE by both roads."""
    factors, delta = _residuals(rollout, gamma)
    (stream, step), left = place, _left(rollout, place)
    lams = traces(rollout.cut, lam, delta.dtype)
    weights = (1.0 - lam) * lam ** torch.arange(left, dtype=torch.float64)
    weights[-1] = lam ** (left - 1)
    ahead = slice(step, step + left)  # Â⁽ⁿ⁾ for every n: the running sum of discounted residuals
    worth = factors[stream, ahead].double().cumprod(0).roll(1)
    worth[0] = 1.0
    mean = float((weights * (worth * delta[stream, ahead].double()).cumsum(0)).sum())
    advantages = gae(delta, factors, lams)
    following = float(advantages[stream, step + 1]) if left > 1 else 0.0
    return [
        Rung("GAE, weighted mean", "Â_t", f"(1−λ) Σ λⁿ⁻¹ Â⁽ⁿ⁾ + λᴺ⁻¹ Â⁽ᴺ⁾, N = {left}",
             {"λ": lam, "weights sum to": float(weights.sum()), "weight of the last": float(weights[-1])}, mean),
        Rung("GAE, recursion", "Â_t", "δ_t + γ_t λ_t Â_t+1",
             {"δ_t": float(delta[place]), "γ_t λ_t": float((factors * lams)[place]), "Â_t+1": following},
             float(advantages[place])),
    ]  # fmt: skip


def target_rung(rollout: Rollout, gamma: float, lam: float, place: Place, target: str) -> Rung:
    """What the critic learns of the state, by a choice of `estimate`."""
    formula = {"lambda_return": "Â_t + V(s_t)", "return": "r_t + γ_t G_t+1", "td": "r_t + γ_t V(s_t+1)"}[target]
    return Rung("critic's target", "G_t", formula, {}, float(estimate(rollout, gamma, lam, target)[1][place]))


def term_rung(logp: Tensor, psi: Tensor, place: Place) -> Rung:
    """A decision's term in an objective that has no ratio."""
    inputs = {"Ψ_t": float(psi[place]), "log π": float(logp[place])}
    formula = "Ψ_t log π(a_t|s_t), by the policy behind the update"
    return Rung("policy gradient", "L_t", formula, inputs, float(policy_gradient(logp, psi)[place]))


def ratio_rung(ratio: Tensor, logp: Tensor, logp_old: Tensor, place: Place, formula: str) -> Rung:
    """How much more probable the decision has become."""
    inputs = {"log π_new": float(logp[place]), "log π_old": float(logp_old[place])}
    return Rung("ratio", "ρ_t", formula, inputs, float(ratio[place]))


def clip_rung(clipped: Tensor, ratio: Tensor, advantages: Tensor, place: Place, now: Any) -> Rung:
    """The gain, and which side of the min it is."""
    plain = surrogate(ratio, advantages)[place]
    lower = float(clipped[place]) - float(plain)
    chose = "the unclipped side" if lower == 0 else f"the {'clipped side' if lower < 0 else 'dual clip'}: no gradient"
    formula = f"min(ρÂ, clip(ρ, {1 - now.eps_low:.6g}, {1 + now.eps_high:.6g})Â)"
    return Rung("clipped surrogate", "L_t", formula, {"ρÂ": float(plain), "min chose": chose}, float(clipped[place]))


def ppo_rungs(logp: Tensor, batch: Batch, place: Place, now: Any) -> list[Rung]:
    """PPO's ratio and clip."""
    ratio = likelihood_ratio(logp, batch.logp_old)
    dual_clip = getattr(now, "dual_clip", None)
    clipped = clipped_surrogate(ratio, batch.advantages, now.eps_low, now.eps_high, dual_clip)
    return [
        ratio_rung(ratio, logp, batch.logp_old, place, "exp(log π_new − log π_old)"),
        clip_rung(clipped, ratio, batch.advantages, place, now),
    ]


def gradient_rung(objective: Callable[[Tensor], Tensor], logp: Tensor, tokens: int, place: Place) -> Rung:
    """A decision's share in the gradient of an objective, as a function of the log-probabilities of all."""
    free = logp.clone().requires_grad_()
    reached = objective(free)
    pulls = torch.autograd.grad(reached, free)[0].abs() if reached.requires_grad else torch.zeros_like(free)
    pull, total = float(pulls[place]), float(pulls.sum())
    formula = "|∂L/∂log π_t| over the sum of all steps'"
    return Rung("share of the gradient", "", formula, {"1/steps": 1.0 / tokens}, pull / total if total > 0 else 0.0)


def _residuals(rollout: Rollout, gamma: float) -> tuple[Tensor, Tensor]:
    """γ_t and δ_t everywhere."""
    assert rollout.rewards is not None and rollout.values is not None and rollout.next_values is not None
    factors = discounts(rollout.terminated, gamma, rollout.rewards.dtype)
    return factors, td_residual(rollout.rewards, rollout.values, rollout.next_values, factors)


def _left(rollout: Rollout, place: Place) -> int:
    """Steps from a decision to the cut, itself included."""
    stream, step = place
    ahead = rollout.cut[stream, step:]
    return int(ahead.nonzero()[0]) + 1 if ahead.any() else len(ahead)


def _n_step(
    rewards: Tensor, values: Tensor, following: Tensor, factors: Tensor, place: Place, n: int, value: float
) -> Rung:
    """One n-step advantage, with the sum that is left when the values between its ends have cancelled."""
    stream, step = place
    weight, paid = 1.0, 0.0
    for k in range(n):
        paid += weight * float(rewards[stream, step + k])
        weight *= float(factors[stream, step + k])
    tail = weight * float(following[stream, step + n - 1]) if weight else 0.0
    inputs = {"rewards": paid, f"γ^{n} V": tail, "V(s_t)": float(values[place])}
    cancelled = f"; V(s_t+1) … V(s_t+{n - 1}) cancel" if n > 1 else ""
    return Rung(f"{n}-step advantage", f"Â⁽{n}⁾", f"rewards + γ^{n} V(s_t+{n}) − V(s_t){cancelled}", inputs, value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "  ".join(map(_shown, value))
    return value if isinstance(value, str) else f"{value:.6g}"
