"""A language model on its own: a prompt in, text out, and how often its answers to a task are right."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from advantage.errors import UserError
from advantage.language.evaluation import pass_at_k, wilson
from advantage.language.generate import LONGEST, Generator, accuracy, stop_ids
from advantage.language.memory import keep_blocks
from advantage.language.models import (
    PACKAGED,
    check_fit,
    compute_dtype,
    device_of,
    load_model,
    load_tokenizer,
    resolve_name,
)
from advantage.language.policy import LanguagePolicy
from advantage.language.quiet import quiet
from advantage.language.sampler import stream
from advantage.language.settings import Language, Sampling
from advantage.language.tasks import PREFERENCES
from advantage.language.tasks import task as task_of
from advantage.language.template import render_prompt
from advantage.language.types import Shown
from advantage.runs.reader import RunReader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RIGHT = 0.5  # a task's reward is 1 or 0; above this it is right


@dataclass(frozen=True)
class Accuracy:
    """How often the held-out prompts of a task were answered rightly.

    Attributes:
        task: its name.
        returns: the reward of the greedy answer to each prompt.
        sampled: the rewards of the samples of each prompt, (prompts, samples); no column where none were asked for.
    """

    task: str
    returns: np.ndarray
    sampled: np.ndarray

    @property
    def right(self) -> list[bool]:
        """Which greedy answers are right."""
        return [bool(reward > RIGHT) for reward in self.returns]

    @property
    def mean(self) -> float:
        """Share of the greedy answers that are right."""
        return sum(self.right) / len(self.right)

    @property
    def std(self) -> float:
        """Standard deviation of the greedy answers' rewards (ddof 0)."""
        return float(self.returns.std())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of that share."""
        return wilson(sum(self.right), len(self.right))

    def pass_at(self, k: int) -> float:
        """The chance that one of k samples is right.

        Raises:
            ValueError: k is not in 1 … the samples that were drawn.
        """
        return pass_at_k([int(row.sum()) for row in self.sampled > RIGHT], self.sampled.shape[1], k)


class LanguageAgent:
    """A model with its tokenizer, frozen.

    Args:
        model: a causal model of transformers, or of peft around one.
        tokenizer: its own.
        settings: of the run that made it; their task and temperature are those of `evaluate`.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, settings: Language | None = None) -> None:
        keep_blocks()
        check_fit(model, tokenizer)
        self.settings = settings or Sampling()
        temperature = self.settings.temperature if isinstance(self.settings, Sampling) else 1.0
        device = device_of("cpu" if self.settings.device == "cpu" else "auto")  # a run of a GPU is read without one too
        compute = compute_dtype(self.settings.dtype, device)
        self.policy = LanguagePolicy(model.to(device), temperature, None, compute, tokenizer)
        self.policy.requires_grad_(False).eval()
        self.tokenizer = tokenizer

    @classmethod
    def of(cls, name: str, *, trust_remote_code: bool = False) -> Self:
        """The model of a folder or a name.

        Raises:
            UserError: there is none, or it cannot be used.
        """
        check_name(name)
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
        return cls(load_model(name, trust_remote_code=trust_remote_code), tokenizer)

    @classmethod
    def of_run(cls, reader: RunReader, base: str, settings: Language, which: int | str = "last") -> Self:
        """The policy that a run saved: "last", "best", or that of the checkpoint of a step.

        Raises:
            UserError: it is not there, or is a model of another kind.
        """
        folder = reader.path / ("best" if which == "best" else "policy")
        if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
            raise UserError(
                f"{folder}: no model in it; it is written with a run's first checkpoint (best/: first evaluation)"
            )
        tokenizer = load_tokenizer(str(folder), trust_remote_code=settings.trust_remote_code)
        agent = cls(_saved_model(folder, base, settings), tokenizer, settings)
        if isinstance(which, int):
            states, _ = reader.policy(which)
            agent._take(states["policy"])
        return agent

    def generate(self, prompt: Shown, **asked: Any) -> str:
        """What the model says to a prompt; arguments and errors are those of `stream`."""
        return "".join(self.stream(prompt, **asked))

    def stream(
        self,
        prompt: Shown,
        *,
        temperature: float = 1.0,
        max_tokens: int | None = None,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: Sequence[str] = (),
        seed: int = 0,
        plain: bool = False,
    ) -> Iterator[str]:
        """What the model says to a prompt, piece by piece.

        Args:
            prompt: chat messages; or text, which is a user's message where the model has a chat template.
            temperature: ≥ 0; 0 takes the likeliest token.
            max_tokens: at which it is cut; None for 256, or what the model's context leaves.
            top_p: in (0, 1], the probability mass that is kept.
            top_k: ≥ 0, tokens that are kept; 0 for all.
            stop: strings that end the completion.
            seed: of the random numbers, ≥ 0.
            plain: text as it is, without a chat around it.

        Raises:
            UserError: an argument out of its range, or a prompt that leaves no room in the context.
        """
        chat = isinstance(prompt, str) and not plain and getattr(self.tokenizer, "chat_template", None)
        with quiet():  # a prompt beyond the context is an error of ours below
            ids = render_prompt(self.tokenizer, [{"role": "user", "content": prompt}] if chat else prompt)
        return stream(
            self.policy.model,
            self.tokenizer,
            ids,
            max_tokens=self._room(len(ids)) if max_tokens is None else max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop_ids=sorted(stop_ids(self.policy.model, self.tokenizer)),
            stop=stop,
            seed=seed,
        )

    def evaluate(
        self, prompts: int | None = None, seed: int = 1, *, task: str | None = None, samples: int = 0
    ) -> Accuracy:
        """Answers to a task's first held-out prompts, which no training sees.

        Args:
            prompts: how many; None for `eval_episodes` of the settings.
            seed: of the samples, ≥ 0.
            task: its name; None for the run's own.
            samples: drawn for each prompt at the run's temperature, beside the greedy answer.

        Raises:
            UserError: no task, or an unknown one.
        """
        name = task or self.settings.task
        if not name or (name in PREFERENCES and not task):
            raise UserError("the run has no task of its own whose answers could be checked; name one by --task")
        chosen = task_of(name)
        settings = self.settings if isinstance(self.settings, Sampling) else Sampling()
        generator = Generator(self.policy, self.tokenizer, replace(settings, top_p=1.0, top_k=0), chosen, seed)
        count = prompts or self.settings.eval_episodes
        greedy = accuracy(generator, chosen, count)
        drawn = accuracy(generator, chosen, count, samples, self.policy.temperature) if samples else [[]] * count
        return Accuracy(name, np.array([one for (one,) in greedy]), np.array(drawn, dtype=float))

    def _room(self, prompt: int) -> int:
        context = getattr(self.policy.model.config, "max_position_embeddings", None)
        return LONGEST if context is None else max(1, min(LONGEST, context - prompt))

    @torch.no_grad()
    def _take(self, state: dict[str, Any]) -> None:
        """The weights of a checkpoint, which names the trained ones as the policy does; a critic's are left."""
        own = dict(self.policy.named_parameters())
        for name, value in state.items():
            if name in own:
                own[name].copy_(torch.as_tensor(value).view_as(own[name]))


