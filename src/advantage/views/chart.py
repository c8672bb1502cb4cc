"""Charts as inline SVG. The drawing stretches with the page; the words are HTML beside it and keep their size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from advantage.views.curves import Array
from advantage.views.html import Html, element, join, number, short, text

SIDE = 1000  # the drawing's own units, both ways; non-scaling strokes keep their width when it is stretched
POINTS = 240  # more than this in a line are drawn as means of equal bins, with what they range over as a shade


@dataclass(frozen=True)
class Layer:
    """One quantity in a chart.

    Args:
        label: for the legend; "" for none.
        x, y: (points,), x ascending; a NaN in y is a gap.
        low, high: (points,), an interval around y: a shade behind a line, a bar through a dot.
        colour: which of the page's seven.
        kind: a line; dots; or specks, the many faint dots of single episodes.
        marks: where a value was not finite, and the word for it.
    """

    label: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    colour: int = 0
    kind: Literal["line", "dots", "specks"] = "line"
    marks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Scale:
    """From values to the drawing's units along one axis."""

    low: float
    high: float

    def __call__(self, values: Array) -> Array:
        """Distance from the lower end, in drawing units."""
        return (values - self.low) / (self.high - self.low) * SIDE

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """About that many round numbers (1, 2 or 5 times a power of ten apart) on the axis, and how to write them."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.6)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(tick * step, short(tick * step, step)) for tick in range(first, last + 1)]


def chart(
    title: str,
    layers: Sequence[Layer],
    x_unit: str,
    *,
    about: str = "",
    shape: Literal["small", "tall", "square"] = "small",
) -> Html:
    """A figure: title, what it means, legend, drawing, axes. With nothing finite to draw it says so.

    Args:
        x_unit: what the horizontal axis counts; written under the large shapes.
        about: one line on what is drawn and in which unit.
        shape: one of many, the page's main one, or a square whose axes share their scale and show their diagonal.
    """
    lines = [condensed(layer) if layer.kind == "line" else layer for layer in layers]
    across, up = _scales(lines, shape == "square")
    caption = element("figcaption", text(title), element("small", text(about)) if about else Html(""), _bad(layers))
    if across is None or up is None:
        nothing = element("span", text("nothing finite to draw"), class_="empty")
        return element("figure", caption, element("div", nothing, class_=f"plot {shape}"))
    drawn = [*_rules(up), *([_diagonal()] if shape == "square" else []), *_layers(lines, across, up)]
    picture = element("svg", *drawn, view_box=f"0 0 {SIDE} {SIDE}", preserve="none", role="img", label=title)
    words = [*_words(across, up, 6 if shape == "tall" else 3)]
    if shape != "small":
        words.append(element("span", text(x_unit), class_="unit"))
    return element("figure", caption, _legend(layers), element("div", picture, *words, class_=f"plot {shape}"))


def condensed(layer: Layer, points: int = POINTS) -> Layer:
    """A long line as the means of equal numbers of its points, with their least and greatest as the interval.

    A line of at most `points`, or one that has an interval of its own, stays as it is.
    """
    if len(layer.x) <= points or layer.low is not None:
        return layer
    parts = [slice(part[0], part[-1] + 1) for part in np.array_split(np.arange(len(layer.x)), points)]
    kept = [layer.y[part][np.isfinite(layer.y[part])] for part in parts]
    centre, low, high = (
        np.array([of(values) if len(values) else np.nan for values in kept]) for of in (np.mean, np.min, np.max)
    )
    return replace(layer, x=np.array([layer.x[part].mean() for part in parts]), y=centre, low=low, high=high)


def _scales(layers: Sequence[Layer], shared: bool) -> tuple[Scale | None, Scale | None]:
    """The axes; None where nothing finite is there."""
    columns = [column for layer in layers for column in (layer.y, layer.low, layer.high) if column is not None]
    up = np.concatenate(columns) if columns else np.empty(0)
    across = np.concatenate([layer.x[np.isfinite(layer.y)] for layer in layers]) if layers else np.empty(0)
    up = up[np.isfinite(up)]
    if len(up) == 0 or len(across) == 0:
        return None, None
    if shared:
        across = up = np.concatenate([across, up])
    least = across.min() if shared else 0.0
    return _scale(least, across.max(), 0.04 if shared else 0.0), _scale(up.min(), up.max(), 0.04)


def _scale(low: float, high: float, margin: float) -> Scale:
    room = (high - low) * margin
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = 0.5 * abs(high) or 0.5  # one value: put it in the middle
    return Scale(float(low - room), float(high + room))


def _rules(up: Scale) -> list[Html]:
    heights = SIDE - up(np.array([tick for tick, _ in up.ticks(4)]))
    return [element("path", class_="rule", d="".join(f"M0 {height:.1f}H{SIDE}" for height in heights))]


def _diagonal() -> Html:
    return element("path", class_="diagonal", d=f"M0 {SIDE}L{SIDE} 0")


def _words(across: Scale, up: Scale, columns: int) -> list[Html]:
    """The ticks' numbers, placed in per cent of the drawing."""
    beside = [(word, "y", f"top:{float(100 - up(np.array(y)) / 10):.2f}%") for y, word in up.ticks(4)]
    below = [(word, "x", f"left:{float(across(np.array(x)) / 10):.2f}%") for x, word in across.ticks(columns)]
    return [element("span", text(word), class_=side, style=style) for word, side, style in beside + below]


