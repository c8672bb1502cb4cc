"""The rewards that are built in. Arguments follow a name after colons: `numeric:0.01`, `overlong:100:20`.

All of them judge text with the blanks at either end taken off; those that compare want a column `answer`.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from advantage.errors import UserError
from advantage.language.tasks.split import text_of
from advantage.language.types import Shown
from advantage.language.worker import Worker

Scores: TypeAlias = list[float | None]
Scorer: TypeAlias = Callable[[Sequence[Shown], Sequence[Shown], Sequence[bool]], Sequence[float]]
"""A trained reward model: prompts and completions to a score each."""

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][+-]?\d+)?(?<=\d)")
_MATH_TIMEOUT = 5.0


def exact(completions: Sequence[Shown], answer: Sequence[Any], **columns: Any) -> Scores:
    """1 where the completion is the answer, letter for letter; None where the answer is None.

    >>> exact(["42 ", "43"], answer=["42", "42"])
    [1.0, 0.0]
    """
    return [
        None if right is None else float(_text(one) == str(right).strip())
        for one, right in zip(completions, answer, strict=True)
    ]


def numeric(completions: Sequence[Shown], answer: Sequence[Any], tolerance: float = 1e-6, **columns: Any) -> Scores:
    """1 where the last number of the completion is the last number of the answer; None where the answer has none.

        |x − y| ≤ tolerance · max(1, |y|)

    >>> numeric(["It is 1,234.", "1235", "no idea"], answer=["1234"] * 3)
    [1.0, 0.0, 0.0]
    """

    def score(text: str, right: Any) -> float | None:
        if right is None or (wanted := _last_number(str(right))) is None:
            return None
        found = _last_number(text)
        return float(found is not None and abs(found - wanted) <= tolerance * max(1.0, abs(wanted)))

    return [score(_text(one), right) for one, right in zip(completions, answer, strict=True)]


def regex(pattern: str) -> Callable[..., Scores]:
    """1 where the pattern is found in the completion.

    >>> regex(r"\\d")(["a1", "b"])
    [1.0, 0.0]
    """
    compiled = _compiled(pattern)

    def reward(completions: Sequence[Shown], **columns: Any) -> Scores:
        return [float(compiled.search(_text(one)) is not None) for one in completions]

    return reward


def format_(pattern: str) -> Callable[..., Scores]:
    """1 where the pattern fits the whole completion; `.` is any character, line ends too.

    >>> format_("<think>.*</think>.+")(["<think>2+2</think>4", "4"])
    [1.0, 0.0]
    """
    compiled = _compiled(pattern, re.DOTALL)

    def reward(completions: Sequence[Shown], **columns: Any) -> Scores:
        return [float(compiled.fullmatch(_text(one)) is not None) for one in completions]

    return reward


def json_valid(completions: Sequence[Shown], **columns: Any) -> Scores:
    """1 where the completion is JSON as RFC 8259 has it (no NaN, no comma too many).

    >>> json_valid(['{"a": 1}', "{a: 1}", "NaN"])
    [1.0, 0.0, 0.0]
    """
    return [float(_parses(_text(one))) for one in completions]


def json_schema(schema: str) -> Callable[..., Scores]:
    """1 where the completion is JSON that a JSON Schema allows. Nothing that the schema refers to is downloaded.

    Args:
        schema: the path of a schema, or a schema itself, which begins with a brace.

    Raises:
        UserError: no such file, no JSON, no schema, or the package jsonschema missing.
    """
    try:
        jsonschema = importlib.import_module("jsonschema")
        referencing = importlib.import_module("referencing")
    except ImportError as error:
        raise UserError(f'reward json_schema needs jsonschema: pip install "advantage[language]" ({error})') from error
    try:
        content = json.loads(schema if schema.lstrip().startswith("{") else Path(schema).read_text(encoding="utf-8"))
        kind: Any = jsonschema.validators.validator_for(content, default=jsonschema.Draft202012Validator)
        kind.check_schema(content)
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise UserError(f"reward json_schema: {schema:.80} is no JSON Schema: {' '.join(reason.split())}") from error
    validator = kind(content, registry=referencing.Registry())

    def reward(completions: Sequence[Shown], **columns: Any) -> Scores:
        return [float(_parses(text) and validator.is_valid(json.loads(text))) for text in map(_text, completions)]

    return reward


def length(tokens: int) -> Callable[..., Scores]:
    """The price of length: −(tokens of the completion) / `tokens`, so that so many cost 1.

    >>> length(20)(completion_ids=[[5] * 10])
    [-0.5]
    """
    if tokens < 1:
        raise UserError(f"reward length:{tokens}: the number of tokens must be at least 1")

    def reward(completion_ids: Sequence[Sequence[int]], **columns: Any) -> Scores:
        return [-len(ids) / tokens for ids in completion_ids]

    return reward


def overlong(max_length: int, cache: int) -> Callable[..., Scores]:
    """Soft punishment of what comes near the cap: `advantage.core.rewards.overlong_penalty`.

    >>> overlong(100, 20)(completion_ids=[[5] * 80, [5] * 90])
    [0.0, -0.5]
    """
    import torch

    from advantage.core.rewards import overlong_penalty

    try:
        overlong_penalty(torch.tensor([1]), max_length, cache)
    except ValueError as error:
        raise UserError(f"reward overlong:{max_length}:{cache}: {error}") from error

    def reward(completion_ids: Sequence[Sequence[int]], **columns: Any) -> Scores:
        lengths = torch.tensor([len(ids) for ids in completion_ids], dtype=torch.int64)
        return [float(one) for one in overlong_penalty(lengths, max_length, cache)]

    return reward


class MathVerify:
    """1 where math-verify finds completion and answer equal; None where it can read no mathematics in the answer.

    It runs in a process of its own: SymPy may hang on what a model writes. A completion that takes longer than the
    timeout, or kills the process, has failed.

    Args:
        timeout: seconds for one completion, > 0.
    """

    __name__ = "math_verify"

    def __init__(self, timeout: float = _MATH_TIMEOUT) -> None:
        if not timeout > 0 or not math.isfinite(timeout):
            raise UserError(f"reward math_verify:{timeout}: the timeout must be a number of seconds above 0")
        _need_math_verify()
        self.worker = Worker("advantage.language.mathematics:equal", timeout=timeout)

    def __call__(
        self, completions: Sequence[Shown], answer: Sequence[Any], **columns: Any
    ) -> list[float | Exception | None]:
        calls = [(str(right), _text(one)) for one, right in zip(completions, answer, strict=True) if right is not None]
        results = iter(self.worker.map(calls))
        return [None if right is None else next(results) for right in answer]


def reward_model(score: Scorer) -> Callable[..., Scores]:
    """A trained reward model as a reward function.

    Args:
        score: prompts, completions, as the data have them, and whether each was cut, to one number each.

    >>> reward_model(lambda prompts, completions, cut: [float(len(text)) for text in completions])(["a"], ["bcd"])
    [3.0]
    """

    def reward(
        prompts: Sequence[Shown], completions: Sequence[Shown], finish_reason: Sequence[str] = (), **columns: Any
    ) -> Scores:
        cut = [reason == "length" for reason in finish_reason] or [False] * len(prompts)
        return [float(one) for one in score(prompts, completions, cut)]

    reward.__name__ = "reward_model"
    return reward


BUILT_IN: Mapping[str, str] = {
    "exact": "exact: the completion is the column `answer`",
    "numeric": "numeric[:TOLERANCE]: its last number is that of the column `answer`",
    "regex": "regex:PATTERN: the pattern is found in it",
    "format": "format:PATTERN: the pattern fits all of it",
    "json_valid": "json_valid: it is JSON",
    "json_schema": "json_schema:PATH: it is JSON that a schema allows",
    "math_verify": "math_verify[:SECONDS]: it equals the column `answer` as mathematics",
    "length": "length:TOKENS: minus its length over so many tokens",
    "overlong": "overlong:MAX:CACHE: soft punishment of the last CACHE tokens before MAX",
    "reward_model": "reward_model:PATH: the score of a trained reward model",
}
"""Name → how it is written and what it rewards."""


def built_in(name: str, argument: str | None) -> Callable[..., Any]:
    """A built-in reward with its argument, what stands behind the first colon.

    Raises:
        UserError: an argument that is missing, too much or not what it should be; a package that is missing.
    """
    if name == "code":
        raise UserError("reward 'code' would run generated programs, and sandboxed code rewards are not built")
    if name in _PLAIN:
        if argument is not None:
            raise UserError(f"reward {name}:{argument}: {name} takes no argument")
        return _PLAIN[name]
    if name in _TEXT:
        if not argument:
            raise UserError(f"reward {name} needs an argument: {BUILT_IN[name]}")
        return _TEXT[name](argument)
    return _of_numbers(name, argument)


def _of_numbers(name: str, argument: str | None) -> Callable[..., Any]:
    kind, fewest, most, make = _NUMBERS[name]
    words = argument.split(":") if argument else []
    try:
        numbers = [kind(word) for word in words]
    except ValueError:
        numbers = None
    if numbers is None or not fewest <= len(numbers) <= most:
        raise UserError(f"reward {name}{':' + argument if argument else ''} cannot be read: {BUILT_IN[name]}")
    made: Callable[..., Any] = make(*numbers)
    return made


def _numeric(tolerance: float = 1e-6) -> Callable[..., Scores]:
    if not 0 <= tolerance < math.inf:
        raise UserError(f"reward numeric:{tolerance}: the tolerance must be at least 0")
    return functools.partial(numeric, tolerance=tolerance)


_PLAIN: Mapping[str, Callable[..., Scores]] = {"exact": exact, "json_valid": json_valid}
_TEXT = {"regex": regex, "format": format_, "json_schema": json_schema}
_NUMBERS: Mapping[str, tuple[Callable[[str], Any], int, int, Callable[..., Any]]] = {
    "numeric": (float, 0, 1, _numeric),
    "math_verify": (float, 0, 1, MathVerify),
    "length": (int, 1, 1, length),
    "overlong": (int, 2, 2, overlong),
}


def _text(shown: Shown) -> str:
    return text_of(shown).strip()


def _last_number(text: str) -> float | None:
    found = [number for number in _NUMBER.findall(text) if number]
    value = float(found[-1].replace(",", "")) if found else math.nan
    return value if math.isfinite(value) else None


def _compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        raise UserError(f"reward pattern {pattern!r} is no regular expression: {error}") from error


def _parses(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _need_math_verify() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise UserError('reward math_verify needs math-verify: pip install "advantage[language]"')
