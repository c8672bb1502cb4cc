"""What every language algorithm begins with: a model with its tokenizer, an optimiser, examples, a frozen reference."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from advantage.adam import FlatAdam
from advantage.errors import UserError
from advantage.language.memory import keep_blocks
from advantage.language.models import compute_dtype, load_model, load_tokenizer, read_config, resolve_name
from advantage.language.policy import Critic, LanguagePolicy
from advantage.language.rewards import Rewards, resolve_rewards, split_specs
from advantage.language.scoring import scorer
from advantage.language.settings import Language, Sampling
from advantage.language.source import Source, source_of
from advantage.language.types import Task
from advantage.runs.live import LiveRun
from advantage.settings import scheduled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Workshop(NamedTuple):
    """The policy that learns, what it reads with, what moves it, and what it learns from."""

    policy: LanguagePolicy
    tokenizer: PreTrainedTokenizerBase
    optimizer: FlatAdam
    source: Source
    task: Task | None


def prepare(
    target: Any, settings: Language, run: LiveRun, kind: str, *, temperature: float = 1.0, critic: str | None = None
) -> Workshop:
    """Loads the model and finds the examples.

    Args:
        target: a model's name or folder.
        settings: of the run.
        run: whose named seeds are used, and who is told what was noticed.
        kind: of the examples: "prompt", "sft", "preference".
        temperature: at which the policy is scored.
        critic: None; "head" on the policy's hidden states, or "copy" for a backbone of its own.

    Raises:
        UserError: a model, tokenizer or data that cannot be used.
    """
    model, tokenizer, source, task = loaded(target, settings, run, kind)
    values = None
    if critic is not None:
        backbone = copy.deepcopy(model.get_decoder()) if critic == "copy" else None
        values = Critic(model.config.hidden_size, backbone)
    policy = LanguagePolicy(model, temperature, values, compute_dtype(settings.dtype), tokenizer)
    optimizer = FlatAdam(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps)
    return Workshop(policy, tokenizer, optimizer, source, task)


def loaded(
    target: Any, settings: Language, run: LiveRun, kind: str
) -> tuple[Any, PreTrainedTokenizerBase, Source, Task | None]:
    """The model, its tokenizer and the examples, before any head is put on."""
    torch.set_num_threads(settings.threads)
    keep_blocks()
    tokenizer = load_tokenizer(target, trust_remote_code=settings.trust_remote_code)
    config = read_config(resolve_name(target), settings.trust_remote_code) if target != "tiny-random" else None
    context = getattr(config, "max_position_embeddings", None) or settings.max_length
    if isinstance(settings, Sampling):
        context -= settings.max_completion_length or 1  # a prompt that leaves no room for an answer
    longest = min(settings.max_length, context)
    source, task = source_of(settings.data, settings.task, kind, tokenizer, longest, run.seed("data"))
    for line in source.notes:
        run.note("note", "source", line)
    model: Any = load_model(target, dtype=settings.dtype, trust_remote_code=settings.trust_remote_code)
    model.config.use_cache = False
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    if settings.lora_rank:
        model = with_adapters(model, settings.lora_rank, run.seed("adapters"))
    return model, tokenizer, source, task


def rewards_of(settings: Sampling, task: Task | None) -> Rewards:
    """The reward functions that the settings name, or the task's own.

    Raises:
        UserError: none, or one that cannot be used.
    """
    return resolve_rewards(
        split_specs(settings.rewards), task, max_failures=settings.max_reward_failures, load_scorer=scorer
    )


def gold_of(settings: Sampling, task: Task | None) -> Rewards | None:
    """The reward that is watched and never trained on, where one is named."""
    return resolve_rewards([settings.gold], task, load_scorer=scorer) if settings.gold else None


def frozen(policy: LanguagePolicy) -> LanguagePolicy:
    """A copy of the policy as it stands, that nothing trains: π_ref."""
    reference = LanguagePolicy(copy.deepcopy(policy.model), policy.temperature, None, policy.compute)
    reference.requires_grad_(False)
    return reference.eval()


def with_adapters(model: Any, rank: int, seed: int) -> Any:
    """The model with low-rank adapters on its linear layers (Hu et al. 2021), which alone are trained.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("lora_rank needs the package peft; pip install 'advantage[language]'") from None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.default_generator.manual_seed(seed)
        warnings.simplefilter("ignore", FutureWarning)  # of peft, about its own future
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config)
