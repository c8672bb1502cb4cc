"""The Python of docs/tabular.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tabular.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_python(block: str) -> None:
    exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})  # noqa: S102


def test_there_is_some() -> None:
    assert len(BLOCKS) == 2
