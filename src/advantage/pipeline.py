"""sft → reward model → rlhf → evaluation by one command.

What comes before a training is an ordinary run inside its directory, RUN/sft and RUN/reward_model; what comes after it
is RUN/evaluation.json. Whatever is there already is not made again, so that a killed chain goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from advantage.algorithms import module, tuned
from advantage.errors import RunFailed, UserError, typed
from advantage.runs import durable
from advantage.runs.directory import RunDirectory, read_status
from advantage.runs.encode import dumps, loads
from advantage.runs.interrupt import Interrupted
from advantage.runs.progress import progress
from advantage.settings import resolve

DATA = {"sft": "sft_data", "reward_model": "pairs"}
"""The phases in their order, each an algorithm's name and that of its settings, and the setting that names its data."""
FLAGS = {"sft": "--sft-data", "reward_model": "--pairs"}
SHARED = (
    *("max_length", "micro_tokens", "micro_batch", "dtype", "gradient_checkpointing", "lora_rank", "trust_remote_code"),
    *("threads", "checkpoint_every", "keep_checkpoints"),
)
"""What a phase has from the training that it comes before, where its own settings do not say: what fits in memory."""
EVALUATION = "evaluation.json"

Plan = TypeVar("Plan", bound=Any)


@dataclass(frozen=True)
class Phase:
    """A training that comes before another.

    Attributes:
        name: of its algorithm, and of its folder in the run.
        given: its settings that are not left to their defaults: tuned for the model that the whole begins with, then
            shared with the training itself, then its own.
        settings: all of them.
    """

    name: str
    given: dict[str, Any]
    settings: Any


def phases(settings: Any, target: str) -> list[Phase]:
    """What comes before a training of a model with these settings; nothing for most.

    Raises:
        UserError: a setting that a phase has not, out of its range, or for a phase that there is not.
    """
    for name, flag in FLAGS.items():
        if (own := getattr(settings, name, {})) and not _asked(name, settings):
            raise UserError(f"{name}.{next(iter(own))} is given, and no data for that phase; name them by {flag}")
    return [_phase(name, settings, target) for name in DATA if _asked(name, settings)]


def after(planned: Plan, path: Path) -> Plan:
    """The plan of the training itself: it begins where the phases in its directory have ended."""
    settings, changes = planned.settings, {}
    if _asked("reward_model", settings):
        own = f"reward_model:{path.resolve() / 'reward_model'}".replace(",", r"\,")
        changes["settings"] = replace(settings, rewards=",".join(filter(None, [own, settings.rewards])))
    if _asked("sft", settings):
        changes["target"] = str(path.resolve() / "sft" / "policy")
    return replace(planned, **changes)


def check(planned: Any) -> None:
    """Looks at everything that any phase will read, before the first begins.

    Raises:
        UserError: data that cannot be used, a reward that there is not, a critic without its reward model.
    """
    settings = planned.settings
    if not (asked := phases(settings, planned.target)):
        return
    from advantage.language.setup import examples_of, reward_model_of, rewards_of

    for phase in asked:
        kind = "sft" if phase.name == "sft" else phase.settings.kind
        examples_of(planned.target, phase.settings, kind, planned.seed)
    _, source, task = examples_of(planned.target, settings, "prompt", planned.seed)
    trained = _asked("reward_model", settings)
    if settings.rewards or not trained:
        ((_, example),) = source.take(1)
        rewards_of(settings, task).check(example)
    if settings.critic == "reward_model" and not trained:
        reward_model_of(settings)


