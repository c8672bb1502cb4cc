"""Reward functions: found by name, run several with weights, their failures kept apart from their zeros.

A reward function has TRL's signature. It is called by keyword with a batch and gives one entry a completion:

    f(prompts, completions, completion_ids=…, finish_reason=…, **columns) -> list[float | None]

`finish_reason` says of each completion whether it ended ("stop") or was cut ("length"); a function takes what it names.
`columns` are the examples' other columns (`answer`, …), a list each. An entry is a number; None where the function does
not apply; a list of token rewards as long as the completion's `completion_ids`; or an exception, which says that this
one could not be judged. The function may be async. It judges each completion by itself: after an exception the batch is
given to it again one by one.

    total_i = Σ_k w_k r_ki over the functions k that apply to completion i
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from advantage.errors import RunFailed, UserError, nearest
from advantage.language import verifiers
from advantage.language.judge import (
    SIGNATURE,
    Reward,
    arguments_of,
    check_results,
    gather,
    is_async,
    judge,
    judge_async,
    one_line,
    parameters,
    required,
)
from advantage.language.types import Completion, Prompt, Shown, Task

Spec: TypeAlias = str | Reward | tuple[Reward, float]
SAMPLING = "sampling"
"""The name under which completions that could not be sampled are counted among the failures."""

_WEIGHT = re.compile(r"(?P<name>.+)\*(?P<weight>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)", re.DOTALL)
_OURS = ("prompts", "completions", "completion_ids", "finish_reason")


@dataclass(frozen=True)
class Scored:
    """What a batch of completions is worth.

    Attributes:
        total: the weighted sum of each completion; 0 where it is not valid.
        valid: false where no function applied, one failed, or nothing was sampled: excluded from every statistic.
        by_name: function → its unweighted reward of each completion (token rewards summed), None where there is none.
        token_rewards: where a function gave token rewards: for each completion a list as long as its ids that sums to
            the total. Rewards of whole completions stand on the last token.
        failures: function → completions on which it raised or timed out; only those that have any.
        unscored: completions to which no function applied.
    """

    total: Float[Tensor, " rows"]
    valid: Bool[Tensor, " rows"]
    by_name: Mapping[str, list[float | None]]
    token_rewards: list[list[float]] | None
    failures: Mapping[str, int]
    unscored: int


@dataclass(frozen=True)
class Part:
    """One function, what it is called in the metrics, and its weight."""

    name: str
    function: Reward
    weight: float = 1.0


def resolve_rewards(
    specs: Sequence[Spec],
    task: Task | None = None,
    *,
    timeout: float = 60.0,
    max_failures: float = 0.5,
    load_scorer: Callable[[str], verifiers.Scorer] | None = None,
) -> Rewards:
    """The rewards that a user named.

    Args:
        specs: each a built-in's name with its arguments after colons (`regex:^\\d+$`, `overlong:100:20`; see
            `verifiers.BUILT_IN`), `task` for the task's own, `module:function`, a function, or (function, weight).
            `*NUMBER` at the end of a name is its weight; a pattern that ends so takes a `*1` behind it. With none, the
            task's own.
        task: where the prompts come from.
        timeout: seconds that an async function may take for a batch, and again for each completion after it failed.
        max_failures: share of a batch's completions, in [0, 1], beyond which failures stop the run.
        load_scorer: makes the scorer of `reward_model:PATH`.

    Raises:
        UserError: no reward, unknown name, module or function, wrong signature or argument, two of one name.
    """
    if not 0 <= max_failures <= 1 or not timeout > 0:
        raise UserError(f"max_failures is {max_failures}, timeout {timeout}; they must lie in 0 … 1 and above 0")
    if not specs and task is None:
        raise UserError(f"no reward: give --task, or --reward with module:function or {', '.join(verifiers.BUILT_IN)}")
    parts = _short([_part(spec, task, load_scorer) for spec in (specs or ["task"])])
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two rewards are called {name!r}; name each once, with its weight")
    if not any(part.weight for part in parts):
        raise UserError(f"every reward has weight 0 ({', '.join(names)}); give one another weight, or watch it by gold")
    for part in parts:
        _check_signature(part)
    return Rewards(parts, timeout, max_failures)


def split_specs(text: str) -> list[str]:
    r"""The rewards of a setting, parted by commas; `\,` is a comma that parts nothing.

    >>> split_specs(r"exact, regex:\d{1\,2}*0.5")
    ['exact', 'regex:\\d{1,2}*0.5']
    """
    return [part.strip().replace("\\,", ",") for part in re.split(r"(?<!\\),", text) if part.strip()]


def scorer_of(spec: str) -> str | None:
    """The folder of the reward model that a reward names, or None where it names another reward.

    >>> scorer_of("reward_model:runs/rm*0.5"), scorer_of("exact")
    ('runs/rm', None)
    """
    head, _, folder = _parted(spec)[0].partition(":")
    return folder if head == "reward_model" else None


class Rewards:
    """Several reward functions as one.

    Args:
        parts: the functions, of different names.
        timeout: as in `resolve_rewards`.
        max_failures: as in `resolve_rewards`.
    """

    def __init__(self, parts: Sequence[Part], timeout: float = 60.0, max_failures: float = 0.5) -> None:
        self.parts, self.timeout, self.max_failures = tuple(parts), timeout, max_failures

    def check(self, columns: Iterable[str]) -> None:
        """Refuse data that lack a column which a function cannot do without.

        Raises:
            UserError: it names function and column, and lists the columns there are.
        """
        there = [name for name in columns if name not in ("prompt", *_OURS)]
        for part in self.parts:
            for name in required(part.function):
                if name not in (*_OURS, *there):
                    has = ", ".join(there) or "none besides the prompt"
                    raise UserError(f"reward {part.name} needs a column {name!r}; the data have {has}")

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion], texts: Sequence[str]) -> Scored:
        """What each completion is worth.

        Args:
            prompts: one a completion; or fewer, each standing for as many completions in a row.
            completions: what was sampled. Those that ended in an error are not judged: they are failures of sampling.
            texts: of the completions, decoded.

        Raises:
            RunFailed: a function that gives the wrong number or kind of entries, or more failures than are allowed;
                then with the text of the first.
            NonFinite: a reward that is no finite number.
            UserError: a column that a function needs is not there.
        """
        if len(texts) != len(completions) or not prompts or len(completions) % len(prompts):
            raise ValueError(
                f"{len(prompts)} prompts, {len(completions)} completions, {len(texts)} texts; "
                "give one text a completion and as many completions for each prompt"
            )
        repeats = len(completions) // len(prompts)
        owners = [prompt for prompt in prompts for _ in range(repeats)]
        judged = [row for row, one in enumerate(completions) if one.finish_reason != "error"]
        calls = _calls([owners[i] for i in judged], [completions[i] for i in judged], [texts[i] for i in judged])
        self.check(calls)
        table = []
        for part, results in zip(self.parts, self._run(calls, len(judged)), strict=True):
            lengths = [len(completions[row].ids) for row in judged]
            entries = check_results(part.name, results, lengths, judged, [texts[row] for row in judged])
            spread: list[Any] = [None] * len(completions)
            for row, entry in zip(judged, entries, strict=True):
                spread[row] = entry
            table.append(spread)
        return self._combine(table, completions)

    def _run(self, calls: Mapping[str, list[Any]], rows: int) -> list[Any]:
        """Each function's results; the async ones run at the same time, after the others."""
        if not rows:
            return [[] for _ in self.parts]
        results: dict[int, Any] = {}
        waiting: dict[int, Coroutine[Any, Any, Any]] = {}
        for number, part in enumerate(self.parts):
            wanted = arguments_of(part.function, calls)
            if is_async(part.function):
                waiting[number] = judge_async(part.function, wanted, rows, self.timeout)
            else:
                results[number] = judge(part.function, wanted, rows)
        results |= zip(waiting, gather(list(waiting.values())), strict=True)
        return [results[number] for number in range(len(self.parts))]

    def _combine(self, table: Sequence[Sequence[Any]], completions: Sequence[Completion]) -> Scored:
        """The rewards of every completion as one; `table` has a row a function, an entry a completion."""
        names = [part.name for part in self.parts]
        sampled = [one.finish_reason != "error" for one in completions]
        failed = [any(isinstance(entry, Exception) for entry in entries) for entries in zip(*table, strict=True)]
        applies = [any(entry is not None for entry in entries) for entries in zip(*table, strict=True)]
        self._stop_at_failures(table, failed)
        valid = [all(row) for row in zip(sampled, applies, (not one for one in failed), strict=True)]
        sums = {name: [_sum(entry) for entry in entries] for name, entries in zip(names, table, strict=True)}
        return Scored(
            total=torch.tensor(
                [self._total(sums, row) if valid[row] else 0.0 for row in range(len(valid))], dtype=torch.float32
            ),
            valid=torch.tensor(valid, dtype=torch.bool),
            by_name=sums,
            token_rewards=self._all_tokens(table, valid, completions),
            failures=_failures(names, table, sampled),
            unscored=sum(one and not applied for one, applied in zip(sampled, applies, strict=True)),
        )

    def _total(self, sums: Mapping[str, Sequence[float | None]], row: int) -> float:
        return math.fsum(part.weight * (sums[part.name][row] or 0.0) for part in self.parts)

    def _all_tokens(
        self, table: Sequence[Sequence[Any]], valid: Sequence[bool], completions: Sequence[Completion]
    ) -> list[list[float]] | None:
        if not any(isinstance(entry, list) for entries in table for entry in entries):
            return None
        return [
            self._tokens(table, row, len(one.ids)) if valid[row] else [0.0] * len(one.ids)
            for row, one in enumerate(completions)
        ]

    def _tokens(self, table: Sequence[Sequence[Any]], row: int, length: int) -> list[float]:
        tokens = [0.0] * length
        for part, entries in zip(self.parts, table, strict=True):
            entry = entries[row]
            if isinstance(entry, list):
                tokens = [sum_ + part.weight * one for sum_, one in zip(tokens, entry, strict=True)]
            elif entry is not None and tokens:
                tokens[-1] += part.weight * entry
        return tokens

    def _stop_at_failures(self, table: Sequence[Sequence[Any]], bad: Sequence[bool]) -> None:
        if sum(bad) <= self.max_failures * len(bad):
            return
        for part, entries in zip(self.parts, table, strict=True):
            for row, entry in enumerate(entries):
                if isinstance(entry, Exception):
                    raise RunFailed(
                        f"rewards failed on {sum(bad)} of {len(bad)} completions, more than the share "
                        f"{self.max_failures:g} that is allowed; the first: {part.name}, completion {row}: "
                        f"{one_line(entry)}"
                    ) from entry