def check(name: str, settings: Language) -> None:
    """Looks for the model, the task and the device of a run, and loads nothing.

    Raises:
        UserError: no such folder, an unknown task, neither data nor task, a device that there is not.
    """
    check_name(name)
    device_of(settings.device)
    if not settings.data and not settings.task:
        raise UserError("neither data nor task is given; name a file by --data, or a source of prompts by --task")
    asked = settings.task if settings.task not in PREFERENCES else ""
    if asked:
        task_of(asked)
    elif settings.eval_every:
        raise UserError(
            f"eval_every is {settings.eval_every}, and no task is given whose held-out prompts could be asked; name one"
            " by --task"
        )


def check_name(name: str) -> None:
    """Refuses the name of a model that is none for sure; what only the hub can know is let through.

    Raises:
        UserError: no such folder, or a misspelt packaged name.
    """
    try:
        known = name == "tiny-random" or not isinstance(resolve_name(name), str)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        told = getattr(error, "strerror", None) or error
        raise UserError(f"{name[:80]!r} can be no model's name or folder: {told}") from error
    if known:
        return
    if close := difflib.get_close_matches(name, PACKAGED, n=1, cutoff=0.8):
        raise UserError(f"{name}: there is no such model; did you mean {close[0]}?")


def _saved_model(folder: Path, base: str, settings: Language) -> Any:
    trust = settings.trust_remote_code
    if (folder / "config.json").exists():
        return load_model(str(folder), dtype=settings.dtype, trust_remote_code=trust)
    from peft import PeftModel

    model = load_model(base, dtype=settings.dtype, trust_remote_code=trust)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by names that are on their way out
        return PeftModel.from_pretrained(model, str(folder))