def run_phases(
    directory: RunDirectory, planned: Any, quiet: bool, train: Callable[..., Any], resume: Callable[..., Any]
) -> None:
    """Trains what comes before, each where the one before it ended; one that is finished is left as it is.

    Args:
        directory: of the training that they come before; it stays from the first update of the first phase on.
        planned: of that training.
        quiet: no progress.
        train, resume: those of `advantage.api`.

    Raises:
        UserError: the first phase cannot begin.
        RunFailed: a phase could not go on.
        Interrupted: the user asked to stop.
    """
    target = planned.target

    def say(state: str, error: str | None = None) -> None:
        directory.write_status(state, update=0, steps=0, total=planned.settings.steps, error=error)

    for phase in phases(planned.settings, planned.target):
        path = directory.path / phase.name
        try:
            if not (path / "config.toml").exists():
                shutil.rmtree(path, ignore_errors=True)  # what a kill left of its making
                say("running")
                progress(quiet).line(f"{phase.name}: {path}")
                train(phase.name, target, seed=planned.seed, run_dir=path, quiet=quiet, **phase.given)
            elif read_status(path).get("state") != "finished":
                say("running")
                resume(path, quiet=quiet)
        except (UserError, RunFailed, KeyboardInterrupt) as error:
            directory.begun |= (path / "config.toml").exists()  # a phase that never began has removed itself
            if not directory.begun:
                raise
            if isinstance(error, KeyboardInterrupt):
                say("stopped")
                raise Interrupted(
                    f"stopped in {phase.name}; `advantage resume {typed(directory.path)}` continues"
                ) from error
            say("failed", f"{phase.name}: {error}")
            raise RunFailed(
                f"{phase.name}: {error}; `advantage resume {typed(directory.path)}` goes on from there"
            ) from error
        directory.begun = True
        if phase.name == "sft":
            target = str((path / "policy").resolve())


def conclude(path: Path, planned: Any) -> None:
    """Asks the task's held-out prompts of the model that was begun with and of each that was trained.

    The answer is RUN/evaluation.json. Nothing is asked where there is no task, or where the file tells of the steps
    that the run has come to.
    """
    settings, steps = planned.settings, read_status(path).get("steps")
    if not phases(settings, planned.target) or evaluation(path).get("steps") == steps:
        return
    from advantage.language.agent import LanguageAgent
    from advantage.language.evaluation import mcnemar
    from advantage.language.models import load_model, load_tokenizer
    from advantage.language.tasks import PREFERENCES

    if not settings.task or settings.task in PREFERENCES:
        return

    def score(name: str) -> Any:
        allowed = {"trust_remote_code": settings.trust_remote_code}
        return LanguageAgent(load_model(name, **allowed), load_tokenizer(name, **allowed), settings).evaluate()

    trained = {"sft": path / "sft" / "policy"} if _asked("sft", settings) else {}
    trained["rlhf"] = path / "policy"
    scores = {"start": score(planned.target)} | {name: score(str(it)) for name, it in trained.items()}
    first, last = scores["start"], scores["rlhf"]
    found = {
        "steps": steps,
        "task": settings.task,
        "prompts": len(first.right),
        "accuracy": {name: [score.mean, *score.interval] for name, score in scores.items()},
        "p_value": mcnemar(first.right, last.right),
    }
    durable.replace(path / EVALUATION, lambda draft: draft.write_text(dumps(found) + "\n", encoding="utf-8"))


def evaluation(path: Path) -> dict[str, Any]:
    """What a chain's evaluation found, of each model's accuracy the mean and its 95 % interval; empty before it."""
    try:
        return dict(loads((path / EVALUATION).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _asked(name: str, settings: Any) -> str:
    """The data of a phase; empty where there is no such phase."""
    return str(getattr(settings, DATA[name], ""))


def _phase(name: str, settings: Any, target: str) -> Phase:
    from advantage.language.tasks import PREFERENCES

    data = _asked(name, settings)
    given = tuned(name, target) | {shared: getattr(settings, shared) for shared in SHARED}
    given |= {"task": data} if data in PREFERENCES else {"data": data}
    if name == "sft":  # a reward model has no answers to ask for
        given |= {shared: getattr(settings, shared) for shared in ("task", "eval_every", "eval_episodes")}
    given |= getattr(settings, name)
    try:
        return Phase(name, given, resolve(module(name).Settings, given))
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
