"""The one JSON encoder: of `--json`, the report, the page and the checkpoints.

JSON has no NaN and no infinity. Such a number is written as the object `{"special": "nan"}` (or `"inf"`, `"-inf"`:
the words of the metrics database), so that every parser reads the text and nothing is lost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def special(value: float) -> str | None:
    """The word for a non-finite number: 'nan', 'inf' or '-inf'; None for a finite one."""
    if math.isfinite(value):
        return None
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def plain(value: Any) -> Any:
    """The value in JSON's own types: mappings, sequences, arrays and tensors (as nested lists), paths, numbers, text.

    Raises:
        TypeError: a key that is no text, or a type that JSON cannot say.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        word = special(value)
        return float(value) if word is None else {"special": word}
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"JSON keys are text, not {wrong[0]!r}")
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, torch tensors: neither library is imported for this
        return plain(value.tolist())
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def dumps(value: Any, indent: int | None = None) -> str:
    """JSON text in which every number is finite.

    >>> dumps({"mean": float("nan"), "n": 3})
    '{"mean": {"special": "nan"}, "n": 3}'
    """
    return json.dumps(plain(value), allow_nan=False, indent=indent)


def loads(text: str | bytes) -> Any:
    """The inverse of `dumps` (tuples, arrays and tensors come back as lists).

    >>> loads('[{"special": "-inf"}, 1.5]')
    [-inf, 1.5]
    """
    return json.loads(text, object_hook=_number_of)


def embed(value: Any) -> str:
    """JSON for a `<script type="application/json">` of a page: no text in it can close the element or open a comment.

    >>> embed("</script>")
    '"\\\\u003c/script>"'
    """
    return dumps(value).replace("<", "\\u003c")


def _number_of(entry: dict[str, Any]) -> Any:
    return float(entry["special"]) if entry.keys() == {"special"} else entry
