"""The ladder of one action in an environment, by what its algorithm weighs it with: return, advantage, ratio or clip.

All numbers are the algorithm's own functions of the rollout that it kept, and of the policy that came of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from advantage.api import Run
from advantage.core import kl_k3, likelihood_ratio, standardize, surrogate
from advantage.core.dialects import DIALECTS
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import estimate, returns_to_go
from advantage.views.ladder import (
    Place,
    Rung,
    credit,
    gradient_rung,
    n_steps,
    ppo_rungs,
    ratio_rung,
    residual,
    target_rung,
    term_rung,
)


def rungs_of(run: Run, algorithm: Any, rollout: Rollout, now: Any, place: Place) -> list[Rung]:
    """An action's ladder, from its reward to its share in the gradient."""
    assert rollout.rewards is not None
    ends = "terminated" if rollout.terminated[place] else "truncated" if rollout.truncated[place] else "goes on"
    paid = Rung(
        "reward", "r_t", "paid by the environment after the action", {"stream": ends}, float(rollout.rewards[place])
    )
    if hasattr(now, "episodes"):
        psi, returns = algorithm.credit(rollout, now)
        rungs = _of_an_episode(rollout, returns, psi, now, place)
    elif hasattr(now, "n_step"):
        psi, returns = algorithm.credit(rollout, now)
        rungs = _of_n_steps(rollout, returns, psi, now, place)
    else:
        psi, returns = estimate(rollout, now.gamma, now.gae_lambda, now.critic_target)
        rungs = credit(rollout, now.gamma, now.gae_lambda, place, now.critic_target)
    if hasattr(now, "beta"):
        now = replace(now, beta=recorded(run.metrics(), "train/beta", int(run.reader.rollout()[1]["update"])))
    return [paid, *rungs, *_step(algorithm, Batch.of(rollout, psi, returns), _said(run, rollout), now, place)]


def recorded(metrics: Mapping[str, Any], name: str, update: int) -> float:
    """A metric at an update, or at the last one before it that has a row."""
    row = int((metrics["update"] <= update).nonzero()[0][-1])
    return float(metrics[name][row])


def _of_an_episode(rollout: Rollout, returns: Tensor, psi: Tensor, now: Any, place: Place) -> list[Rung]:
    """From the rewards behind an action to its weight."""
    stream, step = place
    raw = returns_to_go(rollout, now.gamma)
    goes_on = step + 1 < raw.shape[1] and not rollout.cut[place]
    assert rollout.rewards is not None
    ahead = {"r_t": float(rollout.rewards[place])}
    if goes_on:
        ahead |= {"γ": now.gamma, "G_t+1": float(raw[stream, step + 1])}
    elif rollout.truncated[place] and rollout.next_values is not None:
        ahead |= {"γ": now.gamma, "V(s_t+1)": float(rollout.next_values[place])}
    rungs = [Rung("return", "G_t", "r_t + γ G_t+1, at a time limit r_t + γ V(s_t+1)", ahead, float(raw[place]))]
    weight, symbol = raw, "G_t"
    if getattr(now, "psi", "") == "trajectory":
        weight, symbol = raw[:, :1].expand_as(raw), "R(τ)"
        rungs.append(Rung("episode's return", "R(τ)", "G of its first step, for every step", {}, float(raw[stream, 0])))
    if not torch.equal(returns, raw):
        true, weight, symbol = raw[rollout.mask], returns, "Ĝ_t"
        moments = {"mean": float(true.mean()), "std": float(true.std(correction=0))}
        formula = "(G − mean)/(std + ε) over the batch, as the critic learns it"
        rungs.append(Rung("normalised return", "Ĝ_t", formula, moments, float(returns[place])))
    formula, inputs = symbol, {symbol: float(weight[place])}
    if rollout.values is not None:
        b = float(rollout.values[place])
        about = "V(s_t) of the critic" if now.baseline == "value" else "mean return of the episodes of earlier updates"
        rungs.append(Rung("baseline", "b", about, {}, b))
        formula, inputs = f"{symbol} − b", {**inputs, "b": b}
    if now.discount_from_start:
        formula, inputs = f"γ^t ({formula})", {**inputs, "γ^t": now.gamma**step}
    return [*rungs, Rung("weight", "Ψ_t", formula, inputs, float(psi[place]))]


