"""The settings that every language algorithm has, and those that every one adds that learns from its own samples."""

from __future__ import annotations

import os
from dataclasses import dataclass

from advantage.settings import Common, Schedule, setting


@dataclass(frozen=True)
class Language(Common):
    """What it takes to train a causal model: its data, its precision, what fits in memory, its optimiser."""

    steps: int = setting(200, "budget of the whole run", unit="updates", low=1)
    eval_episodes: int = setting(200, "held-out prompts of an evaluation", low=1)
    threads: int = setting(os.cpu_count() or 1, "torch threads", low=1, high=os.cpu_count() or 1)
    data: str = setting("", "JSONL or Parquet file, or a name of `datasets`; also by --data")
    task: str = setting("", "a source of prompts and answers by name; also by --task")
    max_length: int = setting(1024, "longer examples are left out, and counted", unit="tokens", low=2)
    batch_size: int = setting(32, "examples, or prompts, of an update", low=1)
    learning_rate: Schedule = setting(1e-5, "step size of Adam", low=0)
    warmup: int = setting(0, "first updates, over which the learning rate rises in a line", unit="updates", low=0)
    adam_eps: float = setting(1e-8, "ε in Adam's divisor", above=0)
    max_grad_norm: float = setting(1.0, "bound on the gradient's global norm", above=0)
    micro_tokens: int | None = setting(
        16_384, "tokens, padding included, that fit in memory at once; none for all", low=1
    )
    micro_batch: int | None = setting(None, "rows that fit in memory at once, where micro_tokens is none", low=1)
    device: str = setting(
        "auto", "that the model is on; auto is cuda where there is one", choices=("auto", "cpu", "cuda")
    )
    dtype: str = setting("auto", "of matrix products; weights stay float32", choices=("auto", "float32", "bfloat16"))
    gradient_checkpointing: bool = setting(False, "activations computed again in backward: less memory, more time")
    trust_remote_code: bool = setting(False, "run Python code that comes with the model; also by --trust-remote-code")
    lora_rank: int = setting(0, "rank of adapters to train in the place of all weights; 0 for all weights", low=0)
    numerics: str = setting("advantage", "whose arithmetic, where peers differ", choices=("advantage",))


@dataclass(frozen=True)
class Sampling(Language):
    """What it takes to learn from completions of the model's own: how they are drawn, what they are worth."""

    batch_size: int = setting(16, "prompts of an update", low=1)
    num_generations: int = setting(8, "completions of a prompt", low=1)
    max_completion_length: int = setting(0, "tokens at which a completion is cut; 0 for what the task needs", low=0)
    temperature: float = setting(1.0, "of sampling and scoring alike", above=0)
    top_p: float = setting(1.0, "probability mass that is sampled from; training needs 1", above=0, high=1)
    top_k: int = setting(0, "tokens that are sampled from, 0 for all; training needs 0", low=0)
    rewards: str = setting(
        "", "module:function or built-in names, each with *weight, parted by commas; else the task's"
    )
    gold: str = setting("", "a reward that is watched and never trained on; also by --gold")
    max_reward_failures: float = setting(0.5, "share of completions without a reward that stops the run", low=0, high=1)
    epochs: int = setting(1, "passes over the sampled completions", low=1)
    minibatch_size: int | None = setting(None, "completions of one optimiser step; none for all", low=1)
    eps_low: Schedule = setting(0.2, "how far the ratio may fall below 1 and still be rewarded for it", low=0)
    eps_high: Schedule = setting(0.2, "how far it may rise above 1", low=0)
    beta: float = setting(0.0, "price β of leaving the reference model", low=0)
