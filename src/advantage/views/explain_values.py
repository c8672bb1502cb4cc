"""The ladder of one decision where action values are learnt: Q(s, ·), what was done, its target, its error, its share.

The steps are those of the last checkpointed update; the network and its target network are those that came of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advantage.api import Run
from advantage.control.explore import seen_through
from advantage.control.replay import Transitions
from advantage.core import discounts, n_step_advantage
from advantage.errors import UserError
from advantage.runs import checkpoint
from advantage.runs.state import restore
from advantage.trajectory import Rollout, Tree, tree_leaves, tree_map
from advantage.views.ladder import Place, Rung


def rungs_of(run: Run, algorithm: Any, rollout: Rollout, step: int, now: Any, place: Place) -> list[Rung]:
    """An action's ladder.

    Args:
        step: environment steps behind the rollout, which name the checkpoint with its target network.
    """
    assert rollout.rewards is not None
    network, frozen = run.policy.network, _target_network(run, step)
    batch, end = _transitions(run, rollout, now)
    with torch.no_grad():
        next_q = _all(frozen, batch.following)
        y = algorithm.targets(batch, lambda context: _all(network, context), lambda _: next_q, now)
        q = _all(network, batch.context)
    action = int(rollout.actions[place])
    ends = "terminated" if rollout.terminated[place] else "truncated" if rollout.truncated[place] else "goes on"
    greedy, chose = int(q[place].argmax()), "explored" if bool(rollout.context["explored"][place]) else "greedy"
    said, value = float(q[place][action]), float(y[place])
    rungs = [
        Rung("action values", "Q(s_t, ·)", "what the network says of every action now", {}, _listed(q[place])),
        Rung("action", "a_t", "what was done; greedy is what it would do now",
             {"chosen": chose, "greedy": float(greedy)}, float(action)),
        Rung("value", "Q(s_t, a_t)", "of what was done", {"max_a Q": float(q[place].max())}, said),
        Rung("reward", "r_t", "paid by the environment after the action", {"stream": ends},
             float(rollout.rewards[place])),
    ]  # fmt: skip
    if now.n_step > 1:
        formula = f"Σ_k γᵏ r_t+k over {int(end[place]) - place[1] + 1} steps"
        rungs.append(Rung("n-step return", "R_t", formula, {"n": float(now.n_step)}, float(batch.returns[place])))
    discount, ahead = float(batch.discounts[place]), next_q[place]
    if discount == 0.0:
        formula, inputs = "R_t: nothing follows a termination", {"γ_t": 0.0}
    else:
        rungs.append(Rung("values that follow", "Q̄(s', ·)", "what the target network says", {}, _listed(ahead)))
        formula = "R_t + γ_t max_a Q̄(s', a)"
        inputs = {"R_t": float(batch.returns[place]), "γ_t": discount, "max_a Q̄": float(ahead.max())}
        if now.double:
            formula = "R_t + γ_t Q̄(s', argmax_a Q(s', a))"
            inputs["Q̄"] = (value - inputs["R_t"]) / discount
    return [
        *rungs,
        Rung("target", "y_t", formula, inputs, value),
        Rung("TD error", "δ_t", "y_t − Q(s_t, a_t)", {}, value - said),
        *_loss(algorithm, rollout, q, y, now, place),
    ]


def _loss(algorithm: Any, rollout: Rollout, q: Tensor, y: Tensor, now: Any, place: Place) -> list[Rung]:
    """What the decision adds to the loss, and its share in the pull on Q, were the update's steps one minibatch."""
    taken = q.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1)
    free = taken[rollout.mask].requires_grad_()
    reached = algorithm.objective(free, y[rollout.mask], None, now)
    pulls = torch.autograd.grad(reached, free)[0].abs()
    row = int(rollout.mask.flatten()[: place[0] * rollout.mask.shape[1] + place[1]].sum())
    alone = float(algorithm.objective(taken[place][None], y[place][None], None, now))
    pull, total = float(pulls[row]), float(pulls.sum())
    formula = "|∂L/∂Q(s_t, a_t)| over the sum of all steps'"
    return [
        Rung("loss", "ℓ(δ_t)", "½δ², where |δ| > 1 |δ| − ½" if now.loss == "huber" else "½δ²", {}, alone),
        Rung("share of the gradient", "", formula, {"1/steps": 1.0 / len(free)}, pull / total if total > 0 else 0.0),
    ]


def _transitions(run: Run, rollout: Rollout, now: Any) -> tuple[Transitions, Tensor]:
    """All steps of the rollout as they are learnt from, (streams, time, …), and where the rewards of each end.

    The last steps of a stream have fewer than n rewards here; in the replay they wait for the rest.
    """
    rewards = rollout.rewards
    assert rewards is not None
    factors = discounts(rollout.terminated, now.gamma, rewards.dtype)
    begin = torch.arange(rewards.shape[1]).expand(rewards.shape)
    end = begin
    for _ in range(now.n_step - 1):
        stop = rollout.cut.gather(1, end)
        end = torch.where(stop, end, (end + 1).clamp(max=rewards.shape[1] - 1))
    context = {name: leaf for name, leaf in rollout.context.items() if name in ("observation", "action_mask")}
    rows = torch.arange(len(rewards))[:, None]
    following = tree_map(lambda leaf: leaf[rows, end], rollout.context["following"])
    return Transitions(
        context=_seen(run, context),
        actions=rollout.actions,
        returns=n_step_advantage(rewards, factors, rollout.cut, now.n_step),
        discounts=now.gamma ** (end - begin) * factors.gather(1, end),
        following=_seen(run, following),
        index=end.numpy(),
    ), end


def _seen(run: Run, context: Tree) -> Tree:
    return seen_through(run.policy.normalizer, tree_map(lambda leaf: leaf.contiguous().numpy(), context))


def _all(network: Any, context: Tree) -> Tensor:
    """Q of contexts (streams, time, …), as (streams, time, actions)."""
    found: Tensor = network(tree_map(lambda leaf: leaf.flatten(0, 1), context))
    return found.view(*next(tree_leaves(context)).shape[:2], -1)


def _target_network(run: Run, step: int) -> Any:
    folder = dict(run.reader.checkpoints()).get(step)
    if folder is None:
        raise UserError(f"{run.path}: there is no checkpoint {step} with its target network; resume the run first")
    try:
        state = checkpoint.load(folder).state("target")
    except checkpoint.Torn as error:
        raise UserError(str(error)) from error
    frozen = run.agent().network
    restore(frozen, state)
    return frozen


def _listed(values: Tensor) -> list[float]:
    return [float(value) for value in values]
