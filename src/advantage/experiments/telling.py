"""A ladder as it is told: tables, sentences, a page and a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from advantage.errors import UserError
from advantage.experiments.ladder import REFERENCE, Climbed, Ladder
from advantage.experiments.measured import LAST, WINDOW, Result
from advantage.views.contrasts import CONFIDENCE, INTERVAL, RESAMPLES, SEED
from advantage.views.curves import Array, Band, band, interquartile_mean, stratified_bootstrap
from advantage.views.html import number
from advantage.views.picture import Panel, write_html, write_png

POINTS = 100  # of a curve


def tables(climbed: Climbed) -> list[list[tuple[str, ...]]]:
    """A table for each of the environment's arguments, the heads first."""
    heads = _heads(climbed.ladder)
    reaching = climbed.ladder.threshold is not None
    return [[heads, *(_row(title, one, reaching) for one in found)] for title, found in climbed.results.items()]


def sentences(climbed: Climbed) -> list[str]:
    """One a rung."""
    several = len(climbed.results) > 1
    told = [(title, one.sentence) for title, found in climbed.results.items() for one in found]
    return [f"{title}: {sentence}" if several else sentence for title, sentence in told]


def notes(climbed: Climbed) -> list[str]:
    """What columns and words mean, and what must be said."""
    told = [
        f"Return: mean of the last {WINDOW} training episodes, averaged over the last {LAST:.0%} of the budget; IQM"
        " over the seeds. Differences and their intervals are of equal seeds, by Student's t.",
        "Noise scale: environment steps at which a gradient's noise is as large as the gradient, by each rung's"
        f" estimate on one policy, the last rung's after {REFERENCE:.0%} of its budget; geometric mean over the seeds.",
        "KL: how far an update moves the policy, in nats: median and 95 % quantile of a run's updates, median over the"
        " seeds.",
    ]
    if climbed.ladder.seeds == 1:
        told.append("One seed decides nothing; give --seeds 5 or more.")
    return [*told, *climbed.notes]


def as_json(climbed: Climbed) -> dict[str, Any]:
    """The measured numbers by rung and seed, with the sentences."""
    names = ("label", "returns", "reached", "noise", "moved", "failed")
    rungs = [
        {
            "environment": title, "name": rung.name, "algorithm": rung.algorithm, "sentence": one.sentence,
            **{name: _keyed(getattr(one.measured, name)) for name in names},
        }
        for title, found in climbed.results.items()
        for rung, one in zip(climbed.ladder.story.rungs, found, strict=True)
    ]  # fmt: skip
    ladder = climbed.ladder
    about = {"story": ladder.name, "seeds": ladder.seeds, "threshold": ladder.threshold, "out": ladder.out}
    failed = {"failed": climbed.failed} if climbed.failed else {}
    return {**about, "rungs": rungs, "notes": notes(climbed), "videos": list(climbed.videos), **failed}


def draw(climbed: Climbed) -> Path:
    """Writes ladder.html, and ladder.png where matplotlib is there: all rungs, then each beside the one before it.

    Returns:
        The picture, else the page.

    Raises:
        UserError: the folder cannot be written.
    """
    ladder = climbed.ladder
    several = len(climbed.results) > 1
    panels = [panel for title, found in climbed.results.items() for panel in _panels(title, found, several)]
    page, picture = (ladder.out / f"ladder.{suffix}" for suffix in ("html", "png"))
    heading, caption = f"{ladder.environment}: {ladder.story.about}", _caption(ladder.seeds)
    try:
        write_html(heading, panels, caption, tables(climbed), [*sentences(climbed), *notes(climbed)], page)
        if not importlib.util.find_spec("matplotlib"):
            return page
        write_png(panels, caption, picture, shared=True)
    except OSError as error:
        raise UserError(f"{ladder.out}: cannot be written: {error.strerror or error}") from error
    return picture


def _heads(ladder: Ladder) -> tuple[str, ...]:
    reaching = () if ladder.threshold is None else (f"reach {number(ladder.threshold)}", "median steps")
    return ("environment", "rung", "seeds", "return, IQM", INTERVAL, *reaching, "noise scale", "KL, median", "KL, 95 %")


def _row(title: str, found: Result, reaching: bool) -> tuple[str, ...]:
    measured = found.measured
    returns = _values(measured.returns)
    cells = [title, measured.label, str(len(returns)), _told(interquartile_mean(returns) if len(returns) else None)]
    cells.append("–")
    if len(returns) > 1:
        rng = np.random.default_rng(SEED)
        ends = stratified_bootstrap([returns], interquartile_mean, RESAMPLES, CONFIDENCE, rng)
        cells[-1] = " … ".join(map(_told, ends))
    if reaching:
        steps = [value for value in measured.reached.values() if value is not None]
        cells += [f"{len(steps)} of {len(measured.reached)}", _told(np.median(steps) if steps else None)]
    noise = _values(measured.noise)
    cells.append(_told(np.exp(np.log(noise).mean()) if len(noise) else None, 2))
    cells += [_told(np.median(_values(column)) if column else None, 2) for column in (measured.moved, found.far)]
    return tuple(cells)


def _values(column: Mapping[int, float]) -> Array:
    return np.array(list(column.values()), dtype=np.float64)


def _told(value: Any, digits: int = 3) -> str:
    """A number to so many significant digits."""
    return number(None if value is None else float(f"{float(value):.{digits}g}"))


def _caption(seeds: int) -> str:
    if seeds == 1:
        return "One seed: no band."
    few = " (of fewer than four the mean)" if seeds < 4 else ""
    return f"IQM over {seeds} seeds{few}, {100 * CONFIDENCE:.0f} % stratified bootstrap"


def _panels(title: str, found: Sequence[Result], several: bool) -> Iterator[Panel]:
    where = f" · {title}" if several else ""
    bands = {one.measured.label: _band(one) for one in found}
    yield Panel(title, f"return, mean of {WINDOW} episodes", "environment steps", bands)
    for before, after in pairwise(bands):
        pair = {label: bands[label] for label in (before, after)}
        yield Panel(after, f"after {before}{where}", "environment steps", pair)


def _band(found: Result) -> Band:
    known = [curve for curve in found.curves if len(curve.steps)]
    return band(known, interquartile_mean, RESAMPLES, CONFIDENCE, np.random.default_rng(SEED), POINTS)


def _keyed(value: Any) -> Any:
    """Seeds as JSON's keys."""
    return {str(seed): found for seed, found in value.items()} if isinstance(value, Mapping) else value