def _layers(layers: Sequence[Layer], across: Scale, up: Scale) -> list[Html]:
    """Intervals behind, then lines and dots, then the marks of what was not finite."""
    behind, front, marks = [], [], []
    for layer in layers:
        stroke = f"stroke:var(--c{layer.colour})"
        x, y = across(layer.x), SIDE - up(layer.y)
        if layer.low is not None and layer.high is not None:
            behind.append(_interval(layer, x, SIDE - up(layer.low), SIDE - up(layer.high)))
        d = _trace(x, y) if layer.kind == "line" else _dots(x, y)
        front.append(element("path", class_="trace" if layer.kind == "line" else layer.kind, style=stroke, d=d))
        lone = _dots(*_lone(x, y)) if layer.kind == "line" else ""
        if lone:
            front.append(element("path", class_="dots", style=stroke, d=lone))
        for place, word in layer.marks:
            said = element("title", text(f"{word} at {number(place)}"))
            marks.append(element("path", said, class_="mark", d=f"M{float(across(np.array(place))):.1f} {SIDE}v-60"))
    return [*behind, *front, *marks]


def _interval(layer: Layer, x: Array, low: Array, high: Array) -> Html:
    if layer.kind == "dots":
        ends = zip(x, low, high, strict=True)
        bars = "".join(f"M{at:.1f} {a:.1f}V{b:.1f}" for at, a, b in ends if np.isfinite(a + b))
        return element("path", class_="bars", style=f"stroke:var(--c{layer.colour})", d=bars)
    outlines = []
    for part in _unbroken(low + high):
        there = [f"{at:.1f} {y:.1f}" for at, y in zip(x[part], high[part], strict=True)]
        back = [f"{at:.1f} {y:.1f}" for at, y in zip(x[part][::-1], low[part][::-1], strict=True)]
        outlines.append(f"M{'L'.join(there + back)}Z")
    return element("path", class_="band", style=f"fill:var(--c{layer.colour})", d="".join(outlines))


def _trace(x: Array, y: Array) -> str:
    runs = [[f"{at:.1f} {height:.1f}" for at, height in zip(x[part], y[part], strict=True)] for part in _unbroken(y)]
    return "".join(f"M{'L'.join(run)}" for run in runs if len(run) > 1)


def _dots(x: Array, y: Array) -> str:
    """Strokes of no length, whose round caps stay round however the drawing is stretched."""
    return "".join(f"M{at:.1f} {height:.1f}h0" for at, height in zip(x, y, strict=True) if np.isfinite(height))


def _lone(x: Array, y: Array) -> tuple[Array, Array]:
    """Points between two gaps, which no line reaches."""
    alone = [part.start for part in _unbroken(y) if part.stop - part.start == 1]
    return x[alone], y[alone]


def _unbroken(y: Array) -> list[slice]:
    """The stretches without a gap."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.isfinite(y), [False]]).astype(np.int8)))
    return [slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _legend(layers: Sequence[Layer]) -> Html:
    named = [layer for layer in layers if layer.label]
    swatches = [
        element(
            "span",
            element("i", class_=layer.kind, style=f"background:var(--c{layer.colour})"),
            text(layer.label),
        )
        for layer in named
    ]
    return element("div", *swatches, class_="legend") if swatches else Html("")


def _bad(layers: Sequence[Layer]) -> Html:
    """What was not finite, in words: the gap and the mark alone would be missed."""
    marks = sorted(mark for layer in layers for mark in layer.marks)
    if not marks:
        return Html("")
    word = "value is" if len(marks) == 1 else "values are"
    said = f"{len(marks)} {word} not finite (first: {marks[0][1]} at {number(marks[0][0])})"
    return join([Html(" "), element("span", text(said), class_="bad")])
