"""The critic of a run drawn: the returns that followed against the values that it had predicted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from advantage.errors import UserError
from advantage.runs.reader import RunReader
from advantage.views.calibration import Calibration, calibration
from advantage.views.chart import Layer, chart
from advantage.views.facts import picked
from advantage.views.html import Html, element, number, text


def critic_section(reader: RunReader) -> Iterator[Html]:
    """The picture, and what it says in words."""
    try:
        found = calibration(reader)
    except UserError as error:
        yield element("p", text(f"Not known yet: {error}"), class_="soft")
        return
    if found is None:
        yield element("p", text("The run keeps no values: there is no critic to look at."), class_="soft")
        return
    chosen = picked(len(found.values))
    values, returns, low, high = found.bins()
    layers = [
        Layer("single steps", found.values[chosen], found.returns[chosen], colour=6, kind="specks"),
        Layer("tenths by value: mean return, middle half", values, returns, low, high, 0, "dots"),
    ]
    about = "return that followed (up) against the value predicted (across); on the dashed line they agree"
    said = [element("p", text(sentence)) for sentence in sentences(found)]
    if reader.config["settings"].get("normalize_rewards"):
        said.append(element("p", text("All in units of the normalised reward."), class_="soft"))
    drawn = chart("Value and return", layers, "predicted value", about=about, shape="square")
    yield element("div", drawn, element("div", *said), class_="grid wide")


def sentences(found: Calibration) -> list[str]:
    """How well the critic foresaw the returns, in words, from the numbers alone."""
    error, explained = found.values - found.returns, found.explained_variance
    off, bias = float(np.sqrt(np.mean(error**2))), float(error.mean())
    said = [
        f"Over the {len(found.values):,} steps collected in update {found.update:,} the returns are "
        f"{number(float(found.returns.mean()))} ± {number(float(found.returns.std()))}. The critic is off by "
        f"{number(off)} (root mean square), on average {number(abs(bias))} too {'high' if bias >= 0 else 'low'}."
    ]
    if explained is not None and explained >= 0:
        said.append(f"It explains {explained:.0%} of the variance of the returns.")
    elif explained is not None:
        said.append(f"It foresees their differences worse than a constant (explained variance {number(explained)}).")
    if found.borrowed >= 0.005:
        said.append(
            "Where the rollout ends before its episode, the return goes on with the critic's own value: "
            f"{found.borrowed:.0%} of its weight, on average."
        )
    return said