def _short(parts: Sequence[Part]) -> list[Part]:
    """A lone reward model is called so, wherever its folder lies: a run that moves has the same metrics."""
    scorers = [part for part in parts if part.name.startswith("reward_model:")]
    return [replace(part, name="reward_model") if [part] == scorers else part for part in parts]


def _part(spec: Spec, task: Task | None, load_scorer: Callable[[str], verifiers.Scorer] | None) -> Part:
    if isinstance(spec, tuple):
        function, weight = spec
        return Part(_name_of(function), function, float(weight))
    if not isinstance(spec, str):
        if not callable(spec):
            raise UserError(f"{spec!r} is no reward: give a name, module:function or a function {SIGNATURE}")
        return Part(_name_of(spec), spec)
    name, weight = _parted(spec)
    if not math.isfinite(weight):
        raise UserError(f"the weight of reward {name!r} is {weight}; it must be a finite number")
    return Part(name, _named(name, task, load_scorer), weight)


def _parted(spec: str) -> tuple[str, float]:
    """Name and weight."""
    weighted = _WEIGHT.fullmatch(spec)
    return (weighted["name"], float(weighted["weight"])) if weighted else (spec, 1.0)


def _named(name: str, task: Task | None, load_scorer: Callable[[str], verifiers.Scorer] | None) -> Reward:
    head, colon, rest = name.partition(":")
    if name == "task":
        if task is None:
            raise UserError("reward 'task' is the task's own, and no task is given; add --task")
        return task.reward
    if head == "reward_model":
        if load_scorer is None or not rest:
            raise UserError("reward 'reward_model' takes the folder of a trained reward model: reward_model:PATH")
        return verifiers.reward_model(load_scorer(rest))
    if head in verifiers.BUILT_IN or head == "code":
        return verifiers.built_in(head, rest if colon else None)
    if not colon:
        raise UserError(f"unknown reward {name!r}: {nearest(name, ['task', *verifiers.BUILT_IN])}; or module:function")
    return _load(head, rest, name)


