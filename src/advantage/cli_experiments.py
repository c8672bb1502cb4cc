"""The commands of many runs: sweeps over settings, and the ladder of algorithms."""

from __future__ import annotations

import argparse
import os

from advantage.cli_options import Answer, whole
from advantage.settings import parse_pairs, plain_value


def sweep(options: argparse.Namespace) -> Answer:
    """Train a grid or a list of settings over seeds, and compare them."""
    from advantage.experiments import sweep as sweeps
    from advantage.views.compare import as_json, render

    seeds = None if options.seeds is None else whole("--seeds", options.seeds, 1)
    found = sweeps.run(options.file, seeds, _workers(options), options.out, options.quiet)
    told = {} if found.comparison is None else as_json(found.comparison)
    lines = [] if found.comparison is None else [render(found.comparison)]
    lines += [f"failed: {name}: {error}" for name, error in found.failed.items()]
    return {**told, "out": found.out, **_failures(found.failed)}, "\n".join(lines)


def ladder(options: argparse.Namespace) -> Answer:
    """Climb from REINFORCE to PPO, a fix at a time, and say what each changed."""
    from advantage.experiments import ladder as ladders
    from advantage.experiments import telling
    from advantage.views.compare import aligned

    seeds = whole("--seeds", options.seeds, 1)
    steps = None if options.steps is None else whole("--steps", options.steps, 1)
    arguments = {name: plain_value(text) for name, text in parse_pairs(options.env, "--env").items()}
    workers = _workers(options)
    asked = ladders.prepare(options.environment, options.story, seeds, steps, arguments, options.out)
    climbed = ladders.climb(asked, workers, options.quiet)
    picture = telling.draw(climbed)
    parts = ["\n".join(aligned(table)) for table in telling.tables(climbed)]
    parts += ["\n\n".join(telling.sentences(climbed)), "\n".join(telling.notes(climbed))]
    ends = [f"failed: {name}: {error}" for name, error in climbed.failed.items()]
    parts.append("\n".join([*ends, *map(str, (*climbed.videos, picture))]))
    return {**telling.as_json(climbed), "picture": picture}, "\n\n".join(parts)


def _workers(options: argparse.Namespace) -> int:
    return os.cpu_count() or 1 if options.workers is None else whole("--workers", options.workers, 1)


def _failures(failed: dict[str, str]) -> dict[str, dict[str, str]]:
    """What makes the exit code 1, where there is any."""
    return {"failed": failed} if failed else {}
