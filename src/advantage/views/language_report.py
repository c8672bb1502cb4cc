"""What the report of a language model's run says of its rewards or its losses, of its answers, and of its scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from advantage.errors import typed
from advantage.runs.kinds import EVALUATION, Measure
from advantage.views.chart import Layer, chart
from advantage.views.completions import before_and_after
from advantage.views.critic import critic_section
from advantage.views.curves import Array
from advantage.views.facts import Facts, Tile, evaluation_table, line, picked
from advantage.views.html import Html, element, number, section, text
from advantage.views.scores import calibration_section, length_section, read_scores, wrong_section

ENDS = 10  # updates of a mean at either end


def headline(facts: Facts) -> str:
    """The result in a sentence, from the numbers alone."""
    columns, prompts = facts.columns, facts.setting("eval_episodes")
    share = columns.last(EVALUATION)
    if share is not None:
        low, high = _wilson(share, prompts)
        best = float(columns.finite(EVALUATION).max())
        interval = f"(95 % interval {low:.1%} … {high:.1%})"
        sentence = f"The model answers {share:.1%} of {prompts:,} held-out prompts rightly {interval}"
        return f"{sentence}, {best:.1%} at its best" if best > share else sentence
    score, values = columns.score, columns.finite(columns.score.name)
    if not len(values):
        return "Nothing is known yet"
    word = f"mean {score.word}" if score.word == "reward" else score.word
    if len(values) < 2 * ENDS:
        return f"The last update's {word} is {number(float(values[-1]))}"
    last, first = (number(float(part.mean())) for part in (values[-ENDS:], values[:ENDS]))
    return f"The {word} of the last {ENDS} updates is {last}, of the first {ENDS} {first}"


def tiles(facts: Facts) -> list[Tile]:
    """The numbers at the head of the page."""
    columns, share = facts.columns, facts.columns.last(EVALUATION)
    tokens = columns.last("num_tokens")
    return [
        ("held-out accuracy", "–" if share is None else f"{share:.1%}", "greedy answers"),
        (columns.score.word, number(columns.last(columns.score.name)), "last update"),
        ("updates", number(facts.steps), f"{number(facts.setting('batch_size'))} {_unit(facts)} each"),
        ("tokens", number(tokens), "trained on"),
    ]


def curves(facts: Facts) -> Iterator[Html]:
    """What training is judged by, and held-out accuracy."""
    columns = facts.columns
    figures = [_curve(facts, measure) for measure in columns.kind.measures if measure.name in columns.table]
    held_out = columns.curve(EVALUATION)
    if len(held_out.steps):
        low, high = _intervals(facts, held_out.values)
        marks = columns.marks(EVALUATION)
        dots = Layer("held-out, 95 % interval", held_out.steps, held_out.values, low, high, 1, "dots", marks)
        about = f"share of {facts.setting('eval_episodes')} held-out prompts whose greedy answer is right"
        figures.append(chart("Held-out accuracy", [dots], columns.unit, about=about, shape="tall"))
    yield element("div", *(figures or [_curve(facts, columns.score)]), class_="grid wide")


def evaluations(facts: Facts) -> Iterator[Html]:
    """The last held-out evaluations and the best, as a table."""
    curve = facts.columns.curve(EVALUATION)
    low, high = _intervals(facts, curve.values)
    prompts = number(facts.setting("eval_episodes"))
    rows = [
        [number(step), f"{share:.1%}", f"{a:.1%} … {b:.1%}", prompts]
        for step, share, a, b in zip(curve.steps, curve.values, low, high, strict=True)
    ]
    heads = [facts.columns.unit, "accuracy", "95 % interval", "prompts"]
    told = "and --task NAME the greedy answers to its held-out prompts are judged every N updates"
    if facts.reader.config["algorithm"] != "reward_model":  # which answers nothing
        yield section("Held-out evaluation", *evaluation_table(facts.columns, heads, rows, told))


def evidence(facts: Facts) -> Iterator[Html]:
    """What the model wrote, what it scored, what its critic foresaw: what there is of them."""
    scores = read_scores(facts.reader, facts.updates) if facts.reader.config["algorithm"] == "reward_model" else None
    if facts.columns.kind.name == "sampled":
        yield section("Completions before and after", *before_and_after(facts.reader, facts.updates))
    elif scores is not None:
        yield section("How sure the scores may be", *calibration_section(scores))
        yield section("Length", *length_section(scores))
        if scores.pairs:
            yield section("The pairs that it ranks most wrongly", *wrong_section(scores))
    else:
        told = text("Nothing is sampled in this training. What the model writes now: ")
        command = element("code", text(f"advantage generate {typed(facts.reader.path)} --prompt TEXT"))
        yield section("Completions", element("p", told, command, class_="soft"))
    if "train/value_mean" in facts.columns.table:
        yield section("The critic's calibration", *critic_section(facts.reader))


def _curve(facts: Facts, measure: Measure) -> Html:
    layers = [line(facts.columns, measure.name, "", 0)]
    if measure.name == "reward" and "gold" in facts.columns.table:
        layers = [line(facts.columns, "reward", "trained on", 0), line(facts.columns, "gold", "only watched (gold)", 2)]
    layers = [layer for one in layers for layer in _smoothed(one)]
    return chart(measure.word.capitalize(), layers, facts.columns.unit, about=measure.label, shape="tall")


def _smoothed(one: Layer) -> list[Layer]:
    """A line as dots, with its running mean: an update has few prompts, and the next one others."""
    chosen, parts = picked(len(one.y)), range(ENDS, len(one.y) + 1)
    if len(parts) < 2 * ENDS:
        return [one]
    means = [np.nan if np.isnan(part).all() else np.nanmean(part) for part in (one.y[i - ENDS : i] for i in parts)]
    specks = replace(one, label="", x=one.x[chosen], y=one.y[chosen], kind="specks", marks=())
    label = f"{one.label}, mean of {ENDS} updates".removeprefix(", ")
    return [specks, replace(one, label=label, x=one.x[ENDS - 1 :], y=np.array(means))]


def _unit(facts: Facts) -> str:
    """What a batch is counted in."""
    if facts.columns.kind.name == "sampled":
        return f"prompts × {facts.setting('num_generations')}"
    return "pairs" if "rewards/margins" in facts.columns.table else "examples"


def _intervals(facts: Facts, shares: Array) -> tuple[Array, Array]:
    """Wilson's intervals of shares of the held-out prompts; NaN where a share is."""
    nothing = (np.nan, np.nan)
    ends = [_wilson(share, facts.setting("eval_episodes")) if np.isfinite(share) else nothing for share in shares]
    low, high = np.array(ends).reshape(-1, 2).T
    return low, high


def _wilson(share: float, prompts: int) -> tuple[float, float]:
    from advantage.language.evaluation import wilson

    return wilson(share * prompts, prompts)
