"""Reward models: a number for a text, from what people preferred, what was right, or which steps were (Bradley & Terry
1952; Ouyang et al. 2022; Lightman et al. 2024).

The score is read at the last real token, of a process model after each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advantage.adam import FlatAdam
from advantage.core import bradley_terry_loss, token_mean
from advantage.language.evidence import identical, template_print
from advantage.language.formats import Example, parts_of_pair
from advantage.language.generate import completion_text, plain
from advantage.language.models import compute_dtype
from advantage.language.pairs import of_pairs
from advantage.language.rows import ragged
from advantage.language.scalar import head_name, scalar_from_causal
from advantage.language.scoring import Scorer, batch_of_places
from advantage.language.settings import Language
from advantage.language.setup import loaded, trainable
from advantage.language.template import render_example, render_pair, render_steps
from advantage.runs.live import LiveRun
from advantage.settings import Schedule, scheduled, setting
from advantage.trajectory import Batch, Evaluation, Sample
from advantage.update import Step, ascend, schedule, statistics


@dataclass(frozen=True)
class Settings(Language):
    """A reward model's own settings, beside those of every language algorithm."""

    learning_rate: Schedule = setting("lin_1e-5", "step size of Adam", low=0)
    kind: str = setting("preference", "what it learns from", choices=("preference", "outcome", "process"))
    centring: float = setting(0.0, "weight of (r_i + r_j)², which keeps scores around 0", low=0)
    label_smoothing: float = setting(0.0, "share of preferences that are taken to be wrong", low=0, high=0.5)


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = E log σ(r_i − r_j − margin) − λ (r_i + r_j)², or E log P(label) with P = σ(r); maximised."""
    if now.kind == "preference":
        chosen, rejected = of_pairs(new.values.squeeze(-1))
        margin, _ = of_pairs(batch.context["margin"])
        losses = bradley_terry_loss(chosen, rejected, margin, now.label_smoothing)
        return -(losses + now.centring * (chosen + rejected).square()).sum() / (batch.sequences / 2)
    return token_mean(logsigmoid(torch.where(batch.returns > 0.5, new.values, -new.values)), batch.mask, batch.tokens)


def batch_of(examples: Any, tokenizer: Any, now: Settings) -> Batch:
    """Rows of an update: two a pair, or one an example with its labels in the place of returns."""
    if now.kind == "preference":
        rows = [row.ids for example in examples for row in render_pair(tokenizer, example)]
        margin = torch.tensor([float(example.get("margin") or 0.0) for example in examples]).repeat_interleave(2)
        unit = torch.arange(len(examples)).repeat_interleave(2)
        data = batch_of_places(rows, [[len(row) - 1] for row in rows], unit=unit)
        return data.replace(context={**data.context, "margin": margin})
    if now.kind == "outcome":
        rows = [render_example(tokenizer, example).ids for example in examples]
        places, labels = [[len(row) - 1] for row in rows], [[float(example["label"])] for example in examples]
    else:
        steps = [render_steps(tokenizer, example) for example in examples]
        rows, places = [row.ids for row, _ in steps], [list(ends) for _, ends in steps]
        labels = [[float(label) for label in example["labels"]] for example in examples]
    returns = ragged(labels, max(len(row) for row in labels))
    return batch_of_places(rows, places, returns=returns, unit=torch.arange(len(rows)))


def describe(step: Step, now: Settings) -> dict[str, float]:
    """How often it is right, how far apart it holds a pair, and whether length alone says the same, before the step."""
    assert step.new.values is not None and step.batch.mask is not None
    if now.kind != "preference":
        values, labels = step.new.values[step.batch.mask], step.batch.returns[step.batch.mask]
        return {"rewards/accuracies": float(((values > 0) == (labels > 0.5)).float().mean())}
    chosen, rejected = of_pairs(step.new.values.squeeze(-1))
    found = {
        "rewards/accuracies": float((chosen > rejected).float().mean()),
        "rewards/margins": float((chosen - rejected).mean()),
        "rewards/mean": float((chosen + rejected).mean() / 2),
        "rewards/identical": identical(step.batch),
    }
    lengths = of_pairs(step.batch.context["positions"][:, 0])
    unequal = lengths[0] != lengths[1]
    if unequal.any():
        longer, higher = (lengths[0] > lengths[1])[unequal], (chosen > rejected)[unequal]
        found["rewards/chosen_longer"] = float(longer.float().mean())
        found["rewards/longer_higher"] = float((longer == higher).float().mean())
    return found


def scored_texts(step: Step, examples: Sequence[Example], now: Settings, tokenizer: Any) -> list[Sample]:
    """One record a score, before the step: of chosen and rejected, or of what is right and what is wrong."""
    assert step.new.values is not None and step.batch.mask is not None and step.batch.unit is not None
    found = []
    for row, place in step.batch.mask.nonzero().tolist():
        example = int(step.batch.unit[row])
        prompt, texts = texts_of(examples[example], now.kind, tokenizer)
        index = row % 2 if now.kind == "preference" else place
        verdict = ("chosen", "rejected")[index]
        if now.kind != "preference":
            verdict = "right" if step.batch.returns[row, place] > 0.5 else "wrong"
        score = float(step.new.values[row, place])
        found.append(Sample(example, index, prompt, texts[index], score, verdict))
    return found


def texts_of(example: Example, kind: str, tokenizer: Any) -> tuple[str, list[str]]:
    """An example's prompt, and its texts that are scored, as people read them."""
    given = [name for name in ("prompt", "chosen", "rejected", "completion") if example.get(f"{name}_ids") is not None]
    shown = {**example, **{name: completion_text(tokenizer, example[f"{name}_ids"]) for name in given}}
    if kind == "preference":
        prompt, *texts = parts_of_pair(shown)
    else:
        prompt, texts = shown["prompt"], shown["completions"] if kind == "process" else [shown["completion"]]
    return plain(prompt), [plain(text) for text in texts]


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains a score on a model's body until its budget of updates is spent."""
    model, tokenizer, source, _ = loaded(target, settings, run, settings.kind)
    scalar = scalar_from_causal(model)
    scalar = trainable(scalar, settings, run, head_name(scalar))
    policy = Scorer(scalar, tokenizer, compute_dtype(settings.dtype, model.device))
    optimizer = FlatAdam(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps)
    run.keep(policy=policy, optimizer=optimizer, source=source)

    for update in run.updates(settings.steps):
        examples = [example for _, example in source.take(settings.batch_size)]
        now = schedule(settings, update, 0, optimizer)
        with run.phase("update"):
            data = batch_of(examples, tokenizer, now)
            step = ascend(policy, optimizer, objective, data, now)
        found = describe(step, now) | {"examples/template": template_print(tokenizer)}
        texts = scored_texts(step, examples, now, tokenizer)
        run.log(found | statistics(data.replace(returns=None), [step], now), data, samples=texts)
