"""A comparison drawn: as PNG by matplotlib, or as a self-contained page. One panel an environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advantage.runs import durable
from advantage.views.chart import Layer, chart
from advantage.views.curves import Band
from advantage.views.html import element, page, section, short, table, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#6b7280")  # the page's, in its order
STYLES = ("-", "--", ":", "-.")
LONGEST = 32  # letters of a label that stands at the end of its line; with longer ones there is a legend
INK, SOFT, LINE = "#1b2430", "#5b6675", "#e2e6ec"


@dataclass(frozen=True)
class Panel:
    """The curves of one environment.

    Attributes:
        environment: or what else the panel is of: its title.
        measure, unit: what is drawn, over what.
        bands: a curve a group, by its label.
        from_zero: whether the horizontal axis begins at 0.
    """

    environment: str
    measure: str
    unit: str
    bands: dict[str, Band]
    from_zero: bool = True


def write_html(
    heading: str,
    panels: Sequence[Panel],
    caption: str,
    tables: Sequence[Sequence[Sequence[str]]],
    notes: Sequence[str],
    out: Path,
) -> None:
    """The curves, tables (heads in the first row, words in the first two columns) and notes, on a page of its own."""
    looks = _looks(panels)
    charts = [chart(p.environment, _layers(p, looks), p.unit, about=p.measure, shape="tall") for p in panels]
    written = [
        table(heads, [[text(cell) for cell in row] for row in body], numbers=range(2, len(heads)))
        for heads, *body in tables
    ]
    document = page(
        "Learning curves",
        element("p", text("Advantage · comparison of runs"), class_="kicker"),
        element("h1", text(heading)),
        section(
            "Learning curves",
            element("p", text(f"Line and shade: {caption}"), class_="soft"),
            element("div", *charts, class_="grid wide"),
        ),
        section(
            "Where they ended",
            *written,
            *(element("p", text(line), class_="soft") for line in notes),
        ),
    )
    durable.replace(out, lambda draft: draft.write_text(document, encoding="utf-8"))


def _looks(panels: Sequence[Panel]) -> dict[str, int]:
    """Each label's place in the palette: the same in every panel."""
    labels = dict.fromkeys(label for panel in panels for label in panel.bands)
    return {label: i for i, label in enumerate(labels)}


def _layers(panel: Panel, looks: dict[str, int]) -> list[Layer]:
    def interval(band: Band) -> dict[str, Any]:
        return {"low": band.low, "high": band.high} if band.runs > 1 else {}

    return [
        Layer(label, band.steps, band.centre, colour=looks[label] % len(COLOURS), **interval(band))
        for label, band in panel.bands.items()
    ]


def write_png(panels: Sequence[Panel], caption: str, out: Path, shared: bool = False) -> None:
    """The curves of each environment: a panel whose lines are named at their ends, or small multiples with a legend.

    Args:
        shared: one vertical scale for all panels.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    count, looks = len(panels), _looks(panels)
    columns = min(3, count)
    rows = -(-count // columns)
    width, height = (7.6, 4.3) if count == 1 else (4.2, 3.2)
    with rc_context({"font.family": "sans-serif", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(width * columns, height * rows + 0.6 * (count > 1)), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=shared).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw(axis, panel, looks)
        for axis in axes[count:]:
            axis.set_axis_off()
        if count == 1 and max(map(len, looks), default=0) <= LONGEST:
            _name_lines(axes[0], panels[0], looks)
        elif looks:
            _legend(figure, looks)
        figure.supxlabel(caption, fontsize=8.5, color=SOFT)
        durable.replace(out, lambda draft: figure.savefig(draft, format="png", dpi=160, metadata={"Software": None}))


def _draw(axis: Axes, panel: Panel, looks: dict[str, int]) -> None:
    axis.set_title(panel.environment, loc="left", fontsize=11, fontweight="bold", color=INK, pad=20)
    axis.annotate(panel.measure, (0, 1), (0, 6), "axes fraction", "offset points", color=SOFT, fontsize=9)
    axis.set_xlabel(panel.unit, color=SOFT, loc="right")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(LINE)
    axis.grid(axis="y", color=LINE, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=SOFT, length=0)
    for label, band in panel.bands.items():
        look = _look(looks[label])
        axis.fill_between(band.steps, band.low, band.high, color=look["color"], alpha=0.18, linewidth=0)
        axis.plot(band.steps, band.centre, **look)
    if not any(np.isfinite(band.centre).any() for band in panel.bands.values()):
        axis.text(0.5, 0.5, "nothing finite to draw", transform=axis.transAxes, ha="center", color=SOFT)
    axis.margins(x=0.0)
    if panel.from_zero:
        axis.set_xlim(left=0.0)
    _number(axis.xaxis)
    _number(axis.yaxis)


def _look(place: int) -> dict[str, Any]:
    style = STYLES[place // len(COLOURS) % len(STYLES)]
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": style, "linewidth": 1.9}


def _number(axis: Axis) -> None:
    """Round ticks, written as on the pages."""
    from matplotlib.ticker import MaxNLocator

    def written(value: float, _: float) -> str:
        ticks = axis.get_majorticklocs()
        return short(value, float(np.diff(ticks).min()) if len(ticks) > 1 else 1.0)

    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(written)


def _legend(figure: Figure, looks: dict[str, int]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=label, **_look(place)) for label, place in looks.items()]
    columns = min(4, len(lines)) if max(map(len, looks)) <= LONGEST else 1
    figure.legend(handles=lines, loc="outside upper left", ncols=columns, frameon=False, labelcolor=INK)


def _name_lines(axis: Axes, panel: Panel, looks: dict[str, int]) -> None:
    """Each line's label at its end, pushed apart where two would meet."""
    ends = []
    for label, band in panel.bands.items():
        finite = np.flatnonzero(np.isfinite(band.centre))
        if len(finite):
            ends.append((float(band.centre[finite[-1]]), label))
    low, high = axis.get_ylim()
    ends.sort()
    places = spread([(end - low) / (high - low) for end, _ in ends], 0.06)
    for place, (_, label) in zip(places, ends, strict=True):
        axis.annotate(
            label,
            (1.0, place),
            (6, 0),
            "axes fraction",
            "offset points",
            color=_look(looks[label])["color"],
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )


def spread(places: list[float], gap: float) -> list[float]:
    """Ascending places moved as little as needed to stand `gap` apart.

    >>> spread([0.5, 0.5], 0.25)
    [0.375, 0.625]
    """
    clusters: list[tuple[float, int]] = []  # centre and number of those that stand as one block
    for place in places:
        centre, size = place, 1
        while clusters and centre - clusters[-1][0] < gap * (size + clusters[-1][1]) / 2:
            before, count = clusters.pop()
            centre, size = (before * count + centre * size) / (count + size), count + size
        clusters.append((centre, size))
    return [centre + gap * (i - (size - 1) / 2) for centre, size in clusters for i in range(size)]