def _load(module: str, attribute: str, name: str) -> Reward:
    if os.getcwd() not in sys.path:  # a console script does not look where the user stands
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        known = nearest(module, verifiers.BUILT_IN)
        hint = f"; {known}" if known.startswith("did") else ""
        raise UserError(f"reward {name!r}: module {module!r} cannot be imported: {one_line(error)}{hint}") from error
    functions = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
    for step in attribute.split("."):
        if not hasattr(found, step):
            raise UserError(f"reward {name!r}: {module} has no {attribute!r}: {nearest(attribute, functions)}")
        found = getattr(found, step)
    if not callable(found):
        raise UserError(f"reward {name!r} is a {type(found).__name__}, not a function {SIGNATURE}")
    return found  # type: ignore[no-any-return]


def _name_of(function: Reward) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _check_signature(part: Part) -> None:
    """Whether it can be called by keyword with what every reward is given."""
    known = parameters(part.function)
    if known is None:
        return
    kinds = {parameter.kind for parameter in known.values()}
    takes_all = inspect.Parameter.VAR_KEYWORD in kinds
    required_position = any(
        parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty
        for parameter in known.values()
    )
    if required_position or not (takes_all or "completions" in known):
        raise UserError(f"reward {part.name} takes {inspect.signature(part.function)}; expected {SIGNATURE}")


