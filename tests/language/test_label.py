"""Pairs of a model's own completions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advantage.language import label as labels
from advantage.language.agent import LanguageAgent
from advantage.language.data import load_data
from advantage.language.generate import Samples


def test_a_pair_with_an_empty_completion_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPO refuses such a line: a model that ends at once must not spoil the file."""

    def texts(self: Any, prompts: Sequence[Any], n: int, step: int, temperature: float | None = None) -> Samples:
        drawn = real(self, prompts, n, step, temperature)
        return replace(drawn, texts=("", "1", "2", "3", " ", "4"))

    real = labels.Generator.draw
    monkeypatch.setattr(labels.Generator, "draw", texts)
    monkeypatch.setattr(labels, "by_reward", lambda rewards: lambda samples: iter("bbb"))
    out = tmp_path / "pairs.jsonl"
    found = labels.label(LanguageAgent.of("tiny"), out, "task", task="add", pairs=3, max_tokens=2)
    assert (found.pairs, found.ties, found.skipped) == (1, 0, 2)
    assert len(load_data(out, kind="preference")) == 1
    assert json.loads(out.read_text())["chosen"][0]["content"] == "3"
