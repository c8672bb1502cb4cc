"""SFT: it is REINFORCE with Ψ = 1 on given answers, order and padding are nothing, and it learns what it is given."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import advantage
from advantage.algorithms import sft
from advantage.core import policy_gradient, token_mean
from advantage.errors import UserError
from advantage.language.policy import LanguagePolicy
from advantage.language.rows import batch_of_rows, ragged
from advantage.trajectory import Batch, Evaluation
from advantage.update import ascend
from tests.language.small import small_llama

LENGTHS = [(4, 5), (9, 1), (1, 8), (3, 3), (7, 12)]  # of prompt and answer


def rows() -> list[tuple[list[int], list[bool]]]:
    rng = np.random.default_rng(0)
    return [([int(i) for i in rng.integers(3, 61, p + a)], [False] * p + [True] * a) for p, a in LENGTHS]


def batch(given: list[tuple[list[int], list[bool]]]) -> Batch:
    ids, marks = zip(*given, strict=True)
    return batch_of_rows(ids, marks)


def step(data: Batch, objective: Any = sft.objective, **settings: Any) -> tuple[float, Tensor]:
    """Loss and gradient in float64."""
    model = small_llama()
    now = sft.Settings(**{"max_grad_norm": 1e9, "micro_tokens": None, **settings})
    taken = ascend(LanguagePolicy(model), torch.optim.SGD(model.parameters(), lr=0.0), objective, data, now)
    return -float(taken.objective), torch.cat([p.grad.flatten() for p in model.parameters()])


def test_reinforce_with_1_for_every_return_is_sft() -> None:
    def reinforce(new: Evaluation, data: Batch, now: Any) -> Tensor:
        return token_mean(policy_gradient(new.logp, torch.ones_like(new.logp)), data.mask, total=data.tokens)

    mine, other = (step(batch(rows()), objective) for objective in (sft.objective, reinforce))
    assert mine[0] == other[0] and torch.equal(mine[1], other[1])


def test_its_loss_is_the_cross_entropy_of_the_learnt_tokens() -> None:
    model, labels = small_llama(), []
    for ids, marks in rows():
        labels.append([token if mark else -100 for token, mark in zip(ids, marks, strict=True)])
    width = max(len(row) for row in labels)
    tokens = ragged([ids for ids, _ in rows()], width, 0, torch.long)
    logits = model(input_ids=tokens).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ragged(labels, width, -100, torch.long)[:, 1:].flatten()
    )
    loss.backward()
    found, gradient = step(batch(rows()))
    assert found == pytest.approx(loss.item(), abs=1e-12)
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def test_order_padding_and_split_are_nothing() -> None:
    loss, gradient = step(batch(rows()))
    longer = ([int(i) for i in np.random.default_rng(1).integers(3, 61, 40)], [False] * 40)  # nothing of it is learnt
    for data, settings in (
        (batch(rows()[::-1]), {}),
        (batch([*rows(), longer]), {}),
        (batch(rows()), {"micro_tokens": 1}),
        (batch(rows()), {"micro_tokens": 30}),
        (batch(rows()), {"micro_batch": 2}),
    ):
        other, its_gradient = step(data, **settings)
        assert other == pytest.approx(loss, abs=1e-12)
        torch.testing.assert_close(its_gradient, gradient, rtol=1e-10, atol=1e-10)


def test_what_is_not_learnt_matters_as_context_alone() -> None:
    changed = [(list(ids), marks) for ids, marks in rows()]
    changed[0][0][-1] = 60 if changed[0][0][-1] != 60 else 59  # a learnt token
    assert step(batch(changed))[0] != step(batch(rows()))[0]
    tail = [([*ids, 11, 12], [*marks, False, False]) for ids, marks in rows()]
    assert step(batch(tail))[0] == pytest.approx(step(batch(rows()))[0], abs=1e-12)


SHORT: dict[str, Any] = {"batch_size": 8, "threads": 1, "quiet": True, "learning_rate": "lin_2e-5"}


def test_it_learns_the_answers_that_it_is_given(tmp_path: Path) -> None:
    data = tmp_path / "answers.jsonl"
    lines = [{"prompt": f"say {word}", "completion": word[::-1] + "!"} for word in ("abc", "xyz", "klm", "uvw")]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {**SHORT, "steps": 30, "learning_rate": 3e-3, "batch_size": 4, "data": str(data)}
    run = advantage.train("sft", "tiny", run_dir=tmp_path / "run", **settings)
    losses = run.metrics()["train/loss"]
    assert losses[0] > 0.5 and losses[-1] < 0.1 * losses[0]
    assert (run.metrics()["num_tokens"] == 20 * np.arange(1, 31)).all()  # 4 answers of 4 characters and their end


def test_a_training_depends_on_its_seed_alone(tmp_path: Path) -> None:
    runs = [
        advantage.train("sft", "tiny", seed=seed, run_dir=tmp_path / str(i), task="copy", steps=3, **SHORT)
        for i, seed in enumerate((0, 0, 1))
    ]
    first, again, other = ((run.path / "policy" / "model.safetensors").read_bytes() for run in runs)
    assert first == again != other
    metrics = runs[0].metrics()
    for name in ("train/loss", "train/entropy", "train/gradient_norm", "train/learning_rate", "num_tokens"):
        assert all(math.isfinite(value) for value in metrics[name])
    assert metrics["train/learning_rate"].tolist() == pytest.approx([2e-5, 2e-5 * 2 / 3, 2e-5 / 3])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "answers.jsonl"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n', "2"),
        ('{"question": "a", "answer": "b"}\n', "question"),
        ('{"prompt": "a", "completion": ""}\n', "completion"),
    ],
)
def test_data_that_cannot_be_used_are_refused_before_anything_begins(text: str, said: str, tmp_path: Path) -> None:
    data = tmp_path / "answers.jsonl"
    data.write_text(text)
    with pytest.raises(UserError) as caught:
        advantage.train("sft", "tiny", run_dir=tmp_path / "run", data=str(data), steps=1, **SHORT)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
