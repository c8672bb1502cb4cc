"""The ladder of one decision in numbers: reward, values, residual, n-step advantages, GAE, ratio, clip, gradient.

It reads the rollout of a run's last checkpoint and the policy that came of it, and calls the core and the algorithm's
own objective: nothing is computed here in another way than in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from advantage.algorithms import module
from advantage.api import Run
from advantage.core import standardize
from advantage.core.dialects import DIALECTS
from advantage.errors import UserError
from advantage.settings import resolve
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import estimate, scheduled_settings
from advantage.views.ladder import Ladder, Place, Rung, credit, gradient_rung, ppo_rungs, render

__all__ = ["Ladder", "Rung", "explain", "render"]


def explain(
    run_dir: str | Path, update: int | None = None, stream: int = 0, step: int | None = None, env: Any = None
) -> Ladder:
    """The ladder of one decision in the kept rollout: of an action in an environment, or of a token of a completion.

    Args:
        run_dir: a run with a checkpoint.
        update: which update; None for the one that is kept (only the last checkpointed one is).
        stream: environment, or completion, from 0.
        step: time step, or token, in the rollout, from 0; None for the stream's first decision.
        env: the environment, where the run was given a Python object.

    Raises:
        UserError: no rollout is kept, or there is no such update, stream or step in it; a run that learns from given
            examples.
    """
    run = Run(run_dir, env=env)
    name = run.reader.config["algorithm"]
    algorithm = module(name)
    if run.world == "language" and not hasattr(algorithm.Settings, "num_generations"):
        raise UserError(
            f"{run.path}: {name} learns from given examples and keeps no rollout; explain reads what a policy has done"
            " or said (`advantage data show FILE --model RUN` prints what such a run learns from, token by token)"
        )
    fields, about = run.reader.rollout()
    if update is not None and update != about["update"]:
        raise UserError(f"update is {update}; the rollout that is kept is that of update {about['update']}")
    rollout = Rollout(**fields)
    place = _place(rollout, stream, step, run.world)
    settings = resolve(algorithm.Settings, run.reader.config["settings"])
    total = about.get("total") or run.reader.total() or settings.steps
    if run.world == "language":
        from advantage.views.explain_completion import rungs_of

        now = scheduled_settings(settings, about["steps"] - 1, total, 0)
        rungs = rungs_of(run, algorithm, rollout, int(about["update"]), now, place)
    else:
        now = scheduled_settings(settings, about["steps"] - rollout.steps, total, rollout.steps)
        rungs = _rungs_in(run, algorithm, rollout, int(about["steps"]), now, place)
    return Ladder(str(run.path), int(about["update"]), *place, rungs)


def _place(rollout: Rollout, stream: int, step: int | None, world: str) -> Place:
    """Where the decision stands, looked for in the rollout."""
    streams, time = rollout.mask.shape
    if step is None:
        step = int(rollout.mask[stream].int().argmax()) if 0 <= stream < streams else 0
    if not 0 <= stream < streams or not 0 <= step < time:
        raise UserError(
            f"stream {stream}, step {step} is not there; streams are 0 … {streams - 1}, steps 0 … {time - 1}"
        )
    if not rollout.mask[stream, step]:
        if world == "control":
            raise UserError(f"stream {stream}, step {step} only resets its environment; choose a step beside it")
        true = int(rollout.mask[stream].sum())
        told = f"its steps are 0 … {true - 1}" if true else "it was left out of the update: no reward, or cut"
        raise UserError(f"stream {stream}, step {step} is no token of the completion; {told}")
    return stream, step


def _rungs_in(run: Run, algorithm: Any, rollout: Rollout, steps: int, now: Any, place: Place) -> list[Rung]:
    """The ladder of an action, by what its algorithm learns."""
    if rollout.logp_old is None:  # no policy: the values of actions
        from advantage.views.explain_values import rungs_of

        return rungs_of(run, algorithm, rollout, steps, now, place)
    return _rungs_of(run, algorithm, rollout, now, place)


def _rungs_of(run: Run, algorithm: Any, rollout: Rollout, now: Any, place: Place) -> list[Rung]:
    """An action's ladder."""
    assert rollout.rewards is not None
    ends = "terminated" if rollout.terminated[place] else "truncated" if rollout.truncated[place] else "goes on"
    paid = "paid by the environment after the action"
    return [
        Rung("reward", "r_t", paid, {"stream": ends}, float(rollout.rewards[place])),
        *credit(rollout, now.gamma, now.gae_lambda, place),
        *_step(algorithm, rollout, _said(run, rollout), now, place),
    ]


def _said(run: Run, rollout: Rollout) -> Evaluation:
    """What the policy says now, after the update, about the rollout that made it so."""
    with torch.no_grad():
        said: Evaluation = run.policy.network.evaluate(Batch.of(rollout))
    return said.detach()


def _step(algorithm: Any, rollout: Rollout, said: Evaluation, now: Any, place: Place) -> list[Rung]:
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
    logp = said.logp.masked_fill(~rollout.mask, 0.0)

    def objective(free: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = algorithm.objective(Evaluation(free, said.entropy, said.values), batch, now)
        return found

    return [*rungs, *ppo_rungs(logp, batch, place, now), gradient_rung(objective, logp, batch.tokens, place)]
