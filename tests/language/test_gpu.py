"""On a GPU nothing but the device changes: every algorithm trains there, and says what it says on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import advantage
from advantage.language.models import load_model
from advantage.language.policy import LanguagePolicy
from tests.language.test_packing import data

pytestmark = pytest.mark.gpu

SHORT: dict[str, Any] = {"steps": 2, "batch_size": 4, "quiet": True, "device": "cuda", "dtype": "float32"}


def test_scores_are_those_of_the_cpu() -> None:
    model, batch = load_model("tiny"), data()
    here = LanguagePolicy(model).evaluate(batch)
    there = LanguagePolicy(model.to("cuda")).evaluate(batch)  # type: ignore[arg-type]
    assert there.logp is not None and there.logp.device.type == "cpu"
    torch.testing.assert_close(there.logp, here.logp, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["sft", "rlhf", "grpo", "dapo"])
def test_a_task_is_learnt_from(name: str, tmp_path: Path) -> None:
    run = advantage.train(name, "tiny", task="add", run_dir=tmp_path / "run", **SHORT)
    assert run.status["state"] == "finished"
    assert run.evaluate(episodes=4).mean >= 0


@pytest.mark.parametrize("name", ["dpo", "reward_model"])
def test_pairs_are_learnt_from(name: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": str(i)} for i in range(16)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert advantage.train(name, "tiny", data=path, run_dir=tmp_path / "run", **SHORT).status["state"] == "finished"


def test_a_run_goes_on_where_it_stood(tmp_path: Path) -> None:
    given = {**SHORT, "task": "add", "checkpoint_every": 0.0}
    whole = advantage.train("grpo", "tiny", run_dir=tmp_path / "whole", **{**given, "steps": 4})
    advantage.train("grpo", "tiny", run_dir=tmp_path / "half", **given)
    resumed = advantage.resume(tmp_path / "half", steps=4, quiet=True)
    assert list(resumed.metrics()["reward"]) == list(whole.metrics()["reward"])
