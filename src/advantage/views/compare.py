"""Runs side by side: learning curves over seeds with bootstrap bands, where they ended, and what that allows to say."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advantage.errors import UserError
from advantage.runs.kinds import EVALUATION, KINDS, Measure
from advantage.runs.progress import printable
from advantage.runs.reader import RunReader
from advantage.views import contrasts
from advantage.views.columns import Columns, read_columns
from advantage.views.contrasts import CONFIDENCE, RESAMPLES, SEED, Finals
from advantage.views.curves import Array, band, interquartile_mean, stratified_bootstrap
from advantage.views.html import number
from advantage.views.picture import Panel, write_html, write_png

ENOUGH = 5  # evaluations that each run needs before they make the curve; else it is the score of training
# None of these changes what is learned: runs that differ in them are seeds of one another.
UNSEEN = {"checkpoint_every", "keep_checkpoints", "eval_every", "eval_episodes", "micro_batch", "threads"}
UNSEEN |= {"vectorization", "micro_tokens", "gradient_checkpointing", "gold", "log_kl", "record_every"}


@dataclass(frozen=True)
class Row:
    """A group of runs that differ in their seed alone. Scores are those of training at the last update, one a run.

    Attributes:
        environment, label: what was trained on (a language model with its task or data), and what with.
        kind, measure: of the runs, a name of `KINDS`; and the metric that is their score, in control the return.
        seeds: of the runs.
        steps: environment steps (in language: updates) of the shortest run.
        mean, iqm: of the last scores over the seeds; None where there is none.
        low, high: 95 % stratified bootstrap of the IQM; None with one seed.
        evaluation: mean over the seeds of the last held-out evaluation; None where there was none.
    """

    environment: str
    label: str
    kind: str
    measure: str
    seeds: tuple[int, ...]
    steps: int
    mean: float | None
    iqm: float | None
    low: float | None
    high: float | None
    evaluation: float | None


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, and what they allow to say.

    Attributes:
        rows: a row a group.
        panels: the curves of each environment; and where a group has several runs, its performance profile.
        improvements: each group beside the first one of its environment; over all environments where there are several.
        pooled: the IQM of each group that is in all of several environments, on one scale.
        differences: of equal seeds, each group's less the first one's; none where they were not asked for.
        notes: what must be said of them.
        caption: what line and shade are.
        picture: where they are drawn.
    """

    rows: tuple[Row, ...]
    panels: tuple[Panel, ...]
    improvements: tuple[contrasts.Improvement, ...]
    pooled: tuple[contrasts.Pooled, ...]
    differences: tuple[contrasts.Difference, ...]
    notes: tuple[str, ...]
    caption: str
    picture: Path | None


@dataclass(frozen=True)
class _Run:
    path: Path
    algorithm: str
    environment: str
    seed: int
    settings: dict[str, Any]
    state: str
    extended: str
    columns: Columns


