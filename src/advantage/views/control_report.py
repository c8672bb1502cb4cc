"""What the report of a run in an environment says of its returns and of its critic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from advantage.runs.kinds import EVALUATION
from advantage.views.chart import Layer, chart
from advantage.views.critic import critic_section
from advantage.views.curves import Array
from advantage.views.facts import Facts, Tile, evaluation_table, line, picked
from advantage.views.html import Html, number, section


def headline(facts: Facts) -> str:
    """The result in a sentence, from the numbers alone."""
    columns, returns = facts.columns, facts.episodes["return"].astype(np.float64)
    held_out, spread = columns.last(EVALUATION), columns.last("eval/std_reward")
    if held_out is not None:
        around = "" if spread is None else f" ± {number(spread)}"
        sentence = f"The policy returns {number(held_out)}{around} on held-out episodes (mean ± standard deviation)"
        best = float(columns.finite(EVALUATION).max())
        return f"{sentence}, {number(best)} at its best" if best > held_out else sentence
    if len(returns):
        last = returns[-100:]
        sentence = f"The last {len(last)} training episodes returned {number(float(last.mean()))} on average"
        first = f", the first 100 {number(float(returns[:100].mean()))}" if len(returns) >= 200 else ""
        return sentence + first
    return "No episode has finished and nothing was evaluated yet"


def tiles(facts: Facts) -> list[Tile]:
    """The numbers at the head of the page."""
    columns = facts.columns
    return [
        ("held-out return", number(columns.last(EVALUATION)), "last evaluation"),
        ("training return", number(columns.last(columns.score.name)), "last 100 episodes"),
        (columns.unit, number(facts.steps), f"{number(len(columns.steps))} updates"),
        ("episodes", number(len(facts.episodes["return"])), "finished in training"),
    ]


def curves(facts: Facts) -> Iterator[Html]:
    """Single episodes, their running mean, and held-out evaluations."""
    columns, layers = facts.columns, []
    when, returns = facts.episodes["env_steps"], facts.episodes["return"].astype(np.float64)
    if len(returns):
        chosen = picked(len(returns))
        drawn = "single episodes" if len(chosen) == len(returns) else f"{len(chosen):,} of {len(returns):,} episodes"
        y = np.where(np.isfinite(returns), returns, np.nan)[chosen]
        layers.append(Layer(drawn, when[chosen].astype(np.float64), y, colour=6, kind="specks"))
    if columns.score.name in columns.table:
        layers.append(line(columns, columns.score.name, "training, mean of the last 100 episodes", 0))
    evaluations = columns.curve(EVALUATION)
    if len(evaluations.steps):
        spread = np.interp(evaluations.steps, *_known(facts, "eval/std_reward"))
        label, marks = "held-out evaluation ± standard deviation", columns.marks(EVALUATION)
        low, high = evaluations.values - spread, evaluations.values + spread
        layers.append(Layer(label, evaluations.steps, evaluations.values, low, high, 1, "dots", marks))
    yield chart("Return", layers, columns.unit, about="of an episode, undiscounted", shape="tall")


def evaluations(facts: Facts) -> Iterator[Html]:
    """The last held-out evaluations and the best, as a table."""
    columns, curve = facts.columns, facts.columns.curve(EVALUATION)
    others = [columns.curve(name) for name in ("eval/std_reward", "eval/mean_ep_length")]
    heads = [columns.unit, "mean return", "standard deviation", "mean length"]
    cells = []
    for step, value in zip(curve.steps, curve.values, strict=True):
        beside = [other.values[other.steps == step] for other in others]
        cells.append([number(x) for x in (step, value, *(found[0] if len(found) else None for found in beside))])
    told = "the policy is evaluated every N steps"
    yield section("Held-out evaluation", *evaluation_table(columns, heads, cells, told))


def evidence(facts: Facts) -> Iterator[Html]:
    """What else there is to see."""
    yield section("The critic's calibration", *critic_section(facts.reader))


def _known(facts: Facts, name: str) -> tuple[Array, Array]:
    """A metric's finite points, for a look-up; a single NaN where it has none."""
    curve = facts.columns.curve(name)
    finite = np.isfinite(curve.values)
    return (curve.steps[finite], curve.values[finite]) if finite.any() else (np.zeros(1), np.full(1, np.nan))
