"""The kinds of run, and what each calls its things: all that differs between them in what people read stands here."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

EVALUATION = "eval/mean_reward"


@dataclass(frozen=True)
class Measure:
    """A metric that says how well a run does.

    Attributes:
        name: of the metric.
        word: for it, in a line or at the head of a column.
        label: what it is, in a few words.
        lower: whether less is better.
    """

    name: str
    word: str
    label: str
    lower: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of run in words.

    Attributes:
        name: in `KINDS`.
        target: what is trained on, or what is trained.
        unit: what its clock counts.
        step: one of them.
        measures: how well it does in training; the first that a run has recorded is its score.
        evaluation: how well it does on what it was not trained on.
        silent: why a run may have no score.
        reminder: what a reader of its losses should know.
    """

    name: str
    target: str
    unit: str
    step: str
    measures: tuple[Measure, ...]
    evaluation: Measure
    silent: str
    reminder: str

    def score(self, recorded: Container[str]) -> Measure:
        """The first measure among the metrics that were recorded; the first of all where there is none yet."""
        return next((measure for measure in self.measures if measure.name in recorded), self.measures[0])


_ACCURACY = Measure(EVALUATION, "accuracy", "held-out accuracy")
_ALL = (
    Kind(
        name="control",
        target="environment",
        unit="environment steps",
        step="step",
        measures=(Measure("rollout/ep_rew_mean", "return", "training return (mean of the last 100 episodes)"),),
        evaluation=Measure(EVALUATION, "return", "held-out return"),
        silent="no episode has finished",
        reminder="The losses of reinforcement learning do not measure performance: their data and their targets move "
        "with the policy, so they may rise while it improves and fall while it gets worse. Look at returns and at "
        "held-out evaluation instead.",
    ),
    Kind(
        name="sampled",
        target="model",
        unit="updates",
        step="update",
        measures=(Measure("reward", "reward", "mean reward of an update's completions"),),
        evaluation=_ACCURACY,
        silent="no completion has a reward",
        reminder="The losses of reinforcement learning do not measure performance: their completions move with the "
        "policy, so they may rise while it improves and fall while it gets worse. Look at the reward, at accuracy on "
        "held-out prompts, and at what the model writes.",
    ),
    Kind(
        name="given",
        target="model",
        unit="updates",
        step="update",
        measures=(
            Measure("rewards/accuracies", "accuracy", "accuracy on an update's examples, before its step"),
            Measure("train/loss", "loss", "loss on an update's examples, before its step", lower=True),
        ),
        evaluation=_ACCURACY,
        silent="no update was made",
        reminder="Loss and accuracy are those of the examples that are trained on: from the second pass over the data "
        "on they also get better by heart. Look at held-out evaluation, and at what the model writes.",
    ),
)
KINDS = {kind.name: kind for kind in _ALL}
"""control acts in an environment; a language model learns from completions of its own (sampled), or from examples."""


def kind_of(clock: str, recorded: Container[str]) -> Kind:
    """The kind of a run.

    Args:
        clock: "env_steps", or "updates" in language.
        recorded: names of its metrics.
    """
    if clock == "env_steps":
        return KINDS["control"]
    return KINDS["sampled" if "reward" in recorded else "given"]
