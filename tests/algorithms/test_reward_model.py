"""Reward models: the loss by hand, where the score is read, three kinds of data, a folder that others load."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import advantage
from advantage.algorithms import reward_model
from advantage.language.models import load_tokenizer
from advantage.language.scoring import Scorer, scorer
from advantage.language.tasks import task
from advantage.trajectory import Evaluation

SMALL: dict[str, Any] = {"threads": 1, "batch_size": 8, "quiet": True, "learning_rate": 1e-3}


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def examples(kind: str, count: int = 40) -> list[dict[str, Any]]:
    found = []
    for index in range(count):
        example = task("add").example(index)
        right, wrong = example["answer"], str(int(example["answer"]) + 1 + index % 3)
        if kind == "preference":
            found.append({"prompt": example["prompt"], "chosen": answer(right), "rejected": answer(wrong)})
        elif kind == "outcome":
            text = right if index % 2 else wrong
            found.append({"prompt": example["prompt"], "completion": answer(text), "label": bool(index % 2)})
        else:
            found.append(
                {"prompt": "1+1=", "completions": ["one and one", "is two"], "labels": [True, bool(index % 2)]}
            )
    return found


def written(kind: str, folder: Path) -> str:
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples(kind)))
    return str(path)


def test_the_loss_is_bradley_terry_s_with_margin_and_centring() -> None:
    now = reward_model.Settings(centring=0.1)
    data = [{**example, "margin": 0.5} for example in examples("preference", 2)]
    batch = reward_model.batch_of(data, load_tokenizer("tiny"), now)
    new = Evaluation(values=torch.tensor([[1.0], [0.2], [-0.5], [0.3]]))
    pairs = [(1.0, 0.2), (-0.5, 0.3)]
    by_hand = sum(-math.log(1 / (1 + math.exp(-(c - r - 0.5)))) + 0.1 * (c + r) ** 2 for c, r in pairs) / 2
    assert float(reward_model.objective(new, batch, now)) == pytest.approx(-by_hand, rel=1e-6)


def test_the_score_is_read_at_the_last_real_token() -> None:
    now = reward_model.Settings()
    tokenizer = load_tokenizer("tiny")
    batch = reward_model.batch_of(examples("preference", 5), tokenizer, now)
    ends = batch.context["tokens"].gather(1, batch.context["positions"]).flatten()
    assert set(ends.tolist()) == {tokenizer.eos_token_id}


@pytest.mark.parametrize("kind", ["preference", "outcome", "process"])
def test_each_kind_learns(kind: str, tmp_path: Path) -> None:
    run = advantage.train(
        "reward_model", "tiny", data=written(kind, tmp_path), kind=kind, steps=30, run_dir=tmp_path / "run", **SMALL
    )
    loss = run.metrics()["train/loss"]
    assert loss[-5:].mean() < loss[:5].mean()
    from transformers import AutoModelForSequenceClassification

    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/policy")
    assert loaded.config.num_labels == 1


def test_a_trained_folder_scores_as_in_training(tmp_path: Path) -> None:
    run = advantage.train(
        "reward_model", "tiny", data=written("preference", tmp_path), steps=5, run_dir=tmp_path / "run", **SMALL
    )
    pair = examples("preference", 1)[0]
    found = scorer(str(run.path / "policy"))([pair["prompt"]] * 2, [pair["chosen"], pair["rejected"]])
    from advantage.language.scalar import load_scalar

    policy = Scorer(load_scalar(str(run.path / "policy")), load_tokenizer("tiny"))
    batch = reward_model.batch_of([pair], load_tokenizer("tiny"), reward_model.Settings())
    with torch.no_grad():
        values = policy.evaluate(batch).values
    assert values is not None
    assert found == pytest.approx(values.flatten().tolist(), abs=1e-5)
