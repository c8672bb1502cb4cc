"""What the worker of `math_verify` runs. Importing this module loads math-verify, so that no call pays for it."""

from __future__ import annotations

import importlib
import re
from typing import Any

_math_verify: Any = importlib.import_module("math_verify")


def equal(answer: str, text: str) -> float | None:
    """1 where two texts say the same in mathematics, else 0; None where the answer says nothing. It may hang.

    The answer may be LaTeX with or without its signs, the text anything with a formula or number in it.
    """
    marked = answer if re.search(r"\$|\\boxed|\\\(|\\\[", answer) else f"${answer}$"
    # Its own timeouts use signals and leave SymPy in pieces; the process is killed instead.
    gold = _math_verify.parse(marked, parsing_timeout=None)
    if not gold:
        return None
    found = _math_verify.parse(text, parsing_timeout=None) or _math_verify.parse(f"${text}$", parsing_timeout=None)
    return float(_math_verify.verify(gold, found, timeout_seconds=None))  # the answer first: it is not symmetric


equal(r"\frac{1}{2}", "1/2")  # its parser is made at the first use
