"""What travels between prompts, samplers and rewards, and the protocols of a sampler and of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Shown: TypeAlias = str | list[dict[str, Any]]
"""A prompt or a completion as data and rewards write it: plain text, or chat messages."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model sees it, as the reward sees it, and what its example knows besides.

    Attributes:
        ids: rendered token ids; of a chat, up to where the answer begins.
        shown: as the data have it.
        columns: the example's other columns (`answer`, …), handed to rewards by name.
        index: of the prompt among all that a run takes: with the sample's index it names the sample's random numbers.
    """

    ids: tuple[int, ...]
    shown: Shown
    columns: Mapping[str, Any]
    index: int


@dataclass(frozen=True)
class Completion:
    """What was sampled.

    Attributes:
        ids: the sampled tokens, with the stop token where one was sampled.
        logps: of each, in nats, under the distribution that it was drawn from.
        finish_reason: "stop" or "length"; "error" where sampling failed.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    finish_reason: str


class Sampler(Protocol):
    """Whatever draws completions."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop_ids: Sequence[int] = (),
        stop: Sequence[str] = (),
        seed: int = 0,
        step: int = 0,
        indices: Sequence[int] | None = None,
    ) -> list[Completion]:
        """`n` completions for every prompt, prompt after prompt.

        The random numbers of a completion are a function of (seed, step, prompt index, sample index) alone: neither its
        neighbours nor the batch change them.

        Args:
            prompts: token ids, at least one each.
            n: completions a prompt, ≥ 1.
            max_tokens: the longest completion, ≥ 1.
            temperature: ≥ 0; 0 takes the most probable token.
            top_p: in (0, 1], the probability mass that is kept.
            top_k: ≥ 0, how many tokens are kept; 0 for all.
            stop_ids: tokens that end a completion, which they belong to.
            stop: strings that end a completion, at the token in which they become complete.
            seed, step: of the random numbers, ≥ 0.
            indices: of the prompts in their data; None for 0, 1, ….
        """
        ...


class Task(Protocol):
    """A source of examples without end, and what a right answer is worth."""

    name: str
    max_completion_length: int

    def example(self, index: int, held_out: bool = False) -> dict[str, Any]:
        """Example `index` ≥ 0: "prompt", "answer" and what else it has. The held-out ones are others."""
        ...

    def reward(self, prompts: Sequence[Shown], completions: Sequence[Shown], **columns: Any) -> Sequence[float | None]:
        """One number a completion: 1 right, 0 wrong; None where it does not apply."""
        ...
