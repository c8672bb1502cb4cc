"""Where the next examples come from, and how far a run has come in them: data that somebody has, or a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from advantage.errors import UserError
from advantage.language.data import Cursor, Examples, Order, load_data
from advantage.language.tasks import PREFERENCES, preferences
from advantage.language.tasks import task as task_of
from advantage.language.types import Task


class Source(Protocol):
    """Examples in a fixed order that a checkpoint can take up again."""

    notes: tuple[str, ...]

    @property
    def position(self) -> int:
        """How many examples have been taken."""
        ...

    def take(self, n: int) -> list[tuple[int, dict[str, Any]]]:
        """The next n examples with their indices."""
        ...

    def state(self) -> dict[str, Any]:
        """The position."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes the position up."""
        ...


class FromTask:
    """A task's examples, one after the other from a place that the seed says: without end, none twice."""

    def __init__(self, task: Task, seed: int, kind: str = "prompt") -> None:
        self.task, self.kind, self._position = task, kind, 0
        self.notes: tuple[str, ...] = ()
        self._first = seed % 2**40

    def take(self, n: int) -> list[tuple[int, dict[str, Any]]]:
        indices = range(self._first + self._position, self._first + self._position + n)
        self._position += n
        return [(index, self._example(index)) for index in indices]

    @property
    def position(self) -> int:
        return self._position

    def _example(self, index: int) -> dict[str, Any]:
        example = self.task.example(index)
        if self.kind != "sft":
            return example
        chat = not isinstance(example["prompt"], str)
        answer = [{"role": "assistant", "content": example["answer"]}] if chat else example["answer"]
        return {"prompt": example["prompt"], "completion": answer}

    def state(self) -> dict[str, Any]:
        return {"position": self._position, "task": self.task.name}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._position = int(state["position"])


class FromData:
    """Somebody's examples, shuffled anew each epoch."""

    def __init__(self, examples: Examples, seed: int) -> None:
        self.examples, self.notes = examples, examples.notes
        self._cursor = Cursor(Order(len(examples), seed), examples.digest)

    def take(self, n: int) -> list[tuple[int, dict[str, Any]]]:
        return [(index, self.examples[index]) for index in self._cursor.take(n)]

    @property
    def position(self) -> int:
        return self._cursor.position

    def ahead(self, n: int) -> list[int]:
        """The indices of all that the first n examples ever are, each once."""
        return sorted({self._cursor.order[k] for k in range(n)})

    def state(self) -> dict[str, Any]:
        return self._cursor.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._cursor.restore(state)


def source_of(
    data: str, task: str, kind: str, tokenizer: Any, room: Callable[[Task | None], int], seed: int
) -> tuple[Source, Task | None]:
    """The examples that `data` or `task` name.

    Args:
        data: a file or a name of `datasets`; may be empty where a task is given.
        task: a name of `TASKS`, or empty. Beside data it says what their answers are worth.
        kind: of the examples: "prompt", "sft", "preference", ….
        tokenizer: that they are rendered with.
        room: tokens of the longest example that is taken, given the task.
        seed: of their order.

    Raises:
        UserError: neither of both, or data that cannot be used.
    """
    chosen = task_of(task) if task and task not in PREFERENCES else None
    if data or task in PREFERENCES:
        given = data or preferences(task)
        examples = load_data(given, kind=kind, tokenizer=tokenizer, max_length=room(chosen))
        return FromData(examples, seed), chosen
    if chosen is None or kind not in ("prompt", "sft"):
        wanted = "pairs" if kind == "preference" else "examples"
        raise UserError(
            f"neither data nor task is given; name a file of {wanted} by --data, or a source of prompts by --task"
            if chosen is None
            else f"task {task} has answers and no {wanted}; name a file of {wanted} by --data"
        )
    return FromTask(chosen, seed, kind), chosen