def _of_n_steps(rollout: Rollout, returns: Tensor, psi: Tensor, now: Any, place: Place) -> list[Rung]:
    """From the values of states to the n-step advantage, or from those of actions to theirs."""
    rungs = residual(rollout, now.gamma, place)
    rungs += n_steps(rollout, now.gamma, place, now.n_step)
    if now.critic_target == "n_step":
        rungs.append(Rung("critic's target", "G⁽ⁿ⁾", "Â⁽ⁿ⁾ + V(s_t)", {}, float(returns[place])))
    else:
        rungs.append(target_rung(rollout, now.gamma, now.gae_lambda, place, now.critic_target))
    if now.critic == "v":
        return [*rungs, Rung("weight", "Ψ_t", f"Â⁽ⁿ⁾, n = {now.n_step} or to the cut", {}, float(psi[place]))]
    assert rollout.action_values is not None and rollout.values is not None
    q, v = float(rollout.action_values[place]), float(rollout.values[place])
    rungs.append(Rung("action value", "Q(s_t, a_t)", "what the critic expected of the action", {}, q))
    formula, inputs = ("Q(s_t, a_t)", {}) if now.critic == "q" else ("Q(s_t, a_t) − Σ_a π Q", {"Q": q, "Σ_a π Q": v})
    return [*rungs, Rung("weight", "Ψ_t", formula, inputs, float(psi[place]))]


def _said(run: Run, rollout: Rollout) -> Evaluation:
    """What the policy says now, after the update, about the rollout that made it so."""
    with torch.no_grad():
        said: Evaluation = run.policy.network.evaluate(Batch.of(rollout))
    return said.detach()


def _step(algorithm: Any, batch: Batch, said: Evaluation, now: Any, place: Place) -> list[Rung]:
    """From the weight to the decision's share in the gradient."""
    mask = batch.mask
    assert mask is not None
    rungs = []
    if now.normalize_advantages:
        ddof = DIALECTS[now.numerics].advantage_ddof
        true = batch.advantages[mask]
        batch = batch.replace(advantages=standardize(batch.advantages, mask, ddof=ddof))
        moments = {"mean": float(true.mean()), "std": float(true.std(correction=ddof))}
        formula = "(Â − mean)/(std + ε), here over the whole rollout"
        rungs.append(Rung("normalised", "Â", formula, moments, float(batch.advantages[place])))
    logp = said.logp.masked_fill(~mask, 0.0)

    def objective(free: Tensor) -> Tensor:
        found: Tensor = algorithm.objective(replace(said, logp=free), batch, now)
        return found

    share = gradient_rung(objective, logp, batch.tokens, place)
    return [*rungs, *_gain(algorithm, logp, batch, now, place), share]


def _gain(algorithm: Any, logp: Tensor, batch: Batch, now: Any, place: Place) -> list[Rung]:
    """What the decision adds to the objective: by a ratio where the algorithm's file has one."""
    if hasattr(now, "eps_low"):
        return ppo_rungs(logp, batch, place, now)
    if not hasattr(algorithm, "likelihood_ratio"):
        return [term_rung(logp, batch.advantages, place)]
    ratio = likelihood_ratio(logp, batch.logp_old)
    gain = surrogate(ratio, batch.advantages)
    rungs = [
        ratio_rung(ratio, logp, batch.logp_old, place, "exp(log π_new − log π_old)"),
        Rung("surrogate", "L_t", "ρ_t Â_t", {"Â": float(batch.advantages[place])}, float(gain[place])),
    ]
    if hasattr(now, "beta"):
        k3 = float(kl_k3(batch.logp_old, logp)[place])
        formula = "β·k3, this action's estimate of the KL; the objective has the exact one, over all actions"
        rungs.append(Rung("price of the KL", "β KL", formula, {"β": now.beta, "k3": k3}, now.beta * k3))
    return rungs
