"""Preference pairs made: two completions of a prompt, the better one chosen by a person or by a reward."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias

from advantage.errors import UserError
from advantage.language.agent import LanguageAgent
from advantage.language.generate import Generator, Samples, longest_completion, plain, prompts_of
from advantage.language.rewards import Rewards, resolve_rewards
from advantage.language.scoring import scorer
from advantage.language.settings import Sampling
from advantage.language.source import FromData, source_of
from advantage.language.types import Task

TOGETHER = 16  # prompts completed at once where no person waits for the first
OF_A_TASK = 100  # prompts of a task, which has no end, where nobody says how many
CHOICES = "better: a, b, skip or quit? "
MAX_LENGTH = 1_000_000  # tokens of a prompt, where the model does not say what it bears

Judge: TypeAlias = Callable[[Samples], Iterator[str]]
"""For each prompt of a draw "a" or "b", the better one, "tie" or "skip"; ends early where the person had enough."""


@dataclass(frozen=True)
class Labelled:
    """What became of the prompts: pairs written, completions that are alike or equally good, those not judged."""

    out: Path
    pairs: int
    ties: int
    skipped: int


def label(
    agent: LanguageAgent,
    out: str | Path,
    by: str = "person",
    *,
    data: str = "",
    task: str = "",
    pairs: int | None = None,
    max_tokens: int = 0,
    seed: int = 0,
    ask: Callable[[str], str] = input,
) -> Labelled:
    """Two completions a prompt at temperature 1, ranked, written in TRL's columns `prompt`, `chosen`, `rejected`.

    Args:
        agent: whose completions they are.
        out: the file, .jsonl; a line a pair, written as soon as it is ranked.
        by: "person", "task", the folder or the run of a reward model, or a reward as `resolve_rewards` knows it.
        data, task: where the prompts come from.
        pairs: prompts to complete; None for all of the data once, or 100 of a task.
        max_tokens: at which a completion is cut; 0 for what the task needs, else 256.
        seed: of the order of the prompts and of the completions, ≥ 0.
        ask: shows a text and returns the person's line.

    Raises:
        UserError: `out` exists or cannot be written; no prompts; a judge that there is not.
    """
    path = Path(out)
    _check_out(path)
    config = agent.policy.model.config
    context = getattr(config, "max_position_embeddings", None) or MAX_LENGTH

    def room(task: Task | None) -> int:
        return int(context - longest_completion(max_tokens, task, config))

    source, chosen = source_of(data, task, "prompt", agent.tokenizer, room, seed)
    count = pairs or (len(source.examples) if isinstance(source, FromData) else OF_A_TASK)
    size = 1 if by == "person" else TOGETHER
    judge = by_person(ask, count) if by == "person" else by_reward(_rewards(by, chosen))
    generator = Generator(agent.policy, agent.tokenizer, Sampling(max_completion_length=max_tokens), chosen, seed)
    tally: Counter[str] = Counter()
    with _new(path) as file:
        for step, first in enumerate(range(0, count, size)):
            prompts = prompts_of(source, min(size, count - first), agent.tokenizer)
            samples = generator.draw(prompts, 2, step, temperature=1.0)
            verdicts = 0
            for verdicts, said in enumerate(judge(samples), 1):
                pair = samples.texts[2 * verdicts - 2 : 2 * verdicts]
                verdict = said if all(text.strip() for text in pair) else "skip"  # nothing learns from an empty text
                tally[verdict] += 1
                if verdict in ("a", "b"):
                    file.write(_line(samples, verdicts - 1, verdict))
                    file.flush()
            if verdicts < len(prompts):
                break
    return Labelled(path, tally["a"] + tally["b"], tally["tie"], tally["skip"])


def by_reward(rewards: Rewards) -> Judge:
    """The completion of the greater reward; a pair of which one has none is skipped."""

    def judge(samples: Samples) -> Iterator[str]:
        judged = samples.judged(rewards)
        for (a, b), valid in zip(judged.rewards.view(-1, 2).tolist(), judged.valid.view(-1, 2), strict=True):
            yield "skip" if not valid.all() else "tie" if a == b else "a" if a > b else "b"

    return judge


def by_person(ask: Callable[[str], str], count: int) -> Judge:
    """The completion that the person at the terminal names; alike ones are not shown."""
    shown = 0

    def judge(samples: Samples) -> Iterator[str]:
        nonlocal shown
        for group, prompt in enumerate(samples.prompts):
            shown += 1
            a, b = samples.texts[2 * group : 2 * group + 2]
            if a == b:
                yield "tie"
                continue
            pair = f"\n{shown} of {count}\n{plain(prompt.shown)}\n\n[a] {a}\n\n[b] {b}\n\n"
            answer = _answer(ask, pair + CHOICES)
            if answer == "quit":
                return
            yield answer

    return judge


def _answer(ask: Callable[[str], str], question: str) -> str:
    words = {"a": "a", "b": "b", "s": "skip", "skip": "skip", "q": "quit", "quit": "quit"}
    while True:
        try:
            said = ask(question).strip().lower()
        except EOFError:
            return "quit"
        if said in words:
            return words[said]
        question = CHOICES


def _rewards(by: str, task: Task | None) -> Rewards:
    return resolve_rewards([f"reward_model:{by}" if os.path.isdir(by) else by], task, load_scorer=scorer)


def _line(samples: Samples, group: int, verdict: str) -> str:
    prompt = samples.prompts[group]
    texts = samples.texts[2 * group : 2 * group + 2]
    chosen, rejected = texts if verdict == "a" else texts[::-1]
    row = {"prompt": prompt.shown, "chosen": chosen, "rejected": rejected}
    if not isinstance(prompt.shown, str):
        row |= {name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _check_out(path: Path) -> None:
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: pairs are written as JSON Lines; give a name that ends in .jsonl")
    if os.path.lexists(path):
        raise UserError(f"{path} exists, and nothing is written over it; give another --out")


@contextlib.contextmanager
def _new(path: Path) -> Iterator[TextIO]:
    """The file, made anew; gone again where no line was written into it."""
    try:
        file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - closed below, whatever comes
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; give another --out") from error
    try:
        with file:
            yield file
    finally:
        if path.stat().st_size == 0:
            path.unlink()
