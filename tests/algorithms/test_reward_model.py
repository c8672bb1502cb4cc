"""Reward models: the loss by hand, where the score is read, three kinds of data, a folder that others load."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import advantage
from advantage.algorithms import reward_model
from advantage.language.models import load_tokenizer
from advantage.language.scalar import scalar_from_causal
from advantage.language.scoring import Scorer, batch_of_places, scorer
from advantage.language.tasks import task
from advantage.trajectory import Batch, Evaluation
from advantage.update import Step, ascend
from tests.language.small import small_llama

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


# --- what it finds ---

STRENGTHS = torch.tensor([1.2, 0.4, 0.0, -0.3, -1.3], dtype=torch.float64)  # logarithms: i beats j at σ(r_i − r_j)
CHI2 = 13.28  # of 4 degrees of freedom, exceeded by one sample in a hundred


class Table(torch.nn.Module):
    """A score of its own for each text."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(torch.zeros(len(STRENGTHS), dtype=torch.float64))

    def evaluate(self, batch: Batch) -> Evaluation:
        return Evaluation(values=self.scores[batch.actions])


def comparisons(count: int, seed: int = 0) -> torch.Tensor:
    """Pairs (count, 2) of winner and loser among the texts."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(STRENGTHS), count)
    second = (first + rng.integers(1, len(STRENGTHS), count)) % len(STRENGTHS)
    gap = (STRENGTHS[first] - STRENGTHS[second]).numpy()
    won = rng.random(count) < 1 / (1 + np.exp(-gap))
    return torch.as_tensor(np.where(won[:, None], np.stack([first, second], 1), np.stack([second, first], 1)))


def fitted(pairs: torch.Tensor, steps: int = 300) -> torch.Tensor:
    """The scores to which the objective leads, as differences from their mean."""
    policy, now = Table(), reward_model.Settings(max_grad_norm=1e9, micro_tokens=None)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    actions = pairs.flatten()[:, None]
    batch = Batch.of_rows({"margin": torch.zeros(len(actions))}, actions, torch.ones_like(actions, dtype=torch.bool))
    for _ in range(steps):
        step = ascend(policy, optimizer, reward_model.objective, batch, now)
    assert step.gradient_norm < 1e-4
    found = policy.scores.detach()
    return found - found.mean()


def surprise(found: torch.Tensor, pairs: torch.Tensor) -> float:
    """(r̂ − r)ᵀ I (r̂ − r) with Fisher's information I of the comparisons: χ² where the estimate is right."""
    truth = STRENGTHS - STRENGTHS.mean()
    share = torch.sigmoid(truth[pairs[:, 0]] - truth[pairs[:, 1]])
    signs = torch.zeros(len(pairs), len(STRENGTHS), dtype=torch.float64)
    signs.scatter_(1, pairs, torch.tensor([1.0, -1.0], dtype=torch.float64).expand(len(pairs), 2))
    information = signs.T @ ((share * (1 - share))[:, None] * signs)
    return float((found - truth) @ information @ (found - truth))


@pytest.mark.parametrize("seed", range(3))
def test_it_recovers_the_strengths_of_generated_comparisons(seed: int) -> None:
    pairs = comparisons(4000, seed=seed)
    found = fitted(pairs)
    print(f"strengths {[round(float(one), 2) for one in found]}: chi2 {surprise(found, pairs):.1f} of {CHI2}")
    assert surprise(found, pairs) < CHI2
    assert surprise(0.85 * found, pairs) > CHI2, "the confidence is narrow enough to refuse another answer"


def test_a_network_finds_what_a_table_finds() -> None:
    """Texts instead of numbers, scores from hidden states: the same optimum of the same comparisons."""
    texts = [[5, 9, 3], [8, 2, 30, 7], [11, 4], [6, 6, 21, 40, 3], [50, 12, 9, 1]]
    pairs = comparisons(150)
    rows = [texts[text] for text in pairs.flatten().tolist()]
    data = batch_of_places(rows, [[len(row) - 1] for row in rows], unit=torch.arange(150).repeat_interleave(2))
    data = data.replace(context={**data.context, "margin": torch.zeros(300)})
    policy = Scorer(scalar_from_causal(small_llama(num_hidden_layers=1)), None)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(60):
        ascend(policy, optimizer, reward_model.objective, data, reward_model.Settings(max_grad_norm=1e9))
    with torch.no_grad():
        ends = [[len(row) - 1] for row in texts]
        found = policy.evaluate(batch_of_places(texts, ends)).values
    assert found is not None
    torch.testing.assert_close(found[:, 0] - found.mean(), fitted(pairs), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", ["preference", "outcome", "process"])
def test_each_score_is_recorded_with_its_text_as_it_was_before_the_step(kind: str, tmp_path: Path) -> None:
    data = written(kind, tmp_path)
    run = advantage.train("reward_model", "tiny", data=data, kind=kind, steps=2, run_dir=tmp_path / "run", **SMALL)
    first, second = (run.reader.completions(update, update) for update in (1, 2))
    verdicts = {"chosen", "rejected"} if kind == "preference" else {"right", "wrong"}
    assert len(second) == (8 if kind == "outcome" else 16) and {row["finish_reason"] for row in second} == verdicts
    assert {row["reward"] for row in first} == {0.0}  # its head begins at nothing
    if kind == "preference":
        margins = [a["reward"] - b["reward"] for a, b in zip(second[::2], second[1::2], strict=True)]
        assert sum(margins) / 8 == pytest.approx(run.metrics()["rewards/margins"][1], abs=1e-6)
    for row in second if kind != "process" else ():  # the verdict stands at its own text
        a, _, b = row["prompt"].removesuffix("=").partition("+")
        assert (int(row["completion"]) == int(a) + int(b)) == (row["finish_reason"] in ("chosen", "right"))


def test_length_is_told_of_pairs_that_differ_in_it() -> None:
    now, tokenizer = reward_model.Settings(), load_tokenizer("tiny")
    question = examples("preference", 1)[0]["prompt"]
    texts = [("1", "22"), ("333", "1"), ("1", "2")]
    data = [{"prompt": question, "chosen": answer(a), "rejected": answer(b)} for a, b in texts]
    batch = reward_model.batch_of(data, tokenizer, now)
    values = torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0], [0.0]])  # the longer one is higher in both
    step = Step(batch, Evaluation(values=values), torch.zeros(()), 0.0, True)
    told = reward_model.describe(step, now)
    assert (told["rewards/chosen_longer"], told["rewards/longer_higher"]) == (0.5, 1.0)
    assert told["rewards/identical"] == 0.0 and told["rewards/accuracies"] == pytest.approx(2 / 3)
