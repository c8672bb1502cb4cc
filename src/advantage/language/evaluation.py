"""Held-out accuracy of a language policy: on a task's prompts that no training sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from advantage.language.generate import Generator, accuracy
from advantage.language.settings import Language, Sampling
from advantage.language.types import Task
from advantage.runs.live import LiveRun

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from advantage.language.policy import LanguagePolicy


def hold_out(
    policy: LanguagePolicy,
    tokenizer: PreTrainedTokenizerBase,
    task: Task | None,
    settings: Language,
    run: LiveRun,
) -> None:
    """Has the run evaluate greedy answers to held-out prompts, where it has a task and asks for it."""
    if task is None or not settings.eval_every:
        return
    asked = settings if isinstance(settings, Sampling) else Sampling()
    generator = Generator(policy, tokenizer, asked, task, run.seed("evaluation"))

    def evaluate() -> dict[str, float]:
        found = [one for (one,) in accuracy(generator, task, settings.eval_episodes)]
        return {"eval/mean_reward": sum(found) / len(found)}

    run.held_out(evaluate)


def wilson(successes: float, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Interval of a share at 95 % (z for others).

    Source: Wilson 1927, equation 5 solved for p.

    >>> [round(bound, 4) for bound in wilson(5, 10)]
    [0.2366, 0.7634]
    """
    if trials < 1:
        raise ValueError(f"trials is {trials}; an interval needs at least one")
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(right: Sequence[int], samples: int, k: int) -> float:
    """The chance that one of k samples is right, without bias, from `right` of `samples` for each prompt.

        mean over prompts of 1 − C(n − c, k) / C(n, k)

    Raises:
        ValueError: k is not in 1 … samples.

    Source: Chen et al. 2021, equation 1.

    >>> pass_at_k([1, 0], samples=2, k=1)
    0.25
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}; it must lie in 1 … {samples}")
    missed = [math.comb(samples - c, k) / math.comb(samples, k) for c in right]
    return 1.0 - sum(missed) / len(missed)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Two-sided exact p-value that two policies answer the same prompts equally well.

    Under that hypothesis a prompt that one alone answers is as likely either's: a binomial of share ½.

    Source: McNemar 1947, in its exact form.

    >>> mcnemar([False] * 8, [True] * 8)
    0.0078125
    """
    won = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    n, least = won + lost, min(won, lost)
    tail: float = sum(math.comb(n, i) for i in range(least + 1)) / 2**n
    return min(1.0, 2.0 * tail)