def compare(run_dirs: Sequence[str | Path], out: str | Path | None = None, paired: bool = False) -> Comparison:
    """Group runs by algorithm, environment and the settings in which they differ; draw and measure each over its seeds.

    Args:
        run_dirs: one run or more, finished or not.
        out: a picture, .png (needs the extra `plots`) or .html (self-contained); None for none.
        paired: also compare runs of equal seeds by their differences.

    Raises:
        UserError: no run, not a run, one seed twice in a group, another suffix, an extra that is missing, or a path
            that cannot be written; pairs of several environments, or without a second group or a common seed.
    """
    if out is not None:
        _check(Path(out))
    if not run_dirs:
        raise UserError("compare needs at least one run")
    runs = [_read(path) for path in run_dirs]
    if paired:
        _check_one_environment(runs)
    groups = {
        environment: _groups([run for run in runs if run.environment == environment])
        for environment in dict.fromkeys(run.environment for run in runs)
    }
    rows = [_row(label, group) for of_one in groups.values() for label, group in of_one.items()]
    finals = [_finals(label, group) for of_one in groups.values() for label, group in of_one.items()]
    notes = [note for of_one in groups.values() for label, group in of_one.items() for note in _notes(label, group)]
    comparison = Comparison(
        rows=tuple(rows),
        panels=(*(panel for of_one in groups.values() for panel in _panels(of_one)), *contrasts.profiles(finals)),
        improvements=tuple(contrasts.improvements(finals)),
        pooled=tuple(contrasts.pooled(finals)),
        differences=tuple(contrasts.differences(finals)) if paired else (),
        notes=(*notes, *contrasts.notes(finals, paired)),
        caption=_caption(rows),
        picture=None if out is None else Path(out),
    )
    if comparison.picture is not None:
        _draw(comparison, comparison.picture)
    return comparison


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The tables and the notes as mappings, sequences, texts and numbers, for the one JSON encoder."""
    parts = ("improvements", "pooled", "differences")
    found = {name: [asdict(row) for row in getattr(comparison, name)] for name in parts}
    rows = [asdict(row) for row in comparison.rows]
    return {"groups": rows, **found, "notes": list(comparison.notes), "picture": comparison.picture}


def render(comparison: Comparison) -> str:
    """The tables and the notes as text for a terminal."""
    parts = [aligned(rows) for rows in tables(comparison)]
    below = [*comparison.notes, comparison.caption, *([str(comparison.picture)] if comparison.picture else [])]
    return "\n\n".join(["\n".join(map(printable, lines)) for lines in [*parts, below]])


def tables(comparison: Comparison) -> list[list[tuple[str, ...]]]:
    """All that is told as tables, the heads first in each: the groups, then what is said of them beside each other."""
    parts = [
        table(comparison.rows),
        contrasts.table_of_pooled(comparison.pooled),
        contrasts.table_of_improvements(comparison.improvements),
        contrasts.table_of_differences(comparison.differences),
    ]
    return [rows for rows in parts if len(rows) > 1]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines for a terminal: words in the first two columns, numbers in the others."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    set_by = [str.ljust, str.ljust] + [str.rjust] * len(columns)
    cells = [
        [place(cell, width) for cell in column] for column, width, place in zip(columns, widths, set_by, strict=False)
    ]
    return ["  ".join(line).rstrip() for line in zip(*cells, strict=True)]


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The rows as text, their heads first. Where they are not all of one measure, each score says what it is."""
    kinds = [KINDS[row.kind] for row in rows]
    words = [_word(row) for row in rows]
    several = len(set(words)) > 1
    body = [_cells(row, f"{word} " if several else "") for row, word in zip(rows, words, strict=True)]
    target, steps, score = (
        "/".join(dict.fromkeys(column))
        for column in ([kind.target for kind in kinds], [f"{kind.step}s" for kind in kinds], words)
    )
    return [(target, "runs", "seeds", steps, score, "IQM", "95 % interval", "evaluation"), *body]


def _cells(row: Row, word: str) -> tuple[str, ...]:
    between = "–" if row.low is None else f"{number(row.low)} … {number(row.high)}"
    numbers = (f"{word}{number(row.mean)}", number(row.iqm), between, number(row.evaluation))
    return (row.environment, row.label, str(len(row.seeds)), f"{row.steps:,}", *numbers)


def _word(row: Row) -> str:
    return next(measure.word for measure in KINDS[row.kind].measures if measure.name == row.measure)


def _check(out: Path) -> None:
    """What can be refused before a run is read."""
    if out.suffix not in (".png", ".html"):
        raise UserError(f"{out}: a picture is .png or .html, not {out.suffix or 'without a suffix'}")
    if not out.parent.is_dir():
        raise UserError(f"{out}: the directory {out.parent} does not exist")
    if out.suffix == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise UserError(f'{out}: PNG needs matplotlib: pip install "advantage[plots]"; .html does not')


