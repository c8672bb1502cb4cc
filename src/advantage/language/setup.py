"""What every language algorithm begins with: a model with its tokenizer, an optimiser, examples, a frozen reference."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from advantage.adam import FlatAdam
from advantage.errors import UserError
from advantage.language.adapters import with_adapters
from advantage.language.generate import Generator, longest_completion
from advantage.language.memory import Heap
from advantage.language.models import (
    check_fit,
    compute_dtype,
    device_of,
    load_model,
    load_tokenizer,
    read_config,
    resolve_name,
)
from advantage.language.policy import Critic, LanguagePolicy
from advantage.language.rewards import Rewards, resolve_rewards, scorer_of, split_specs
from advantage.language.scalar import head_name, load_scalar, score_body, score_head
from advantage.language.scoring import policy_folder, scorer
from advantage.language.settings import Language, Sampling
from advantage.language.source import Source, source_of
from advantage.language.types import Task
from advantage.runs.live import LiveRun
from advantage.settings import scheduled
from advantage.trajectory import Batch, Evaluation, Evaluator

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
        critic: as `critic_of` has them; None where the algorithm has none.

    Raises:
        UserError: a model, tokenizer or data that cannot be used.
    """
    model, tokenizer, source, task = loaded(target, settings, run, kind)
    model = trainable(model, settings, run)
    values = None if critic is None else critic_of(critic, model, tokenizer, settings, run)
    policy = LanguagePolicy(model, temperature, values, compute_dtype(settings.dtype, model.device), tokenizer)
    optimizer = FlatAdam(policy, scheduled(settings.learning_rate, 1.0), settings.adam_eps)
    return Workshop(policy, tokenizer, optimizer, source, task)


def loaded(
    target: Any, settings: Language, run: LiveRun, kind: str
) -> tuple[Any, PreTrainedTokenizerBase, Source, Task | None]:
    """The model, its tokenizer and the examples, before any head is put on."""
    if settings.warmup >= settings.steps:
        raise UserError(f"warmup is {settings.warmup} updates; the run has {settings.steps}, give fewer")
    torch.set_num_threads(settings.threads)
    run.between(Heap().tidy)
    tokenizer, source, task = examples_of(target, settings, kind, run.seed("data"))
    for line in source.notes:
        run.note("note", "source", line)
    model: Any = load_model(target, dtype=settings.dtype, trust_remote_code=settings.trust_remote_code)
    check_fit(model, tokenizer)
    model.config.use_cache = False
    return model.to(device_of(settings.device)), tokenizer, source, task


def examples_of(
    target: Any, settings: Language, kind: str, seed: int
) -> tuple[PreTrainedTokenizerBase, Source, Task | None]:
    """A model's tokenizer, and the examples that it will read, each of them looked at.

    Raises:
        UserError: a model, tokenizer or data that cannot be used.
    """
    config = read_config(resolve_name(target), settings.trust_remote_code) if target != "tiny-random" else None
    tokenizer = load_tokenizer(target, trust_remote_code=settings.trust_remote_code)

    def room(task: Task | None) -> int:
        context = getattr(config, "max_position_embeddings", None) or settings.max_length
        if isinstance(settings, Sampling):  # a prompt must leave room for its answer
            context -= longest_completion(settings.max_completion_length, task, config)
        return int(min(settings.max_length, context))

    return tokenizer, *source_of(settings.data, settings.task, kind, tokenizer, room, seed)


