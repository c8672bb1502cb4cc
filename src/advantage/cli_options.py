"""What each command takes: its arguments, their names and their help."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

from advantage.errors import UserError
from advantage.settings import plain_value

Answer: TypeAlias = tuple[dict[str, Any] | list[dict[str, Any]], str]
"""What a command found: for `--json`, and as text for a person."""

Command: TypeAlias = Callable[[argparse.Namespace], Answer]


class Parser(argparse.ArgumentParser):
    """Mistakes as one line on standard error and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (`{self.prog} --help` lists what there is)")


def whole(option: str, text: str, low: int = 0) -> int:
    """The whole number that an option was given.

    Raises:
        UserError: it is none, or below `low`.
    """
    value = plain_value(text)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{option} is {text!r}; it must be a whole number from {low}")
    return value


def number(option: str, text: str) -> float:
    """The number that an option was given.

    Raises:
        UserError: it is none.
    """
    value = plain_value(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{option} is {text!r}; it must be a number")
    return float(value)


def say(text: str, end: str = "\n") -> None:
    """Prints what may hold what the terminal's encoding cannot say, and what no terminal should obey.

    >>> say("two" + chr(27) + "[2J lines")
    two?[2J lines
    """
    encoding = sys.stdout.encoding or "utf-8"
    safe = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", text)
    print(safe.encode(encoding, "backslashreplace").decode(encoding), end=end, flush=True)


def parser(commands: Mapping[str, Command]) -> Parser:
    """The command line: a sub-parser a command, whose `command` is the function that answers it."""
    top = Parser(prog="advantage", description="Policy optimisation from a four-state MDP to a language model.")
    below = top.add_subparsers(metavar="COMMAND")
    options = {}
    for name, command in commands.items():
        options[name] = below.add_parser(name, help=command.__doc__, description=command.__doc__)
        options[name].set_defaults(command=command)
        options[name].add_argument("--json", action="store_true", help="last line of output is one JSON object")
    for name in ("resume", "eval", "report", "export", "doctor", "explain"):
        options[name].add_argument("run", metavar="RUN", help="a run directory")
    options["algorithms"].add_argument(
        "--stages", action="store_true", help="what each variant of grpo exchanges, as the code has it"
    )
    _train(options["train"])
    _eval(options["eval"])
    _views(options)
    _solve(options["solve"])
    _experiments(options)
    _bench(options["bench"])
    _models(options)
    _generate(options["generate"])
    _label(options["label"])
    return top


def _train(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "`advantage train ALGORITHM --help` lists the algorithm's settings with units and defaults."
    parser.add_argument("algorithm", metavar="ALGORITHM", help="`advantage algorithms` lists them")
    parser.add_argument(
        "target", metavar="TARGET",
        help="a Gymnasium id (module:Env-v0 imports the module first), or a language model: a folder, a name, or tiny",
    )  # fmt: skip
    parser.add_argument("--seed", metavar="N", help="of every random stream (the config file's, else 0)")
    parser.add_argument("--run-dir", metavar="DIR", help="absent or empty (runs/<algorithm>-<target>-s<seed>-<id>)")
    parser.add_argument("--steps", metavar="N", help="budget: environment steps in control, updates in language")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting; repeatable")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="an environment's argument")
    parser.add_argument(
        "--behaviour", metavar="WHO", help="off_policy_pg: whose log is learnt from, uniform or a run's directory"
    )
    parser.add_argument("--config", metavar="FILE", help="settings in TOML, as --dry-run prints them; --set overrides")
    parser.add_argument("--eval-every", metavar="N", help="steps between held-out evaluations; keeps the best policy")
    parser.add_argument(
        "--checkpoint-every", metavar="SECONDS", help="seconds between checkpoints; 0 every update (10)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and start nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    language = parser.add_argument_group("language models")
    _data(language)
    language.add_argument(
        "--reward", action="append", metavar="REWARD",
        help="module:function or a built-in's name, name*0.5 weights it; repeatable (the task's own)",
    )  # fmt: skip
    language.add_argument("--gold", metavar="REWARD", help="a reward that is watched and never trained on")
    language.add_argument(
        "--sft-data", metavar="FILE", help="rlhf: answers to train on first, in RUN/sft (--set sft.NAME=VALUE)"
    )
    language.add_argument(
        "--pairs", metavar="FILE",
        help="rlhf: pairs to train its reward model from, in RUN/reward_model (--set reward_model.NAME=VALUE)",
    )  # fmt: skip
    _trust(language)


def _eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", metavar="N", help="whole episodes (100), or held-out prompts (eval_episodes)")
    parser.add_argument("--seed", default="1", metavar="N", help="of the environments, or of the samples (1)")
    parser.add_argument("--checkpoint", default="last", metavar="WHICH", help="last, best, or a step (last)")
    parser.add_argument("--video", metavar="FILE", help="one episode as .gif or .webp")
    language = parser.add_argument_group("language models")
    language.add_argument("--task", metavar="NAME", help="whose held-out prompts are asked (the run's own)")
    language.add_argument("--samples", metavar="K", help="K samples a prompt beside the greedy answer, for pass@K")
    language.add_argument("--compare", metavar="RUN", help="another run or a model on the same prompts, paired")


def _views(options: Mapping[str, argparse.ArgumentParser]) -> None:
    options["resume"].add_argument("--steps", metavar="N", help="a new total of steps, also for a finished run")
    options["resume"].add_argument("--quiet", action="store_true", help="no progress")
    options["runs"].add_argument("folder", nargs="?", default="runs", metavar="DIR", help="where to look (runs)")
    options["compare"].add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    options["compare"].add_argument("--out", metavar="FILE", help="a .png or a self-contained .html")
    options["compare"].add_argument("--paired", action="store_true", help="differences between runs of equal seeds")
    options["export"].add_argument("--to", required=True, metavar="FORMAT", help="tensorboard or csv")
    options["export"].add_argument("--out", metavar="DIR", help="where to (a folder in the run)")
    options["explain"].add_argument("--update", metavar="N", help="which update (the one whose rollout is kept)")
    options["explain"].add_argument(
        "--stream", default="0", metavar="K", help="environment, or completion of the rollout, from 0"
    )
    options["explain"].add_argument(
        "--step", metavar="T", help="time step in the rollout, or token, from 0; else the first decision"
    )


def _solve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("env_name", metavar="ENV", help="gridworld, or a Gymnasium id whose environment has a table P")
    parser.add_argument("--method", required=True, metavar="NAME", help="value_iteration, q_learning, …")
    parser.add_argument("--gamma", metavar="G", help="discount in [0, 1] (0.99; of the grid world 0.9)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="an environment's argument")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method")
    parser.add_argument("--seed", default="0", metavar="N", help="of the methods that sample (0)")
    parser.add_argument("--out", metavar="FILE", help="values, arrows and curves as .png")
    parser.add_argument("--video", metavar="FILE", help="one episode of the policy as .gif or .webp")


def _experiments(options: Mapping[str, argparse.ArgumentParser]) -> None:
    ladder = options["ladder"]
    ladder.add_argument("environment", metavar="ENV", help="a Gymnasium id")
    ladder.add_argument(
        "--story", default="five-fixes", metavar="NAME", help="five-fixes (the default), three-variants, five-notebooks"
    )
    ladder.add_argument("--steps", metavar="N", help="budget of a run in environment steps (the environment's own)")
    ladder.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="an environment's argument")
    options["sweep"].add_argument("file", metavar="FILE.toml", help="algorithm, target, [settings], [grid] or [[runs]]")
    for name, seeds in (("ladder", "5"), ("sweep", None)):
        told = f"0 … N − 1 of each ({seeds or 'as the file says, else 3'})"
        options[name].add_argument("--seeds", default=seeds, metavar="N", help=told)
        options[name].add_argument("--workers", metavar="N", help="processes at once (one a processor)")
        options[name].add_argument("--out", metavar="DIR", help=f"its folder, new or one to go on in (runs/{name}-…)")
        options[name].add_argument("--quiet", action="store_true", help="no progress")


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("world", choices=("control", "language"), help="beside Stable-Baselines3, or beside TRL")
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="ppo, a2c, …; sampling, grpo, …; all where none is named"
    )
    parser.add_argument(
        "--pairs", default="3", metavar="N", help="turns of ours and theirs of which speeds are medians (3)"
    )
    parser.add_argument("--seeds", metavar="N", help="runs of each side whose returns are compared (5)")
    parser.add_argument("--steps", metavar="N", help="budget of such a run (the tuned one)")
    parser.add_argument("--workers", metavar="N", help="such runs at once (one a processor)")
    parser.add_argument("--out", metavar="DIR", help="where they are kept; what is finished is skipped (runs/bench)")


def _models(options: Mapping[str, argparse.ArgumentParser]) -> None:
    options["models"].add_argument("action", choices=("fetch",), help="download into the cache, checked and converted")
    options["models"].add_argument("name", metavar="NAME", help="smollm2-135m, or the data movie-snippets")
    options["data"].add_argument(
        "action", choices=("show", "tasks"), help="print a file's examples as the model will see them; list the tasks"
    )
    options["data"].add_argument("file", nargs="?", metavar="FILE", help="JSONL, Parquet, or a name of `datasets`")
    options["data"].add_argument("--model", metavar="M", help="whose tokenizer and chat template")
    options["data"].add_argument("--rows", default="1", metavar="N", help="how many examples (1)")
    _trust(options["data"])


def _generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder, a name, or a run directory")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="a user's message where the model has a chat")
    parser.add_argument("--plain", action="store_true", help="the prompt as it is, without a chat around it")
    parser.add_argument("--temperature", default="1", metavar="T", help="0 takes the likeliest token (1)")
    parser.add_argument("--top-p", default="1", metavar="P", help="probability mass that is kept (1)")
    parser.add_argument("--top-k", default="0", metavar="K", help="tokens that are kept, 0 for all (0)")
    parser.add_argument("--max-tokens", metavar="N", help="at which the completion is cut (256, or what fits)")
    parser.add_argument("--seed", default="0", metavar="N", help="of the random numbers (0)")
    _trust(parser)


def _label(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder, a name, or a run directory")
    _data(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the pairs, .jsonl; it must not exist")
    parser.add_argument(
        "--by", default="person", metavar="WHO",
        help="person (at this terminal), task, a reward's name, module:function, a reward model's run or folder",
    )  # fmt: skip
    parser.add_argument("--pairs", metavar="N", help="prompts to complete twice (all of the data, 100 of a task)")
    parser.add_argument("--max-tokens", metavar="N", help="at which a completion is cut (what the task needs)")
    parser.add_argument("--seed", default="0", metavar="N", help="of the order and the completions (0)")
    _trust(parser)


def _data(parser: Any) -> None:
    parser.add_argument("--data", metavar="FILE", help="JSONL, Parquet, or a name of `datasets`")
    parser.add_argument("--task", metavar="NAME", help="a source of prompts and answers")


def _trust(parser: Any) -> None:
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
