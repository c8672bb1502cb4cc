"""The ladder of one decision in numbers: reward, values, residual, n-step advantages, GAE, ratio, clip, gradient.

It reads the rollout of a run's last checkpoint and the policy that came of it, and calls the core and the algorithm's
own objective: nothing is computed here in another way than in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advantage.algorithms import module
from advantage.api import Run
from advantage.control.settings import ValueBased
from advantage.errors import UserError
from advantage.settings import resolve
from advantage.trajectory import Rollout
from advantage.update import scheduled_settings
from advantage.views import explain_control, explain_values
from advantage.views.ladder import Ladder, Place, Rung, render

__all__ = ["Ladder", "Rung", "explain", "render"]


def explain(
    run_dir: str | Path, update: int | None = None, stream: int = 0, step: int | None = None, env: Any = None
) -> Ladder:
    """The ladder of one decision in the kept rollout: of an action in an environment, or of a token of a completion.

    Args:
        run_dir: a run with a checkpoint.
        update: which update; None for the one that is kept (only the last checkpointed one is).
        stream: environment (of algorithms of whole episodes: episode), or completion, from 0.
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
    settings = resolve(algorithm.Settings, run.reader.config["settings"])
    place = _place(rollout, stream, step, run.world, whole=hasattr(settings, "episodes"))
    total = about.get("total") or run.reader.total() or settings.steps
    if run.world == "language":
        from advantage.views.explain_completion import rungs_of

        now = scheduled_settings(settings, about["steps"] - 1, total, 0)
        rungs = rungs_of(run, algorithm, rollout, int(about["update"]), now, place)
    else:
        began = about.get("began", about["steps"] - rollout.steps)
        now = scheduled_settings(settings, began, total, about["steps"] - began)
        if isinstance(settings, ValueBased):
            rungs = explain_values.rungs_of(run, algorithm, rollout, int(about["steps"]), now, place)
        else:
            rungs = explain_control.rungs_of(run, algorithm, rollout, now, place)
    return Ladder(str(run.path), int(about["update"]), *place, rungs)


def _place(rollout: Rollout, stream: int, step: int | None, world: str, *, whole: bool) -> Place:
    """Where the decision stands, looked for in the rollout; `whole` where a stream of control is a whole episode."""
    streams, time = rollout.mask.shape
    if step is None:
        step = int(rollout.mask[stream].int().argmax()) if 0 <= stream < streams else 0
    if not 0 <= stream < streams or not 0 <= step < time:
        raise UserError(
            f"stream {stream}, step {step} is not there; streams are 0 … {streams - 1}, steps 0 … {time - 1}"
        )
    if not rollout.mask[stream, step]:
        true = int(rollout.mask[stream].sum())
        if world == "control" and whole:
            raise UserError(f"stream {stream}, step {step} is behind its episode's end; its steps are 0 … {true - 1}")
        if world == "control":
            raise UserError(f"stream {stream}, step {step} only resets its environment; choose a step beside it")
        told = f"its steps are 0 … {true - 1}" if true else "it was left out of the update: no reward, or cut"
        raise UserError(f"stream {stream}, step {step} is no token of the completion; {told}")
    return stream, step
