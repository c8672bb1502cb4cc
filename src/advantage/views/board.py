"""A solved environment shown: values and arrows in the terminal and as PNG, curves beside the optimum, a clip."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advantage.control import video
from advantage.control.targets import one_line
from advantage.errors import UserError
from advantage.runs import durable
from advantage.runs.streams import Streams
from advantage.solving import DRAWN, LONGEST, RANDOM, Board, Problem, Solved, play
from advantage.views.picture import COLOURS, INK, LINE, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = 10  # of the table over time
WRITTEN = 150  # cells of a board that are written into its picture
MISSING = "does not exist: γ is 1 and the policy may never end"
WORDS = {
    "iterations": "iterations",
    "residual": "Bellman residual",
    "bound": "bound",
    "episodes": "episodes",
    "steps": "steps",
    "largest_error": "largest error",
    "rms_error": "root mean square error",
    "return": "discounted return",
    "optimal_return": "of the optimal policy",
}


def checked(out: Path) -> Path:
    """A picture's path.

    Raises:
        UserError: another suffix than .png, a directory that does not exist, or no matplotlib.
    """
    if out.suffix != ".png":
        raise UserError(f"{out}: a picture is .png, not {out.suffix or 'without a suffix'}")
    video.check_folder(out)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f'{out}: PNG needs matplotlib: pip install "advantage[plots]"')
    return out


def checked_video(path: Path) -> Path:
    """A video's path.

    Raises:
        UserError: another suffix, a directory that does not exist, or Pillow is missing.
    """
    video.check(path)
    return path


# --- in the terminal ---


def render(solved: Solved) -> str:
    """What was found, as text: numbers, the boards, the course of learning."""
    mdp = solved.problem.mdp
    size = f"{mdp.num_states:,} states, {mdp.num_actions} actions"
    head = f"{solved.problem.name} by {solved.method}, γ = {mdp.gamma:g}: {size}"
    parts = [head, "\n".join(_facts(solved))]
    if mdp.num_states <= DRAWN:
        parts += [_board(solved, board) for board in solved.problem.boards]
    if solved.clock == "episode":
        parts.append(_course(solved))
    return "\n\n".join(parts)


def _facts(solved: Solved) -> Iterable[str]:
    of_policy = f" ({RANDOM})" if _evaluates(solved) else ""
    what = {
        "bound": "of an error, at most" if _evaluates(solved) else "what the greedy policy loses at most, in any state",
        "largest_error": f"against {_reference(solved)}",
        "return": f"from the start{of_policy}",
        "return_in_time": f"undiscounted, in {solved.problem.time_limit} steps{of_policy}",
    }
    words = WORDS | {"return_in_time": "return in time", "optimal_return_in_time": "of the optimal policy"}
    what |= {name: MISSING for name, value in solved.facts.items() if value is None}
    for name, value in solved.facts.items():
        shown = "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
        yield f"{words[name]:<24}{shown:>12}  {what.get(name, '')}".rstrip()


def _evaluates(solved: Solved) -> bool:
    return "evaluation" in solved.method or ("rms_error" in solved.facts and solved.found.q is None)


def _reference(solved: Solved) -> str:
    from advantage.solving import ON_POLICY

    if _evaluates(solved):
        return "the exact V of its policy"
    return "the exact Q of the policy that acts" if solved.method in ON_POLICY else "Q*"


def _board(solved: Solved, board: Board) -> str:
    """Values with the arrows of the policy; an evaluation's arrows would say nothing."""
    shown = board.states[(board.states >= 0)]
    digits = _digits(solved.found.values[shown])
    cells = [[_cell(solved, int(s), digits) for s in row] for row in board.states]
    width = max(len(cell) for row in cells for cell in row) + 2
    lines = ["".join(cell.ljust(width) for cell in row).rstrip() for row in cells]
    return "\n".join([board.title, *lines] if board.title else lines)


def _cell(solved: Solved, s: int, digits: int) -> str:
    if s in solved.problem.labels:
        return solved.problem.labels[s]
    arrows = "" if _evaluates(solved) else arrows_of(solved.problem, solved.found.policy[s])
    return f"{solved.found.values[s]:.{digits}f} {arrows}"