def trainable(model: Any, settings: Language, run: LiveRun, head: str | None = None) -> Any:
    """The model ready to be trained: as little of it kept, and as little of it trained, as the settings say.

    Args:
        model: of transformers.
        settings: of the run.
        run: whose named seed the adapters have.
        head: name of a layer that is trained whole beside adapters.
    """
    if settings.gradient_checkpointing:
        newer = getattr(model, "activation_checkpointing_enable", None)  # its name from transformers 5.23 on
        (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
        model.train()
        _without_dropout(model)
    return with_adapters(model, settings.lora_rank, run.seed("adapters"), head) if settings.lora_rank else model


def critic_of(kind: str, model: Any, tokenizer: PreTrainedTokenizerBase, settings: Language, run: LiveRun) -> Critic:
    """The critic that an algorithm begins with.

    Args:
        kind: "head" on the policy's hidden states; "copy", a backbone of its own that begins as the policy's;
            "reward_model", one that begins as that of the run's reward model, its head too.
        model, tokenizer: the policy's.
        settings, run: of the run.

    Raises:
        UserError: no reward is a trained reward model, or it reads other tokens than the policy.
    """
    if kind != "reward_model":
        own = copy.deepcopy(model.get_decoder()) if kind == "copy" else None
        return Critic(model.config.hidden_size, own).to(model.device)
    path = reward_model_of(settings)
    folder = policy_folder(path)
    if load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"critic is reward_model, and {path} reads other tokens than the policy, whose tokens a critic values;"
            " train the reward model from the same model, or give critic=copy"
        )
    scalar: Any = load_scalar(folder, trust_remote_code=settings.trust_remote_code)
    scalar.config.use_cache = False
    scalar.to(model.device)
    critic = Critic(scalar.config.hidden_size)
    critic.value_head.load_state_dict(score_head(scalar).state_dict(), strict=False)  # a score seldom has a bias
    critic.to(model.device)
    critic.backbone = score_body(trainable(scalar, settings, run, head_name(scalar)))
    return critic


def generator_of(workshop: Workshop, settings: Sampling, run: LiveRun) -> Generator:
    """What draws a run's completions. What makes drawing or scoring them slower than it might be is told.

    Raises:
        UserError: a sampling distribution that training could not score.
    """
    policy = workshop.policy
    generator = Generator(policy, workshop.tokenizer, settings, workshop.task, run.seed("sampling"))
    for line in generator.notes:
        run.note("note", "sampling", line)
    if settings.num_generations > 1 and not policy.packing.possible:
        run.note(
            "note", "scoring", "a prompt is read anew for each of its completions: this model heeds no mask of ours"
        )
    return generator


def rewards_of(settings: Sampling, task: Task | None) -> Rewards:
    """The reward functions that the settings name, or the task's own.

    Raises:
        UserError: none, or one that cannot be used.
    """
    load = partial(scorer, device=settings.device)
    specs = split_specs(settings.rewards)
    return resolve_rewards(specs, task, max_failures=settings.max_reward_failures, load_scorer=load)


def gold_of(settings: Sampling, task: Task | None) -> Rewards | None:
    """The reward that is watched and never trained on, where one is named."""
    load = partial(scorer, device=settings.device)
    return resolve_rewards([settings.gold], task, load_scorer=load) if settings.gold else None


def reward_model_of(settings: Any) -> str:
    """The folder or run of the trained reward model that a critic begins as.

    Raises:
        UserError: no reward is one.
    """
    path = next(filter(None, map(scorer_of, split_specs(settings.rewards))), None)
    if path is None:
        raise UserError(
            f"critic is reward_model, and no reward of the run is one (rewards is {settings.rewards!r});"
            " name it by --reward reward_model:FOLDER, or give critic=copy"
        )
    return path


class WithoutAdapters:
    """π_ref where adapters alone are trained: the policy's own model with them switched off. Nothing is copied."""

    def __init__(self, policy: LanguagePolicy) -> None:
        self._policy = LanguagePolicy(policy.model, policy.temperature, None, policy.compute)

    def evaluate(self, batch: Batch) -> Evaluation:
        """What the model said before its adapters were trained."""
        model: Any = self._policy.model
        with model.disable_adapter():
            return self._policy.evaluate(batch)


class CriticAlone:
    """The policy while its critic warms up: one that stands on the actor's hidden states teaches them nothing."""

    def __init__(self, policy: LanguagePolicy) -> None:
        self._policy = policy

    def evaluate(self, batch: Batch) -> Evaluation:
        """As the policy, with no gradient from the values to the actor."""
        critic = self._policy.critic
        assert critic is not None
        if critic.backbone is not None:
            return self._policy.evaluate(batch)
        hook = critic.value_head.register_forward_pre_hook(lambda _, states: states[0].detach())
        try:
            return self._policy.evaluate(batch)
        finally:
            hook.remove()


def frozen(policy: LanguagePolicy) -> Evaluator:
    """The policy as it stands, that nothing trains: π_ref."""
    if hasattr(policy.model, "disable_adapter"):
        return WithoutAdapters(policy)
    reference = LanguagePolicy(copy.deepcopy(policy.model), policy.temperature, None, policy.compute)
    reference.requires_grad_(False)
    return reference.eval()


def _without_dropout(model: nn.Module) -> None:
    """In training mode, which checkpointing asks for, a model would drop: what it says would not be what it scored."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - what torch's types do not know
