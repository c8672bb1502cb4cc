"""The tasks of our own: sums, letters, numbers and small JSON, in the ranges of the text of `tiny` unless told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from advantage.errors import UserError, nearest
from advantage.language.tasks.split import as_prompt, draw, text_of
from advantage.language.types import Shown

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
Draw: TypeAlias = tuple[str, str]
"""A prompt's text and its answer."""


@dataclass(frozen=True)
class Add:
    """Two numbers of `min_digits` to `max_digits` digits each."""

    min_digits: int = 1
    max_digits: int = 2

    def draw(self, rng: np.random.Generator) -> Draw:
        a, b = self.operand(rng), self.operand(rng)
        return f"{a}+{b}=", str(a + b)

    def operand(self, rng: np.random.Generator) -> int:
        digits = _between(rng, self.min_digits, self.max_digits)
        return int(rng.integers(0 if digits == 1 else 10 ** (digits - 1), 10**digits))

    @property
    def longest(self) -> int:
        return self.max_digits + 1


@dataclass(frozen=True)
class Subtract(Add):
    """As `Add`; the answer may be negative."""

    def draw(self, rng: np.random.Generator) -> Draw:
        a, b = self.operand(rng), self.operand(rng)
        return f"{a}-{b}=", str(a - b)


@dataclass(frozen=True)
class Copy:
    """A word of `min_length` to `max_length` letters."""

    min_length: int = 1
    max_length: int = 12

    def draw(self, rng: np.random.Generator) -> Draw:
        word = self.word(rng)
        return f"copy {word}", word

    def word(self, rng: np.random.Generator) -> str:
        length = _between(rng, self.min_length, self.max_length)
        return "".join(_LETTERS[int(i)] for i in rng.integers(0, len(_LETTERS), length))

    @property
    def longest(self) -> int:
        return self.max_length


@dataclass(frozen=True)
class Reverse(Copy):
    """A word read from its end."""

    def draw(self, rng: np.random.Generator) -> Draw:
        word = self.word(rng)
        return f"reverse {word}", word[::-1]


@dataclass(frozen=True)
class Sort:
    """`min_numbers` to `max_numbers` numbers from 0 to `max_value`, smallest first."""

    min_numbers: int = 2
    max_numbers: int = 6
    max_value: int = 99

    def draw(self, rng: np.random.Generator) -> Draw:
        count = _between(rng, self.min_numbers, self.max_numbers)
        numbers = [int(i) for i in rng.integers(0, self.max_value + 1, count)]
        return f"sort {_spaced(numbers)}", _spaced(sorted(numbers))

    @property
    def longest(self) -> int:
        return self.max_numbers * (len(str(self.max_value)) + 1) - 1


@dataclass(frozen=True)
class Json:
    """`min_pairs` to `max_pairs` letters, all different, each with a number from 0 to `max_value`."""

    min_pairs: int = 1
    max_pairs: int = 4
    max_value: int = 99

    def draw(self, rng: np.random.Generator) -> Draw:
        count = _between(rng, self.min_pairs, self.max_pairs)
        keys = [_LETTERS[int(i)] for i in rng.permutation(len(_LETTERS))[:count]]
        pairs = {key: int(rng.integers(0, self.max_value + 1)) for key in keys}
        return "json " + " ".join(f"{key}={value}" for key, value in pairs.items()), json.dumps(pairs)

    @property
    def longest(self) -> int:
        return self.max_pairs * (len('"a": , ') + len(str(self.max_value)))


Kind: TypeAlias = Add | Copy | Sort | Json
GENERATED: Mapping[str, tuple[str, Callable[..., Kind]]] = {
    "add": ("12+34= → 46", Add),
    "subtract": ("34-12= → 22", Subtract),
    "copy": ("copy abcd → abcd", Copy),
    "reverse": ("reverse abcd → dcba", Reverse),
    "sort": ("sort 3 1 2 → 1 2 3", Sort),
    "json": ('json a=1 b=2 → {"a": 1, "b": 2}', Json),
}
_LEAST = {"max_value": 1}
_MOST = {"min_digits": 15, "max_digits": 15, "max_pairs": len(_LETTERS), "max_value": 10**15}


class Generated:
    """A task whose right answer is one string.

    Args:
        name: of the task.
        kind: how a prompt and its answer are drawn.
        chat: whether prompts are chat messages.
    """

    def __init__(self, name: str, kind: Kind, chat: bool = True) -> None:
        self.name, self.kind, self.chat = name, kind, chat
        self.max_completion_length = kind.longest + 1  # characters and the end: `tiny` has a token for each

    def example(self, index: int, held_out: bool = False) -> dict[str, Any]:
        """Example `index` ≥ 0: "prompt", "answer" and "task". Which are held out: `advantage.language.tasks.split`."""
        text, answer = draw(self.name, index, held_out, self.kind.draw, lambda drawn: drawn[0])
        return {"prompt": as_prompt(text, self.chat), "answer": answer, "task": self.name}

    def reward(
        self, prompts: Sequence[Shown], completions: Sequence[Shown], answer: Sequence[str] = (), **columns: Any
    ) -> list[float | None]:
        """1 where a completion is the answer, blanks at either end aside; else 0."""
        return [float(text_of(one).strip() == right) for one, right in zip(completions, answer, strict=True)]


class Mix:
    """All the generated tasks, one after the other: example 0 is the first task's, example 1 the second's."""

    def __init__(self, chat: bool = True, **config: Any) -> None:
        if config:
            raise UserError(f"task 'mix' has no setting {next(iter(config))!r}: it has chat alone")
        self.name = "mix"
        self.parts = [make(name, chat=chat) for name in GENERATED]
        self.max_completion_length = max(part.max_completion_length for part in self.parts)

    def example(self, index: int, held_out: bool = False) -> dict[str, Any]:
        """Example `index // 6` of task `index % 6`, in the order of `GENERATED`."""
        return self.parts[index % len(self.parts)].example(index // len(self.parts), held_out)

    def reward(
        self, prompts: Sequence[Shown], completions: Sequence[Shown], answer: Sequence[str] = (), **columns: Any
    ) -> list[float | None]:
        """As each of its tasks': 1 where a completion is the answer."""
        return self.parts[0].reward(prompts, completions, answer=answer)


def make(name: str, *, chat: bool = True, **config: Any) -> Generated:
    """A generated task with ranges of one's own.

    Raises:
        UserError: a setting that it does not have, a range that is none, too few prompts for both sides.
    """
    kind = GENERATED[name][1]
    known = [field.name for field in fields(kind())]
    for setting, value in config.items():
        if setting not in known:
            raise UserError(f"task {name!r} has no setting {setting!r}: {nearest(setting, [*known, 'chat'])}")
        _check_range(name, setting, value)
    made = Generated(name, kind(**config), chat)
    _check_order(name, made.kind)
    made.example(0), made.example(0, held_out=True)  # refuses here what would fail in the run
    return made


def _check_range(name: str, setting: str, value: Any) -> None:
    least, most = _LEAST.get(setting, 1), _MOST.get(setting, 1000)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"task {name!r}: {setting} is {value!r}; it must be a whole number from {least} to {most}")


def _check_order(name: str, kind: Kind) -> None:
    settings = {field.name: getattr(kind, field.name) for field in fields(kind)}
    for setting, least in settings.items():
        most = setting.replace("min_", "max_")
        if setting != most and least > settings[most]:
            raise UserError(f"task {name!r}: {setting} is {least}, above {most} ({settings[most]}); exchange them")


def _between(rng: np.random.Generator, least: int, most: int) -> int:
    return int(rng.integers(least, most + 1))


def _spaced(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
