"""Direct preference optimisation (Rafailov et al. 2023): the reward model is the policy's own log-ratio.

The optimum of RLHF has r = β log(π/π_ref) + a constant of the prompt; put into Bradley–Terry the constant cancels, and
a classification of pairs trains the policy with neither sampling nor a critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from advantage.core import dpo_loss, implicit_reward, ipo_loss, kl_k3
from advantage.errors import UserError
from advantage.language.evaluation import hold_out
from advantage.language.evidence import identical, of_examples
from advantage.language.pairs import Reference, batch_of_pairs, digest_of, of_pairs
from advantage.language.settings import Language
from advantage.language.setup import prepare
from advantage.language.source import FromData
from advantage.runs.live import LiveRun
from advantage.settings import Schedule, setting
from advantage.trajectory import Batch, Evaluation
from advantage.update import Step, ascend, schedule, statistics


@dataclass(frozen=True)
class Settings(Language):
    """DPO's own settings, beside those of every language algorithm."""

    batch_size: int = setting(16, "pairs of an update", low=1)
    learning_rate: Schedule = setting("lin_1e-6", "step size of Adam", low=0)
    beta: float = setting(0.1, "price β of leaving the reference; larger stays nearer", above=0)
    loss: str = setting("sigmoid", "of a pair: logistic, or IPO's square", choices=("sigmoid", "ipo"))
    label_smoothing: float = setting(0.0, "share of labels that are taken to be wrong (sigmoid)", low=0, high=0.5)

    def __post_init__(self) -> None:
        """Refuses a smoothing that the loss does not have."""
        if self.loss == "ipo" and self.label_smoothing > 0:
            raise UserError(f"label_smoothing is {self.label_smoothing:g}, and loss=ipo has none; take loss=sigmoid")


def objective(new: Evaluation, batch: Batch, now: Settings) -> Tensor:
    """L = E log σ(β [log π/π_ref (chosen) − log π/π_ref (rejected)]), maximised; log-probs summed over completions."""
    policy, reference = (of_pairs(column.sum(-1)) for column in (new.logp, batch.logp_ref))
    if now.loss == "ipo":
        losses = ipo_loss(*policy, *reference, now.beta)
    else:
        losses = dpo_loss(*policy, *reference, now.beta, now.label_smoothing)
    return -losses.sum() / (batch.sequences / 2)


def describe(step: Step, now: Settings) -> dict[str, float]:
    """Implicit rewards, their margin and accuracy, and how far each side and the policy have moved, before the step.

    The pairs are no samples of π but, at best, of π_ref: k3 on their tokens estimates KL(π_ref‖π).
    """
    assert step.new.logp is not None and step.batch.logp_ref is not None
    policy, reference = step.new.logp.sum(-1), step.batch.logp_ref.sum(-1)
    chosen, rejected = of_pairs(implicit_reward(policy, reference, now.beta))
    logp_chosen, logp_rejected = of_pairs(policy)
    divergence = kl_k3(step.batch.logp_ref, step.new.logp).sum(-1)
    return {
        "kl/pairs": float(divergence.mean()),
        "rewards/chosen": float(chosen.mean()),
        "rewards/rejected": float(rejected.mean()),
        "rewards/margins": float((chosen - rejected).mean()),
        "rewards/accuracies": float((chosen > rejected).float().mean()),
        "logps/chosen": float(logp_chosen.mean()),
        "logps/rejected": float(logp_rejected.mean()),
    }


def train(target: Any, settings: Settings, run: LiveRun) -> None:
    """Trains a model on preference pairs until its budget of updates is spent."""
    policy, tokenizer, optimizer, source, task = prepare(target, settings, run, "preference")
    assert isinstance(source, FromData)
    reference = Reference(
        policy,
        source.examples,
        source.ahead(settings.steps * settings.batch_size),
        tokenizer,
        run.path / "reference.safetensors",
        digest_of(source.examples.digest, str(target), str(policy.compute)),
        settings,
    )
    run.keep(policy=policy, optimizer=optimizer, source=source)
    hold_out(policy, tokenizer, task, settings, run)

    for update in run.updates(settings.steps):
        indices, examples = zip(*source.take(settings.batch_size), strict=True)
        now = schedule(settings, update, 0, optimizer)
        with run.phase("update"):
            data = batch_of_pairs(examples, tokenizer)
            data = data.replace(logp_ref=reference.of(indices, data.actions.shape[1]))
            step = ascend(policy, optimizer, objective, data, now)
        found = describe(step, now) | of_examples(data, tokenizer) | {"rewards/identical": identical(data)}
        run.log(found | statistics(data, [step], now), data)
