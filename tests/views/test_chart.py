from __future__ import annotations

import re

import numpy as np
import pytest

from advantage.views.chart import POINTS, Layer, Scale, chart, condensed


def layer(y: list[float], **others: object) -> Layer:
    return Layer("", np.arange(len(y), dtype=np.float64), np.array(y), **others)  # type: ignore[arg-type]


def paths(figure: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="{kind}"[^>]* d="([^"]*)"', figure)


def test_a_line_ends_where_its_values_lie() -> None:
    """0 to 10 with a margin of 4 %: 0 stands 0.4/10.8 above the floor of a drawing that is 1,000 high."""
    (trace,) = paths(chart("t", [layer([0.0, 10.0, 5.0])], "steps"), "trace")
    assert trace == "M0.0 963.0L500.0 37.0L1000.0 500.0"


def test_a_gap_parts_the_line_and_a_lone_point_becomes_a_dot() -> None:
    figure = chart("t", [layer([0.0, 1.0, np.nan, 2.0, np.nan, 3.0, 4.0], marks=[(2.0, "nan"), (4.0, "inf")])], "steps")
    (trace,), (dots,) = paths(figure, "trace"), paths(figure, "dots")
    assert trace.count("M") == 2 and dots.count("M") == 1
    assert len(re.findall('class="mark"', figure)) == 2
    assert "2 values are not finite (first: nan at 2)" in figure
    assert "nan" not in trace + dots


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_with_nothing_finite_it_says_so(values: list[float]) -> None:
    assert "nothing finite to draw" in chart("t", [layer(values)], "steps")
    assert "nothing finite to draw" in chart("t", [], "steps")


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [0.0, 0.0], [1e-300, 0.0], [1e300, -1e300], [5e8, 5e8 + 1]])
def test_degenerate_ranges_are_drawn_with_finite_coordinates(values: list[float]) -> None:
    figure = chart("t", [layer(values)], "steps")
    coordinates = re.findall(r'd="([^"]*)"', figure) + re.findall(r"(?:top|left):([^%]*)%", figure)
    assert coordinates and not re.search("nan|inf", "".join(coordinates))


def test_ticks_are_round_and_inside() -> None:
    assert [word for _, word in Scale(0.0, 60_000.0).ticks(3)] == ["0", "20k", "40k", "60k"]
    assert [word for _, word in Scale(49.98, 50.011).ticks(3)] == ["49.98", "49.99", "50.00", "50.01"]
    rng = np.random.default_rng(0)
    for low, size in zip(rng.normal(size=200), 10.0 ** rng.uniform(-6, 9, size=200), strict=True):
        ticks = Scale(low * size, low * size + size).ticks(4)
        places, words = zip(*ticks, strict=True)
        assert 2 <= len(ticks) <= 8 and len(set(words)) == len(words)
        assert low * size - 1e-9 * size <= places[0] and places[-1] <= low * size + size * (1 + 1e-9)


def test_a_long_line_is_drawn_as_means_with_their_range() -> None:
    y = np.arange(10.0 * POINTS)
    y[3] = np.nan
    short = condensed(Layer("", np.arange(10.0 * POINTS), y))
    assert short.low is not None and short.high is not None and len(short.y) == POINTS
    assert (short.y[1], short.low[1], short.high[1]) == (14.5, 10.0, 19.0)
    assert short.y[0] == pytest.approx((45 - 3) / 9)
    assert condensed(layer([1.0, 2.0])).low is None


def test_labels_and_titles_are_escaped() -> None:
    figure = chart("<i>", [Layer("<b>", np.arange(2.0), np.arange(2.0))], "<u>", about="<s>", shape="tall")
    assert not re.search("<[ibus]>", figure) and "&lt;b&gt;" in figure and "&lt;u&gt;" in figure