def _calls(prompts: Sequence[Prompt], completions: Sequence[Completion], texts: Sequence[str]) -> dict[str, list[Any]]:
    """TRL's keyword arguments; a completion has the form of its prompt."""
    columns = dict.fromkeys(name for prompt in prompts for name in prompt.columns if name not in (*_OURS, "prompt"))
    return {name: [prompt.columns.get(name) for prompt in prompts] for name in columns} | {
        "prompts": [prompt.shown for prompt in prompts],
        "completions": [_shown(prompt, text) for prompt, text in zip(prompts, texts, strict=True)],
        "completion_ids": [list(completion.ids) for completion in completions],
        "finish_reason": [completion.finish_reason for completion in completions],
    }


def _shown(prompt: Prompt, text: str) -> Shown:
    return text if isinstance(prompt.shown, str) else [{"role": "assistant", "content": text}]


def _failures(names: Sequence[str], table: Sequence[Sequence[Any]], sampled: Sequence[bool]) -> dict[str, int]:
    counts = {
        name: sum(isinstance(entry, Exception) for entry in entries) for name, entries in zip(names, table, strict=True)
    }
    return {name: count for name, count in {**counts, SAMPLING: sampled.count(False)}.items() if count}


def _sum(entry: Any) -> float | None:
    """An entry as one number: token rewards summed; None where there is none."""
    if entry is None or isinstance(entry, Exception):
        return None
    return math.fsum(entry) if isinstance(entry, list) else float(entry)
