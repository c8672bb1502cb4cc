"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from advantage.errors import RunFailed, UserError, nearest
from advantage.settings import parse_pairs, plain_value

Answer = tuple[dict[str, Any] | list[dict[str, Any]], str]
"""What a command found: for `--json`, and as text for a person."""

CODES: dict[type[BaseException], int] = {UserError: 2, RunFailed: 1, KeyboardInterrupt: 130}


class _Parser(argparse.ArgumentParser):
    """Mistakes as one line on standard error and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (`{self.prog} --help` lists what there is)")


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
    parser = _parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise UserError(f"there is no command {arguments[0]!r}; {nearest(arguments[0], COMMANDS)}")
    options = parser.parse_args(arguments)
    if not hasattr(options, "command"):
        parser.print_help()
        return 0
    found, text = options.command(options)
    if text:
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding))  # a path may hold what no encoding can say
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

    rows = [{"name": name, "world": entry.world, "summary": entry.summary} for name, entry in ALGORITHMS.items()]
    return {"algorithms": rows}, "\n".join(f"{row['name']:<8}{row['world']:<10}{row['summary']}" for row in rows)


def train(options: argparse.Namespace) -> Answer:
    """Train on an environment."""
    from advantage.algorithms import find

    find(options.algorithm)
    from advantage import api

    given: dict[str, Any] = parse_pairs(options.set, "--set")
    if options.env:
        given["env_args"] = parse_pairs(options.env, "--env")
    for name in ("steps", "eval_every", "checkpoint_every"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    seed = plain_value(options.seed)
    if options.dry_run:
        planned = api.plan(options.algorithm, options.target, seed, given, options.config)
        api.check_target(planned)
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

    steps = None if options.steps is None else _whole("--steps", options.steps)
    before = api.load(options.run).reader.status().get("steps") or 0
    run = api.resume(options.run, steps=steps, quiet=options.quiet)
    if run.reader.status().get("steps") == before:
        return _summary(run), f"{run.path} is finished ({before:,} steps); --steps N extends it"
    return _finished(run)


def evaluate(options: argparse.Namespace) -> Answer:
    """Play whole episodes with a run's policy, deterministically."""
    from advantage import api

    run = api.load(options.run)
    which = plain_value(options.checkpoint)
    if not isinstance(which, int) and which not in ("last", "best"):
        raise UserError(f"--checkpoint is {which!r}; it must be last, best, or the step of a checkpoint")
    seed, episodes = _whole("--seed", options.seed), _whole("--episodes", options.episodes)
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
        f"{row['run']:<44}{row['state']:<12}{row['steps'] or 0:>12,}  {row.get('error') or _number(row['return'])}"
        for row in rows
    ]
    head = f"{'run':<44}{'state':<12}{'steps':>12}  return"
    return {"runs": rows}, "\n".join([head, *lines]) if rows else f"{folder}: no runs"


def compare(options: argparse.Namespace) -> Answer:
    """Draw learning curves of several runs, with bands over seeds."""
    from advantage.views import compare as comparison

    found = comparison.compare(options.runs, options.out)
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

    update = None if options.update is None else _whole("--update", options.update)
    step = None if options.step is None else _whole("--step", options.step)
    ladder = explanation.explain(options.run, update, _whole("--stream", options.stream), step)
    return [vars(rung) for rung in ladder.rungs], explanation.render(ladder)


COMMANDS: dict[str, Callable[[argparse.Namespace], Answer]] = {
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
}


def _parser() -> _Parser:
    parser = _Parser(prog="advantage", description="Policy optimisation from a four-state MDP to a language model.")
    commands = parser.add_subparsers(metavar="COMMAND")
    options = {}
    for name, command in COMMANDS.items():
        options[name] = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        options[name].set_defaults(command=command)
        options[name].add_argument("--json", action="store_true", help="last line of output is one JSON object")
    for name in ("resume", "eval", "report", "export", "doctor", "explain"):
        options[name].add_argument("run", metavar="RUN", help="a run directory")
    _train_options(options["train"])
    options["resume"].add_argument("--steps", metavar="N", help="a new total of steps, also for a finished run")
    options["resume"].add_argument("--quiet", action="store_true", help="no progress")
    options["eval"].add_argument("--episodes", default="100", metavar="N", help="whole episodes (100)")
    options["eval"].add_argument("--seed", default="1", metavar="N", help="of the environments (1)")
    options["eval"].add_argument("--checkpoint", default="last", metavar="WHICH", help="last, best, or a step (last)")
    options["eval"].add_argument("--video", metavar="FILE", help="one episode as .gif or .webp")
    options["runs"].add_argument("folder", nargs="?", default="runs", metavar="DIR", help="where to look (runs)")
    options["compare"].add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    options["compare"].add_argument("--out", metavar="FILE", help="a .png or a self-contained .html")
    options["export"].add_argument("--to", required=True, metavar="FORMAT", help="tensorboard or csv")
    options["export"].add_argument("--out", metavar="DIR", help="where to (a folder in the run)")
    options["explain"].add_argument("--update", metavar="N", help="which update (the one whose rollout is kept)")
    options["explain"].add_argument("--stream", default="0", metavar="K", help="environment, from 0")
    options["explain"].add_argument(
        "--step", metavar="T", help="time step in the rollout, from 0; else the first decision"
    )
    return parser


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "`advantage train ALGORITHM --help` lists the algorithm's settings with units and defaults."
    parser.add_argument("algorithm", metavar="ALGORITHM", help="`advantage algorithms` lists them")
    parser.add_argument("target", metavar="TARGET", help="a Gymnasium id; module:Env-v0 imports the module first")
    parser.add_argument("--seed", metavar="N", help="of every random stream (the config file's, else 0)")
    parser.add_argument("--run-dir", metavar="DIR", help="absent or empty (runs/<algorithm>-<target>-s<seed>-<id>)")
    parser.add_argument("--steps", metavar="N", help="budget in environment steps")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting; repeatable")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="an environment's argument")
    parser.add_argument("--config", metavar="FILE", help="settings in TOML, as --dry-run prints them; --set overrides")
    parser.add_argument("--eval-every", metavar="N", help="steps between held-out evaluations; keeps the best policy")
    parser.add_argument(
        "--checkpoint-every", metavar="SECONDS", help="seconds between checkpoints; 0 every update (10)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and start nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress")


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


def _whole(option: str, text: str) -> int:
    value = plain_value(text)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{option} is {text!r}; it must be a whole number from 0")
    return value


def _finished(run: Any) -> Answer:
    hints = f"next: advantage eval {run.path} · advantage report {run.path} · advantage doctor {run.path}"
    return _summary(run), f"{run.path}\n{hints}"


def _summary(run: Any) -> dict[str, Any]:
    row = _row(run.reader)
    return {"run": row["run"], "state": row["state"], "steps": row["steps"], "return": row["return"]}


def _listed(path: Path) -> dict[str, Any]:
    """A run's row; a broken one must not take the others with it."""
    from advantage.runs.reader import RunReader

    try:
        return _row(RunReader(path))
    except UserError as error:
        return {"run": str(path), "state": "unreadable", "steps": None, "return": None, "error": str(error)}


def _row(reader: Any) -> dict[str, Any]:
    status, returns = reader.status(), reader.metrics().get("rollout/ep_rew_mean")
    last = float(returns[-1]) if returns is not None and len(returns) else None
    return {"run": str(reader.path), "state": status["state"], "steps": status.get("steps"), "return": last}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