def arrows_of(problem: Problem, probabilities: Any) -> str:
    """The signs of the actions that a policy takes; none where it takes all."""
    taken = [sign for sign, p in zip(problem.arrows, probabilities, strict=True) if p > 0]
    return "" if len(taken) == len(problem.arrows) else "".join(taken)


def _digits(values: Any) -> int:
    """Decimals that keep some three digits of the largest value."""
    largest = float(np.abs(values).max(initial=0.0))
    return 2 if largest < 100 else 0


def _course(solved: Solved) -> str:
    """The curves as a table of a few rows."""
    names = {"episode": "episode", "mean_return": "mean return", "greedy_return": "exact J, greedy"}
    names |= {"largest_error": "largest error", "rms_error": "rms error"}
    columns = {head: solved.curve[name] for name, head in names.items() if name in solved.curve}
    count = len(solved.curve["episode"])
    picked = sorted({round(place) for place in np.linspace(0, count - 1, min(ROWS, count))})
    lines = ["".join(f"{head:>17}" for head in columns)]
    for place in picked:
        cells = ("–" if (x := column[place]) is None else f"{x:,.5g}" for column in columns.values())
        lines.append("".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


# --- as a picture ---


def write_png(solved: Solved, out: Path) -> None:
    """Boards on the left, curves on the right.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    boards = solved.problem.boards if solved.problem.mdp.num_states <= DRAWN else ()
    columns = 2 if len(boards) > 1 else 1
    widest = max((board.states.shape[1] for board in boards), default=0)
    wide = max(3.2, 0.62 * widest * columns) if boards else 0.0
    with rc_context({"font.family": "sans-serif", "font.size": 9, "text.parse_math": False}):
        figure = Figure(
            figsize=(wide + 4.6, 4.9 if solved.clock == "episode" or columns > 1 else 4.2), layout="constrained"
        )
        left: Any
        right: Any = figure
        if boards:
            both: Any = figure.subfigures(1, 2, width_ratios=[wide, 4.6])
            left, right = both
            axes = left.subplots(-(-len(boards) // columns), columns, squeeze=False).ravel()
            policy = None if _evaluates(solved) else solved.found.policy
            for axis, board in zip(axes, boards, strict=True):
                draw_board(axis, solved.problem, board, solved.found.values, policy)
        _draw_curves(right, solved)
        figure.suptitle(f"{solved.problem.name} by {solved.method}", x=0.01, ha="left", fontweight="bold", color=INK)
        try:
            durable.replace(
                out, lambda draft: figure.savefig(draft, format="png", dpi=160, metadata={"Software": None})
            )
        except OSError as error:
            raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def draw_board(
    axis: Axes,
    problem: Problem,
    board: Board,
    values: Any,
    policy: Any,
    path: Sequence[int] = (),
    colour: str = COLOURS[1],
) -> None:
    """Values as colours and numbers, the policy as arrows, a path as a line."""
    known = np.array([[values[s] for s in row] for row in board.states])
    plain = np.array([[s not in problem.labels for s in row] for row in board.states])
    low, high = known[plain].min(), known[plain].max()
    # The upper part of the palette is too dark to write on.
    axis.imshow(np.where(plain, known, np.nan), cmap="YlGnBu", vmin=low, vmax=low + 2.0 * (high - low or 1.0))
    if path:
        places = {int(s): place for place, s in np.ndenumerate(board.states)}
        rows, cols = zip(*(places[s] for s in path), strict=True)
        axis.plot(cols, rows, color=colour, linewidth=5.0, alpha=0.45, solid_capstyle="round", zorder=1.5)
        axis.plot(cols[-1], rows[-1], "o", color=colour, markersize=9, alpha=0.7, zorder=1.6)
    if board.states.size <= WRITTEN:
        _write_cells(axis, problem, board, values, policy, _digits(known[plain]))
    axis.set_xticks(np.arange(board.states.shape[1] + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(board.states.shape[0] + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.2)
    axis.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axis.spines[:].set_visible(False)
    axis.set_title(board.title, fontsize=8.5, color=SOFT)


def _write_cells(axis: Axes, problem: Problem, board: Board, values: Any, policy: Any, digits: int) -> None:
    for (row, col), state in np.ndenumerate(board.states):
        s = int(state)
        if s in problem.labels:
            axis.text(col, row, problem.labels[s], ha="center", va="center", color=SOFT, fontsize=8)
            continue
        below = 0.28 if policy is not None else 0.0
        axis.text(col, row + below, f"{values[s]:.{digits}f}", ha="center", va="center", color=INK, fontsize=6.5)
        if policy is not None:
            sign = arrows_of(problem, policy[s])
            axis.text(col, row - 0.12, sign, ha="center", va="center", color=INK, fontsize=9, family="DejaVu Sans")


def _draw_curves(figure: Any, solved: Solved) -> None:
    over, curve = solved.curve[solved.clock], solved.curve
    if solved.clock == "sweep":
        axes = [figure.subplots()]
        _draw_lines(axes[0], over, {"largest change": curve["delta"], "distance to the last values": curve["error"]})
    else:
        axes = list(figure.subplots(2, 1))
        optimum = solved.facts["optimal_return"]
        if "greedy_return" in curve:
            _draw_lines(axes[0], over, {"exact J of the greedy policy": curve["greedy_return"]})
            if optimum is not None:
                axes[0].axhline(optimum, color=COLOURS[2], linestyle="--", label="optimum")
        else:
            _draw_lines(axes[0], over, {"mean return of an episode": curve["mean_return"]})
        axes[0].legend(frameon=False, labelcolor=INK)
        errors = {"largest error": curve["largest_error"], "root mean square error": curve["rms_error"]}
        _draw_lines(axes[1], over, errors)
        axes[1].set_title(f"against {_reference(solved)}", loc="left", fontsize=8.5, color=SOFT)
    if over:
        axes[-1].set_yscale("log")
        axes[-1].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[-1].yaxis.set_minor_formatter(lambda value, _: "")
        axes[-1].legend(frameon=False, labelcolor=INK)
    axes[-1].set_xlabel(f"{solved.clock}s", color=SOFT, loc="right")


def _draw_lines(axis: Axes, over: Sequence[Any], lines: dict[str, list[float | None]]) -> None:
    for place, (name, line) in enumerate(lines.items()):
        known = [np.nan if y is None else y for y in line]
        axis.plot(over, known, label=name, color=COLOURS[place], linewidth=1.7)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(LINE)
    axis.grid(axis="y", color=LINE, linewidth=0.8)
    axis.tick_params(which="both", colors=SOFT, length=0)


# --- as a clip ---


def write_video(solved: Solved, path: Path, seed: int) -> None:
    """One episode of the policy that was found, rendered by the environment itself where it has pictures.

    Raises:
        UserError: it renders none, or the file cannot be written.
    """
    problem, policy = solved.problem, solved.found.policy
    frames, fps = _drawn(problem, solved, seed) if problem.make is None else _rendered(problem, policy, seed)
    video.write(frames, fps, path)


def _rendered(problem: Problem, policy: Any, seed: int) -> tuple[list[Any], float]:
    assert problem.make is not None
    with video.headless():
        return _filmed(problem, problem.make(), policy, seed)


def _filmed(problem: Problem, env: Any, policy: Any, seed: int) -> tuple[list[Any], float]:
    rng = Streams(seed).rng("tabular/video", 0)
    try:
        state, _ = env.reset(seed=seed)
        frames, ended = [env.render()], False
        while not ended and len(frames) <= (problem.time_limit or LONGEST):
            action = int(rng.choice(problem.mdp.num_actions, p=policy[state]))
            state, _, terminated, truncated, _ = env.step(action)
            frames.append(env.render())
            ended = terminated or truncated
        fps = float(env.metadata.get("render_fps") or 4)
    except Exception as error:
        raise UserError(f"{problem.name} renders no pictures: {one_line(error)}") from error
    finally:
        env.close()
    if any(frame is None for frame in frames):
        raise UserError(f"{problem.name} renders no pictures")
    return frames, fps


def _drawn(problem: Problem, solved: Solved, seed: int) -> tuple[list[Any], float]:
    """Frames of a board, with the way so far."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    states, frames = play(problem, solved.found.policy, seed), []
    (board,) = problem.boards
    for count in range(1, len(states) + 1):
        figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        draw_board(figure.subplots(), problem, board, solved.found.values, solved.found.policy, states[:count])
        canvas.draw()
        frames.append(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())
    return frames, 4.0
