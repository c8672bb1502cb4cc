"""The command that measures beside peers: it calls the benchmarks of a source checkout and hands on what they print."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advantage.cli_options import Answer, say, whole
from advantage.errors import RunFailed, UserError, nearest
from advantage.runs.interrupt import Interrupted, Interrupts

PACKAGE = Path(__file__).resolve().parents[1]  # what a child process must import too
MARK = Path("benchmarks", "returns.py")


@dataclass(frozen=True)
class Bench:
    """What a world is measured beside, and of what there are measurements.

    Attributes:
        peers: modules and the packages that bring them.
        cases: by their names.
    """

    peers: dict[str, str]
    cases: tuple[str, ...]


BENCHES = {
    "control": Bench(
        {"stable_baselines3": "stable-baselines3", "sb3_contrib": "sb3-contrib"}, ("ppo", "a2c", "trpo", "dqn")
    ),
    "language": Bench(
        {"transformers": "transformers", "trl": "trl"},
        ("sampling", "sampling-apart", "grpo", "grpo-long", "dpo", "sft", "reward_model", "alone"),
    ),
}


def bench(options: argparse.Namespace) -> Answer:
    """Measure speed, memory and returns beside Stable-Baselines3 and sb3-contrib, or beside TRL."""
    asked = BENCHES[options.world]
    for name in options.cases:
        if name not in asked.cases:
            raise UserError(f"bench {options.world} has no {name!r}; {nearest(name, asked.cases)}")
    pairs = str(whole("--pairs", options.pairs, 1))
    returns = _of_returns(options)
    checkout = find_checkout()
    _check_peers(options.world, asked.peers, checkout)
    if options.world == "language":
        from advantage.language.fetching import verified_smollm2

        verified_smollm2()
        return {"tables": _tables([("language", *options.cases, "--pairs", pairs)], checkout)}, ""
    _try(("returns", *options.cases, *returns, "--dry-run"), checkout)
    out = _made(Path(options.out or "runs/bench"))
    speed = ("speed", "--pairs", pairs, *(["--cases", *options.cases] if options.cases else []))
    tables = _tables([speed, ("returns", *options.cases, *returns, "--out", str(out))], checkout)
    return {"tables": tables, "out": out}, ""


def find_checkout() -> Path:
    """The source checkout whose benchmarks are run: the one that this package lies in, else the current folder.

    Raises:
        UserError: neither is one.
    """
    for place in (PACKAGE.parent, Path.cwd()):
        if (place / MARK).is_file():
            return place
    raise UserError(
        f"bench needs a source checkout, {Path.cwd()} has no {MARK}; clone the repository and call it there"
    )


def _of_returns(options: argparse.Namespace) -> tuple[str, ...]:
    """The flags of the runs whose returns are measured.

    Raises:
        UserError: no whole number from 1, or a flag where nothing is trained to its end.
    """
    words: list[str] = []
    for name in ("seeds", "steps", "workers", "out"):
        value = getattr(options, name)
        if value is not None and options.world == "language":
            raise UserError(f"--{name} is for bench control; bench language trains nothing to its end")
        if value is not None and name != "out":
            words += [f"--{name}", str(whole(f"--{name}", value, 1))]
    return tuple(words)


def _check_peers(world: str, peers: dict[str, str], checkout: Path) -> None:
    missing = [package for module, package in peers.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"bench {world} needs {' and '.join(missing)}: pip install -e '{checkout}[dev]'")


def _made(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out}: {error}; give another folder") from error
    return out.resolve()


def _child(words: Sequence[str], checkout: Path) -> dict[str, Any]:
    """How a benchmark is called: in its checkout, with the package that this command is of."""
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "args": [sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:]],
        "cwd": checkout,
        "env": os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"},
        "stdin": subprocess.DEVNULL,
        "encoding": "utf-8",
    }


def _try(words: Sequence[str], checkout: Path) -> None:
    """Asks a benchmark whether it can do this, before minutes go into another one.

    Raises:
        UserError: it cannot.
    """
    tried = subprocess.run(**_child(words, checkout), capture_output=True, check=False)
    if tried.returncode:
        raise UserError((tried.stderr.strip().splitlines() or [f"ended with {tried.returncode}"])[-1])


def _tables(calls: Sequence[Sequence[str]], checkout: Path) -> list[dict[str, Any]]:
    """Runs benchmarks, prints their lines as they come, and gathers the tables in them."""
    tables: list[dict[str, Any]] = []
    for words in calls:
        say(f"$ python -m benchmarks.{' '.join(words)}")
        cells: list[list[str]] = []
        for line in [*_lines(words, checkout), ""]:
            if line.startswith("|"):
                cells.append([cell.strip() for cell in line.strip().strip("|").split("|")])
            elif cells:
                tables.append({"head": cells[0], "rows": cells[2:]})
                cells = []
        say("")
    return tables


def _lines(words: Sequence[str], checkout: Path) -> Iterator[str]:
    """What a benchmark prints, line by line, each said as it comes.

    Raises:
        RunFailed: it ended otherwise than well; what it said is on standard error.
        Interrupted: the user asked to stop; what the benchmark had begun has stopped too.
    """
    interrupts = Interrupts()
    interrupts.install()
    try:
        # A group of its own: Ctrl-C at the terminal reaches this process alone, which hands it on once.
        with subprocess.Popen(**_child(words, checkout), stdout=subprocess.PIPE, process_group=0) as child:
            try:
                yield from _said(child)
            except BaseException:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGTERM)
                raise
        if child.returncode:
            raise RunFailed(f"benchmarks.{words[0]} ended with {child.returncode}; what it said stands above")
    except KeyboardInterrupt as error:
        raise Interrupted("stopped; finished runs are kept, the same command goes on from them") from error
    finally:
        interrupts.remove()


def _said(child: subprocess.Popen[str]) -> Iterator[str]:
    assert child.stdout is not None
    for line in child.stdout:
        say(line.rstrip("\n"))
        yield line
    child.wait()
