"""The ladder of one decision in numbers: reward, values, residual, n-step advantages, GAE, ratio, clip, gradient.

It reads the rollout of a run's last checkpoint and the policy that came of it, and calls the core and the algorithm's
own objective: nothing is computed here in another way than in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advantage.algorithms import module
from advantage.api import Run
from advantage.core import (
    clipped_surrogate,
    discounts,
    gae,
    likelihood_ratio,
    n_step_advantage,
    standardize,
    surrogate,
    td_residual,
    traces,
)
from advantage.core.dialects import DIALECTS
from advantage.errors import UserError
from advantage.settings import resolve
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import estimate, scheduled_settings

SHOWN = 6  # n-step advantages with a rung of their own; the weighted mean is over all


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


def explain(
    run_dir: str | Path, update: int | None = None, stream: int = 0, step: int | None = None, env: Any = None
) -> Ladder:
    """The ladder of one decision in the kept rollout.

    Args:
        run_dir: a run with a checkpoint.
        update: which update; None for the one that is kept (only the last checkpointed one is).
        stream: environment, from 0.
        step: time step in the rollout, from 0; None for the stream's first decision.
        env: the environment, where the run was given a Python object.

    Raises:
        UserError: no rollout is kept, or there is no such update, stream or step in it; a run in language.
    """
    run = Run(run_dir, env=env)
    if run.world == "language":
        raise UserError(
            f"{run.path}: a run of {run.reader.config['algorithm']}; explain reads runs in environments alone"
        )
    fields, about = run.reader.rollout()
    if update is not None and update != about["update"]:
        raise UserError(f"update is {update}; the rollout that is kept is that of update {about['update']}")
    rollout = Rollout(**fields)
    streams, time = rollout.mask.shape
    if step is None:
        step = int(rollout.mask[stream].int().argmax()) if 0 <= stream < streams else 0
    if not 0 <= stream < streams or not 0 <= step < time:
        raise UserError(
            f"stream {stream}, step {step} is not there; streams are 0 … {streams - 1}, steps 0 … {time - 1}"
        )
    if not rollout.mask[stream, step]:
        raise UserError(f"stream {stream}, step {step} only resets its environment; choose a step beside it")
    algorithm = module(run.reader.config["algorithm"])
    settings = resolve(algorithm.Settings, run.reader.config["settings"])
    total = about.get("total") or run.reader.total() or settings.steps
    now = scheduled_settings(settings, about["steps"] - rollout.steps, total, rollout.steps)
    said = _said(run, rollout)
    ladder = Ladder(str(run.path), int(about["update"]), stream, step)
    place = (stream, step)
    ladder.rungs.extend(_credit(rollout, now, place))
    ladder.rungs.extend(_step(algorithm, rollout, said, now, place))
    return ladder


def render(ladder: Ladder) -> str:
    """The ladder as lines for a terminal."""
    lines = [f"{ladder.run}: update {ladder.update}, stream {ladder.stream}, step {ladder.step}", ""]
    for rung in ladder.rungs:
        inputs = "  ".join(f"{name} {_shown(value)}" for name, value in rung.inputs.items())
        lines.append(f"{rung.name:<22}{rung.symbol:<12}{_shown(rung.value):>14}   {rung.formula}")
        if inputs:
            lines.append(f"{'':<22}{inputs}")
    return "\n".join(lines)


def _said(run: Run, rollout: Rollout) -> Evaluation:
    """What the policy says now, after the update, about the rollout that made it so."""
    with torch.no_grad():
        said: Evaluation = run.policy.network.evaluate(Batch.of(rollout))
    return said.detach()


def _credit(rollout: Rollout, now: Any, place: tuple[int, int]) -> list[Rung]:
    """From the reward to the advantage."""
    rewards, values, following = rollout.rewards, rollout.values, rollout.next_values
    assert rewards is not None and values is not None and following is not None
    stream, step = place
    factors = discounts(rollout.terminated, now.gamma, rewards.dtype)
    lams = traces(rollout.cut, now.gae_lambda, rewards.dtype)
    delta = td_residual(rewards, values, following, factors)
    left = int(rollout.cut[stream, step:].nonzero()[0]) + 1 if rollout.cut[stream, step:].any() else None
    left = left or rewards.shape[1] - step
    r, v, nxt, discount = (float(x[place]) for x in (rewards, values, following, factors))
    ends = "terminated" if rollout.terminated[place] else "truncated" if rollout.truncated[place] else "goes on"
    rungs = [
        Rung("reward", "r_t", "paid by the environment after the action", {"stream": ends}, r),
        Rung("value", "V(s_t)", "what the critic expected from here", {}, v),
        Rung("next value", "V(s_t+1)", "what it expects from where that led", {"γ_t": discount}, nxt),
        Rung("TD residual", "δ_t", "r_t + γ_t V(s_t+1) − V(s_t)", {"r_t": r, "γ_t V(s_t+1)": discount * nxt, "V": v},
             float(delta[place])),
    ]  # fmt: skip
    for n in range(1, min(left, SHOWN) + 1):
        estimate_n = float(n_step_advantage(delta, factors, rollout.cut, n)[place])
        rungs.append(_n_step(rewards, values, following, factors, place, n, estimate_n))
    lam = now.gae_lambda
    weights = (1.0 - lam) * lam ** torch.arange(left, dtype=torch.float64)
    weights[-1] = lam ** (left - 1)
    ahead = slice(step, step + left)  # Â⁽ⁿ⁾ for every n: the running sum of discounted residuals
    worth = factors[stream, ahead].double().cumprod(0).roll(1)
    worth[0] = 1.0
    mean = float((weights * (worth * delta[stream, ahead].double()).cumsum(0)).sum())
    advantage = float(gae(delta, factors, lams)[place])
    following_advantage = float(gae(delta, factors, lams)[stream, step + 1]) if left > 1 else 0.0
    return [
        *rungs,
        Rung("GAE, weighted mean", "Â_t", f"(1−λ) Σ λⁿ⁻¹ Â⁽ⁿ⁾ + λᴺ⁻¹ Â⁽ᴺ⁾, N = {left}",
             {"λ": lam, "weights sum to": float(weights.sum()), "weight of the last": float(weights[-1])}, mean),
        Rung("GAE, recursion", "Â_t", "δ_t + γ_t λ_t Â_t+1",
             {"δ_t": float(delta[place]), "γ_t λ_t": float((factors * lams)[place]), "Â_t+1": following_advantage},
             advantage),
        Rung("critic's target", "G_t", "Â_t + V(s_t)", {}, advantage + v),
    ]  # fmt: skip


def _n_step(
    rewards: Tensor, values: Tensor, following: Tensor, factors: Tensor, place: tuple[int, int], n: int, value: float
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


def _step(algorithm: Any, rollout: Rollout, said: Evaluation, now: Any, place: tuple[int, int]) -> list[Rung]:
    """From the advantage to the decision's share in the gradient."""
    advantages, returns = estimate(rollout, now.gamma, now.gae_lambda)
    batch = Batch.of(rollout, advantages, returns)
    rungs = []
    if now.normalize_advantages:
        ddof = DIALECTS[now.numerics].advantage_ddof
        true = batch.advantages[rollout.mask]
        batch = batch.replace(advantages=standardize(batch.advantages, rollout.mask, ddof=ddof))
        rungs.append(
            Rung("normalised", "Â", "(Â − mean)/(std + ε), here over the whole rollout",
                 {"mean": float(true.mean()), "std": float(true.std(correction=ddof))}, float(batch.advantages[place]))
        )  # fmt: skip
    logp, logp_old = said.logp.masked_fill(~rollout.mask, 0.0), batch.logp_old
    ratio = likelihood_ratio(logp, logp_old)
    plain, clipped = (
        surrogate(ratio, batch.advantages),
        clipped_surrogate(ratio, batch.advantages, now.eps_low, now.eps_high, now.dual_clip),
    )
    rungs.append(
        Rung("ratio", "ρ_t", "exp(log π_new − log π_old)",
             {"log π_new": float(logp[place]), "log π_old": float(logp_old[place])}, float(ratio[place]))
    )  # fmt: skip
    lower = float(clipped[place]) - float(plain[place])
    chose = "the unclipped side" if lower == 0 else f"the {'clipped side' if lower < 0 else 'dual clip'}: no gradient"
    rungs.append(
        Rung("clipped surrogate", "L_t", f"min(ρÂ, clip(ρ, {1 - now.eps_low:.6g}, {1 + now.eps_high:.6g})Â)",
             {"ρÂ": float(plain[place]), "min chose": chose}, float(clipped[place]))
    )  # fmt: skip
    free = logp.clone().requires_grad_()
    algorithm.objective(Evaluation(free, said.entropy, said.values), batch, now).backward()
    assert free.grad is not None
    pull, total = free.grad[place].abs(), free.grad.abs().sum()
    share = float(pull / total) if total > 0 else 0.0
    formula = "|∂L/∂log π_t| over the sum of all steps'"
    return [*rungs, Rung("share of the gradient", "", formula, {"1/steps": 1.0 / batch.tokens}, share)]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