def _draw(comparison: Comparison, out: Path) -> None:
    try:
        if out.suffix == ".png":
            write_png(comparison.panels, comparison.caption, out)
        else:
            about = (
                f"{table(comparison.rows)[0][4].capitalize()}: of training, at the last update. Evaluation: the last "
                "held-out one. Both are means over the seeds."
            )
            heading = ", ".join(dict.fromkeys(row.environment for row in comparison.rows))
            notes = (about, *comparison.notes)
            write_html(heading, comparison.panels, comparison.caption, tables(comparison), notes, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def _check_one_environment(runs: Sequence[_Run]) -> None:
    by_name: dict[str, list[str]] = {}
    for run in runs:
        by_name.setdefault(run.environment, []).append(str(run.path))
    if len(by_name) > 1:
        told = "; ".join(f"{name}: {', '.join(paths)}" for name, paths in by_name.items())
        raise UserError(f"--paired compares runs of one environment, these are of {len(by_name)}: {told}")


def _read(path: str | Path) -> _Run:
    reader = RunReader(path)
    config = reader.config
    settings = dict(config["settings"])
    columns = read_columns(reader)
    extended = _set_total(settings, reader.total(), f"{columns.kind.step}s")
    arguments = settings.pop("env_args", {})
    if not isinstance(arguments, dict):
        raise UserError(f"{reader.path}/config.toml: env_args is {arguments!r}; it must be a table")
    data, task = settings.pop("data", ""), settings.pop("task", "")  # of a language model
    words = [config["target"], *(f"{name}={value}" for name, value in sorted(arguments.items()))]
    words += filter(None, [task or Path(data).name])
    environment = printable(" ".join(words))  # fonts and terminals choke on control characters
    seed, state = config["seed"], reader.status()["state"]
    return _Run(reader.path, config["algorithm"], environment, seed, settings, state, extended, columns)


def _set_total(settings: dict[str, Any], total: int | None, steps: str) -> str:
    """The steps that a resume made of those the run began with; says so where they differ."""
    began = settings.get("steps")
    if began in (None, total):
        return ""
    settings["steps"] = total
    return f"began with {began:,} {steps}, resumed to {total:,}"


def _groups(runs: Sequence[_Run]) -> dict[str, list[_Run]]:
    """Runs of one environment by label: the algorithm, and each setting in which runs of that algorithm differ."""
    groups: dict[str, list[_Run]] = {}
    for run in runs:
        peers = [peer for peer in runs if peer.algorithm == run.algorithm]
        names = dict.fromkeys(name for peer in peers for name in peer.settings if name not in UNSEEN)
        differing = [name for name in names if len({repr(peer.settings.get(name)) for peer in peers}) > 1]
        label = ", ".join([run.algorithm, *(f"{name}={run.settings.get(name, 'none')}" for name in differing)])
        groups.setdefault(printable(label), []).append(run)
    for label, group in groups.items():
        seed, times = Counter(run.seed for run in group).most_common(1)[0]
        if times > 1:
            paths = ", ".join(str(run.path) for run in group if run.seed == seed)
            raise UserError(f"{label}: seed {seed} is there {times} times ({paths}); a band wants each seed once")
    return groups


def _row(label: str, group: Sequence[_Run]) -> Row:
    kind, score = _columns_of(group).kind, _columns_of(group).score
    finals = np.array([final for run in group if (final := run.columns.last(score.name)) is not None])
    evaluations = [last for run in group if (last := run.columns.last(EVALUATION)) is not None]
    low, high = None, None
    if len(finals) > 1:
        low, high = map(float, _interval(finals))
    return Row(
        environment=group[0].environment,
        label=label,
        kind=kind.name,
        measure=score.name,
        seeds=tuple(sorted(run.seed for run in group)),
        steps=min(int(run.columns.steps[-1]) if len(run.columns.steps) else 0 for run in group),
        mean=float(finals.mean()) if len(finals) else None,
        iqm=float(interquartile_mean(finals)) if len(finals) else None,
        low=low,
        high=high,
        evaluation=float(np.mean(evaluations)) if evaluations else None,
    )


def _finals(label: str, group: Sequence[_Run]) -> Finals:
    measure = _columns_of(group).score
    scores = {run.seed: last for run in group if (last := run.columns.last(measure.name)) is not None}
    return Finals(group[0].environment, label, measure, dict(sorted(scores.items())))


def _columns_of(group: Sequence[_Run]) -> Columns:
    """Those of the group's longest run, which say what the group is measured by: a short one may hold nothing yet."""
    return max((run.columns for run in group), key=lambda columns: len(columns.steps))


def _interval(finals: Array) -> tuple[Array, Array]:
    return stratified_bootstrap([finals], interquartile_mean, RESAMPLES, CONFIDENCE, np.random.default_rng(SEED))


def _panels(groups: Mapping[str, Sequence[_Run]]) -> Iterator[Panel]:
    """One of held-out evaluations where every run has enough of them, else one for each measure of training."""
    runs = [run for group in groups.values() for run in group]
    enough = all(len(run.columns.finite(EVALUATION)) >= ENOUGH for run in runs)
    parts: dict[Measure, dict[str, Sequence[_Run]]] = {}
    for label, group in groups.items():
        columns = _columns_of(group)
        parts.setdefault(columns.kind.evaluation if enough else columns.score, {})[label] = group
    for measure, part in parts.items():
        yield _panel(measure, part)


def _panel(measure: Measure, groups: Mapping[str, Sequence[_Run]]) -> Panel:
    bands = {}
    for label, group in groups.items():
        curves = [run.columns.curve(measure.name) for run in group]
        known = [curve for curve in curves if len(curve.steps)]
        bands[label] = band(known, interquartile_mean, RESAMPLES, CONFIDENCE, np.random.default_rng(SEED))
    group = next(iter(groups.values()))
    return Panel(group[0].environment, measure.label, _columns_of(group).unit, bands)


def _notes(label: str, group: Sequence[_Run]) -> Iterator[str]:
    """What a reader of the picture would otherwise get wrong."""
    name = f"{label} on {group[0].environment}"
    if len(group) == 1:
        yield f"{name}: one seed, so no band; give runs of more seeds"
    unfinished = sorted(Counter(run.state for run in group if run.state != "finished").items())
    if unfinished:
        yield f"{name}: not finished: {', '.join(f'{times} {state}' for state, times in unfinished)}"
    for run in group:
        if run.extended:
            yield f"{name}: {run.path} {run.extended}"
    columns = _columns_of(group)
    silent = [str(run.path) for run in group if run.columns.last(columns.score.name) is None]
    if silent:
        yield f"{name}: left out, {columns.kind.silent}: {', '.join(silent)}"
    ends = [float(run.columns.steps[-1]) for run in group if len(run.columns.steps)]
    if ends and max(ends) > 1.05 * min(ends):
        shortest = f"{min(ends):,.0f} {columns.unit}"
        yield f"{name}: the curve ends at {shortest}, with its shortest run (the longest has {max(ends):,.0f})"
    measures = (columns.kind.evaluation, columns.score)
    broken = [str(run.path) for run in group if any(run.columns.marks(measure.name) for measure in measures)]
    if broken:
        yield f"{name}: {columns.score.word}s that are not finite leave a gap: {', '.join(broken)}"


def _caption(rows: Sequence[Row]) -> str:
    """What line and shade are."""
    counts = sorted({len(row.seeds) for row in rows})
    if counts == [1]:
        return "One seed each: no band."
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    few = " (of fewer than four the mean)" if counts[0] < 4 else ""
    return f"IQM over {seeds}{few}, {100 * CONFIDENCE:.0f} % stratified bootstrap"
