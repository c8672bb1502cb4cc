"""The command for small environments whose transitions are known: parse, call, print."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advantage.cli_options import Answer, number, whole
from advantage.errors import UserError
from advantage.settings import parse_pairs

if TYPE_CHECKING:
    from advantage.solving import Solved

LISTED = 10_000  # states up to which tables are in the JSON


def solve(options: argparse.Namespace) -> Answer:
    """Solve a small environment by planning or tabular learning, beside what is exact."""
    from advantage import solving
    from advantage.views import board

    out = None if options.out is None else board.checked(Path(options.out))
    video = None if options.video is None else board.checked_video(Path(options.video))
    gamma = None if options.gamma is None else number("--gamma", options.gamma)
    seed = whole("--seed", options.seed)
    env_args, given = parse_pairs(options.env, "--env"), parse_pairs(options.set, "--set")
    try:
        solved = solving.solve(options.env_name, options.method, gamma, env_args, given, seed)
    except MemoryError:
        what = f"{options.env_name} by {options.method}"
        raise UserError(f"{what} does not fit in memory; ask for fewer states, episodes or steps") from None
    lines = [board.render(solved)]
    if out is not None:
        board.write_png(solved, out)
        lines.append(f"picture: {out}")
    if video is not None:
        board.write_video(solved, video, seed)
        lines.append(f"video: {video}")
    return _as_json(solved, out, video), "\n".join(lines)


def _as_json(solved: Solved, out: Path | None, video: Path | None) -> dict[str, Any]:
    mdp, found = solved.problem.mdp, solved.found
    about = {"env": solved.problem.name, "method": solved.method, "gamma": mdp.gamma, "states": mdp.num_states}
    tables = {} if mdp.num_states > LISTED else {"values": found.values, "q": found.q, "policy": found.policy}
    curve = [dict(zip(solved.curve, row, strict=True)) for row in zip(*solved.curve.values(), strict=True)]
    return {
        **about,
        "actions": mdp.num_actions,
        **solved.facts,
        **tables,
        "curve": curve,
        "picture": out,
        "video": video,
    }
