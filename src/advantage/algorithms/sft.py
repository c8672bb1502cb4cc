"""Supervised fine-tuning: REINFORCE with Ψ = 1 on given answers, which is cross-entropy.

Only what the model is to say is learnt: the completion, or the assistant's turns, with the token that ends them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from advantage.core import token_mean
from advantage.language.evaluation import hold_out
from advantage.language.evidence import of_examples
from advantage.language.rows import batch_of_rows
from advantage.language.settings import Language
from advantage.language.setup import prepare
from advantage.language.template import render_example
from advantage.runs.live import LiveRun
from advantage.settings import Schedule, setting
from advantage.trajectory import Batch, Evaluation
from advantage.update import ascend, schedule, statistics


@dataclass(frozen=True)
class Settings(Language):
    """Nothing beside what every language algorithm has."""

    learning_rate: Schedule = setting("lin_2e-5", "step size of Adam", low=0)


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = Σ log π(token) / Σ m over the whole batch, maximised."""
    return token_mean(new.logp, batch.mask, total=batch.tokens)


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains a model on examples until its budget of updates is spent."""
    policy, tokenizer, optimizer, source, task = prepare(target, settings, run, "sft")
    run.keep(policy=policy, optimizer=optimizer, source=source)
    hold_out(policy, tokenizer, task, settings, run)

    for update in run.updates(settings.steps):
        rows = [render_example(tokenizer, example) for _, example in source.take(settings.batch_size)]
        now = schedule(settings, update, 0, optimizer)
        with run.phase("update"):
            data = batch_of_rows([row.ids for row in rows], [row.mask for row in rows])
            step = ascend(policy, optimizer, objective, data, now)
        run.log(of_examples(data, tokenizer) | statistics(data, [step], now), data)
