"""Tasks of reasoning-gym, with ranges that a small model can meet.

Its scorers may give a wrong answer 0.01 to 0.1, so scores are cut at a threshold; a scorer that raises has been given
something that is no answer, which is worth 0. Some scorers run the answer as Python: those of `_HARMLESS` see only
answers in which nothing can be called, those of `_RUN_THE_ANSWER` are refused.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from advantage.errors import UserError, nearest
from advantage.language.tasks.split import as_prompt, draw, text_of
from advantage.language.types import Shown

SUITED: dict[str, tuple[dict[str, Any], int]] = {
    "chain_sum": ({"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}, 8),
    "basic_arithmetic": (
        {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1, "allow_negation": False},
        8,
    ),
    "products": ({"min_digits": 1, "max_digits": 2}, 8),
    "gcd": ({"min_value": 1, "max_value": 30}, 8),
    "lcm": ({"min_value": 1, "max_value": 12}, 8),
    "countdown": (
        {
            "min_numbers": 3,
            "max_numbers": 3,
            "max_value": 10,
            "min_target": 1,
            "max_target": 30,
            "operators": ("+", "-"),
        },
        32,
    ),
    "simple_equations": (
        {"min_terms": 2, "max_terms": 2, "max_value": 10, "operators": ("+", "-"), "operators_weights": [0.5, 0.5]},
        8,
    ),
    "spell_backward": ({"min_word_len": 3, "max_word_len": 4}, 16),
    "word_sorting": ({"min_words": 2, "max_words": 3, "min_word_length": 3, "max_word_length": 5}, 32),
    "base_conversion": ({"min_base": 2, "max_base": 4, "min_value": 0, "max_value": 15}, 8),
    "needle_haystack": ({"min_num_statements": 2, "max_num_statements": 5}, 16),
}
"""Data set → ranges in which a model of 135 M parameters is sometimes right, and the tokens that an answer needs."""

_INSTRUCTION = "Give only the answer."
_SUM = r"(?!.*\*\*)[\d+\-*/() ]{0,200}"
_HARMLESS = {
    "countdown": _SUM,
    "puzzle24": _SUM,
    "binary_matrix": r"[\w\s]*",
    "n_queens": r"[\w\s]*",
    "spiral_matrix": r"[\w\s-]*",
    "string_insertion": r"[\w\s]*",
}
_RUN_THE_ANSWER = ("simple_integration", "intermediate_integration", "polynomial_multiplication")
_FINITE = {"acre": 1000, "gsm_symbolic": 10_000, "list_functions": 1000, "word_ladder": 500}  # made whole, or bounded
_SIZE = 2**31


class Gym:
    """One data set of reasoning-gym.

    Args:
        name: `gym:` and the data set's name.
        chat: whether prompts are chat messages.
        threshold: the score from which an answer counts as right, in (0, 1].
        instruction: a line below the question.
        config: reasoning-gym's settings, over the ranges of `SUITED`.

    Raises:
        UserError: reasoning-gym missing, no such data set, one whose scorer runs answers as programs, settings that it
            refuses.
    """

    def __init__(
        self, name: str, *, chat: bool = True, threshold: float = 0.99, instruction: str = _INSTRUCTION, **config: Any
    ) -> None:
        self.name, self.chat, self.threshold, self.instruction = name, chat, threshold, instruction
        self._data = name.removeprefix("gym:")
        if not 0 < threshold <= 1:
            raise UserError(f"task {name!r}: threshold is {threshold}; it must lie above 0 and at most at 1")
        ranges, self.max_completion_length = SUITED.get(self._data, ({}, 128))
        self._dataset = _create(self._data, {**ranges, **config})
        self._entry = lru_cache(maxsize=4096)(self._make_entry)
        try:
            self.example(0), self.example(0, held_out=True)
        except UserError:
            raise
        except Exception as error:  # reasoning-gym finds some ranges impossible only when it draws
            raise UserError(f"task {name!r} cannot make an example with these settings: {error}") from error

    def example(self, index: int, held_out: bool = False) -> dict[str, Any]:
        """Example `index` ≥ 0: "prompt", "answer" (one right answer, or None where reasoning-gym names none), "task",
        and "source_index", by which the reward finds the whole entry again.
        """
        source = draw(self.name, index, held_out, self._candidate, lambda source: str(self._entry(source)["question"]))
        entry = self._entry(source)
        text = "\n".join(part for part in (entry["question"].strip(), self.instruction) if part)
        return {
            "prompt": as_prompt(text, self.chat),
            "answer": entry["answer"],
            "task": self.name,
            "source_index": source,
        }

    def reward(
        self, prompts: Sequence[Shown], completions: Sequence[Shown], source_index: Sequence[int] = (), **columns: Any
    ) -> list[float | None]:
        """1 where reasoning-gym's score of the completion, stripped of blanks, reaches the threshold; else 0."""
        return [
            float(self._score(text_of(one).strip(), source) >= self.threshold)
            for one, source in zip(completions, source_index, strict=True)
        ]

    def _score(self, text: str, source: int) -> float:
        if (harmless := _HARMLESS.get(self._data)) and not re.fullmatch(harmless, text, re.DOTALL | re.ASCII):
            return 0.0
        try:
            return float(self._dataset.score_answer(text, self._entry(source)))
        except Exception:
            return 0.0

    def _candidate(self, rng: np.random.Generator) -> int:
        return int(rng.integers(0, _FINITE.get(self._data, _SIZE)))

    def _make_entry(self, source: int) -> dict[str, Any]:
        entry: dict[str, Any] = self._dataset[source]
        return entry


def _create(data: str, config: dict[str, Any]) -> Any:
    gym = _reasoning_gym()
    known = set(gym.factory.DATASETS) - set(_RUN_THE_ANSWER) - {"composite"}
    if data in _RUN_THE_ANSWER:
        raise UserError(f"task 'gym:{data}' runs answers as programs, and sandboxed code rewards are not built")
    if data not in known:
        raise UserError(f"unknown task 'gym:{data}': {nearest(data, known)}")
    settings = [field.name for field in dataclasses.fields(gym.factory.DATASETS[data][1])]
    for setting in config:
        if setting not in settings or setting in ("seed", "size"):
            words = {*settings, "chat", "threshold", "instruction"} - {"seed", "size"}
            raise UserError(f"task 'gym:{data}' has no setting {setting!r}: {nearest(setting, words)}")
    try:
        return gym.create_dataset(data, size=_FINITE.get(data, _SIZE), seed=0, **config)
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in config.items())
        raise UserError(f"task 'gym:{data}' cannot be made with {given or 'its defaults'}: {error}") from error


def _reasoning_gym() -> Any:
    try:
        importlib.import_module("reasoning_gym.factory")
        return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise UserError(f'tasks gym:… need reasoning-gym: pip install "advantage[language]" ({error})') from error
