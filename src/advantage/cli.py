"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advantage import cli_bench, cli_experiments, cli_language, cli_options, cli_tabular
from advantage.cli_options import Answer, Command, whole
from advantage.errors import RunFailed, UserError, nearest, typed
from advantage.settings import parse_pairs, plain_value

CODES: dict[type[BaseException], int] = {UserError: 2, RunFailed: 1, KeyboardInterrupt: 130}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _run(arguments)
        except tuple(CODES) as error:
            return _complain(error, "--json" in arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["train"] and {"-h", "--help"} & set(arguments) and (name := _algorithm_in(arguments[1:])):
        print(_help_of_algorithm(name))
        return 0
    parser = cli_options.parser(COMMANDS)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise UserError(f"there is no command {arguments[0]!r}; {nearest(arguments[0], COMMANDS)}")
    options = parser.parse_args(arguments)
    if not hasattr(options, "command"):
        parser.print_help()
        return 0
    found, text = options.command(options)
    if text:
        cli_options.say(text)
    if options.json:
        _print_json(found)
    return 1 if isinstance(found, dict) and found.get("failed") else 0


def _complain(error: BaseException, json: bool) -> int:
    line = " ".join(str(error).split()) or "interrupted"
    code = next(code for kind, code in CODES.items() if isinstance(error, kind))
    print(f"advantage: {line}", file=sys.stderr)
    if json:
        _print_json({"error": line, "exit": code})
    return code


def _print_json(found: Any) -> None:
    from advantage.runs.encode import dumps

    print(dumps(found))


def algorithms(options: argparse.Namespace) -> Answer:
    """List the algorithms."""
    from advantage.algorithms import ALGORITHMS

    if options.stages:
        return cli_language.stages()
    rows = [{"name": name, "world": entry.world, "summary": entry.summary} for name, entry in ALGORITHMS.items()]
    return {"algorithms": rows}, "\n".join(f"{row['name']:<17}{row['world']:<10}{row['summary']}" for row in rows)


def train(options: argparse.Namespace) -> Answer:
    """Train on an environment, or train a language model."""
    from advantage.algorithms import find

    find(options.algorithm)
    from advantage import api, planning

    given: dict[str, Any] = parse_pairs(options.set, "--set")
    for name, value in cli_language.settings_of_flags(options).items():
        if name in given:
            raise UserError(f"{name} is given twice, by its flag and by --set; give it once")
        given[name] = value
    if options.env:
        given["env_args"] = parse_pairs(options.env, "--env")
    for name in ("steps", "eval_every", "checkpoint_every"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    if options.behaviour is not None:
        if options.algorithm != "off_policy_pg":
            raise UserError(
                f"--behaviour is for off_policy_pg, which learns from a log; {options.algorithm} acts itself"
            )
        given["behaviour"] = options.behaviour
    seed = plain_value(options.seed)
    if options.dry_run:
        planned = planning.plan(options.algorithm, options.target, seed, given, options.config)
        planning.check_target(planned)
        head = {"algorithm": planned.algorithm, "target": planned.target, "seed": planned.seed}
        return {**head, "settings": vars(planned.settings)}, planned.toml()
    command = " ".join(["advantage", *sys.argv[1:]]).encode("utf-8", "backslashreplace").decode()
    run = api.train(
        options.algorithm, options.target, seed=seed, run_dir=options.run_dir, quiet=options.quiet,
        config=options.config, command=command, **given,
    )  # fmt: skip
    return _finished(run)


def resume(options: argparse.Namespace) -> Answer:
    """Continue a run exactly where its last checkpoint stands."""
    from advantage import api

    steps = None if options.steps is None else whole("--steps", options.steps, 1)
    before = api.load(options.run).reader.status().get("steps") or 0
    run = api.resume(options.run, steps=steps, quiet=options.quiet)
    if run.reader.status().get("steps") == before:
        return _finished(run)[0], f"{run.path} is finished ({before:,} steps); --steps N extends it"
    return _finished(run)


def evaluate(options: argparse.Namespace) -> Answer:
    """Play whole episodes with a run's policy, deterministically; or answer a task's held-out prompts, greedily."""
    from advantage import api

    which = plain_value(options.checkpoint)
    if not isinstance(which, int) and which not in ("last", "best"):
        raise UserError(f"--checkpoint is {which!r}; it must be last, best, or the step of a checkpoint")
    if cli_language.is_model(options.run):
        return cli_language.evaluate(options, cli_language.agent_of(options.run))
    run = api.load(options.run)
    if run.world == "language":
        return cli_language.evaluate(options, run.agent(which))
    for name in ("task", "samples", "compare"):
        if getattr(options, name):
            raise UserError(f"--{name} is for language models; {run.path} is a run in an environment")
    seed = whole("--seed", options.seed)
    episodes = 100 if options.episodes is None else whole("--episodes", options.episodes)
    if options.video:  # first: what forbids it is then known before all the episodes
        from advantage.control.video import record

        record(run.agent(which), Path(options.video), seed)
    score = run.evaluate(episodes, seed, which)
    lengths_mean = float(score.lengths.mean())
    found = {"mean": score.mean, "std": score.std, "episodes": len(score.returns), "lengths_mean": lengths_mean}
    text = f"return {score.mean:.2f} ± {score.std:.2f} over {len(score.returns)} episodes of {lengths_mean:.1f} steps"
    if options.video:
        text += f"\nvideo: {options.video}"
    return found, text


def runs(options: argparse.Namespace) -> Answer:
    """List the runs in a folder."""
    folder = Path(options.folder)
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such folder")
    rows = [_listed(path.parent) for path in sorted(folder.glob("*/config.toml"))]
    lines = [
        f"{row['run']:<44}{row['state']:<12}{row['steps'] or 0:>12,}  {row.get('error') or _score(row)}" for row in rows
    ]
    head = f"{'run':<44}{'state':<12}{'steps':>12}  return"
    return {"runs": rows}, "\n".join([head, *lines]) if rows else f"{folder}: no runs"


def compare(options: argparse.Namespace) -> Answer:
    """Draw learning curves of several runs, with bands over seeds, and say who is better and how sure that is."""
    from advantage.views import compare as comparison

    found = comparison.compare(options.runs, options.out, options.paired)
    return comparison.as_json(found), comparison.render(found)


def report(options: argparse.Namespace) -> Answer:
    """Write report.html into a run."""
    from advantage.views.report import write_report

    path = write_report(options.run)
    return {"report": path}, str(path)


def export(options: argparse.Namespace) -> Answer:
    """Write a run's metrics for other tools."""
    from advantage.views.export import export as write

    path = write(options.run, options.to, options.out)
    return {"path": path}, str(path)


def doctor(options: argparse.Namespace) -> Answer:
    """Say what the tripwires saw in a run, what it means and what to try."""
    from advantage.views import doctor as practice

    diagnosis = practice.diagnose(options.run)
    return practice.as_json(diagnosis), practice.render(diagnosis)


def explain(options: argparse.Namespace) -> Answer:
    """Print the ladder of one decision, from its reward to its share in the gradient."""
    from advantage.views import explain as explanation

    update = None if options.update is None else whole("--update", options.update)
    step = None if options.step is None else whole("--step", options.step)
    ladder = explanation.explain(options.run, update, whole("--stream", options.stream), step)
    return [vars(rung) for rung in ladder.rungs], explanation.render(ladder)


COMMANDS: dict[str, Command] = {
    "algorithms": algorithms,
    "train": train,
    "resume": resume,
    "eval": evaluate,
    "runs": runs,
    "compare": compare,
    "report": report,
    "export": export,
    "doctor": doctor,
    "explain": explain,
    "solve": cli_tabular.solve,
    "ladder": cli_experiments.ladder,
    "sweep": cli_experiments.sweep,
    "bench": cli_bench.bench,
    "models": cli_language.models,
    "generate": cli_language.generate,
    "data": cli_language.data,
    "label": cli_language.label,
}


def _algorithm_in(words: Sequence[str]) -> str | None:
    """The algorithm whose help is asked for: a word that names one, else the word in its place; None where neither."""
    from advantage.algorithms import ALGORITHMS

    placed = words[0] if not words[0].startswith("-") else None
    return next((word for word in words if word in ALGORITHMS), placed)


def _help_of_algorithm(name: str) -> str:
    from advantage.algorithms import find, module
    from advantage.settings import describe

    entry = find(name)
    rows = describe(module(name).Settings)
    width = max(len(row[0]) for row in rows) + 2
    lines = [f"  {setting:<{width}}{default:<14}{meaning}" for setting, default, meaning in rows]
    return "\n".join([f"{name}: {entry.summary}", "", "settings (--set NAME=VALUE), defaults, meaning:", *lines])


def _finished(run: Any) -> Answer:
    path = typed(run.path)
    hints = f"next: advantage eval {path} · advantage report {path} · advantage doctor {path}"
    found, lines = _summary(run), [str(run.path), hints]
    if len(chain := run.chain()) > 1:
        found |= {"chain": {name: _summary(part) for name, part in chain.items()}, "evaluation": run.evaluation()}
        lines[:1] = cli_language.chain(found)
    return found, "\n".join(lines)


def _summary(run: Any) -> dict[str, Any]:
    return _row(run.reader)


def _listed(path: Path) -> dict[str, Any]:
    """A run's row; a broken one must not take the others with it."""
    from advantage.runs.reader import RunReader

    try:
        return _row(RunReader(path))
    except UserError as error:
        return {"run": str(path), "state": "unreadable", "steps": None, "return": None, "error": str(error)}


def _row(reader: Any) -> dict[str, Any]:
    from advantage.views.columns import kind_of_run

    status, metrics = reader.status(), reader.metrics()
    measure = kind_of_run(reader, metrics).score(metrics)
    values = metrics.get(measure.name, ())
    last = float(values[-1]) if len(values) else None
    row = {"run": str(reader.path), "state": status["state"], "steps": status.get("steps")}
    earned = last if measure.word in ("return", "reward") else None
    return {**row, "return": earned, "measure": measure.word, "score": last}


def _score(row: dict[str, Any]) -> str:
    """The number by which a run is judged; the column is headed "return", so that another says what it is."""
    if row["score"] is None:
        return "–"
    return f"{row['score']:.2f}" if row["measure"] == "return" else f"{row['score']:.3g} {row['measure']}"


if __name__ == "__main__":
    sys.exit(main())
