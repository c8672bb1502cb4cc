"""Tasks by name: examples without end, and what a right answer is worth."""

from __future__ import annotations

from typing import Any

from advantage.errors import UserError, nearest
from advantage.language.tasks.generated import GENERATED, Mix, make
from advantage.language.tasks.gym import SUITED, Gym
from advantage.language.tasks.snippets import PREFERENCES, preferences
from advantage.language.types import Task

__all__ = ["PREFERENCES", "TASKS", "preferences", "task"]

TASKS = {
    **{name: about for name, (about, _) in GENERATED.items()},
    "mix": "one after the other of all the above",
    **{f"gym:{name}": "of reasoning-gym, ranges set for a small model" for name in SUITED},
}
"""The tasks that are listed, each with a line. Any other data set of reasoning-gym is `gym:NAME`, with its defaults."""


def task(name: str, **config: Any) -> Task:
    """The task of a name.

    Args:
        name: one of `TASKS`, or `gym:` and any data set of reasoning-gym.
        config: `chat`, whether prompts are chat messages (default) or plain text, and the task's own ranges, such as
            `max_digits` of "add" or reasoning-gym's settings.

    Raises:
        UserError: no such task (says what comes nearest), a setting that it does not have or cannot use, ranges that
            leave no example to train on or none to hold out, reasoning-gym missing.

    >>> task("add").example(0)["answer"]
    '15'
    """
    if name.startswith("gym:"):
        return Gym(name, **config)
    if name == "mix":
        return Mix(**config)
    if name in GENERATED:
        return make(name, **config)
    if name in PREFERENCES:
        raise UserError(f"{name!r} has pairs, not answers to check: it is data for reward_model and dpo, no task")
    if f"gym:{name}" in TASKS:
        raise UserError(f"unknown task {name!r}: did you mean gym:{name}?")
    raise UserError(f"unknown task {name!r}: {nearest(name, TASKS)}")
