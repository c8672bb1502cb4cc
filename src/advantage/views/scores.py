"""A reward model's scores: does it know how sure it may be, and is it length that it praises?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advantage.runs.reader import RunReader
from advantage.views.calibration import tenths
from advantage.views.chart import Layer, chart
from advantage.views.completions import card
from advantage.views.curves import Array
from advantage.views.html import Html, element, number, text

TEXTS = 2000  # looked at, at most; none from the first half of the run, when the model knew little
LENGTHS = 12  # different lengths that have a dot each; more are drawn in tenths
WRONG = 6  # pairs that are shown

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Scores:
    """What a reward model said of the last texts, each before the step that learnt from it.

    Attributes:
        first, last: updates that they are from.
        scores: (texts,).
        lengths: of the texts, (texts,), in characters.
        predicted: probability that the answer that the model favours is the chosen one, σ(|margin|), in [½, 1], one a
            pair; or that a text is right, σ(score), one a text.
        observed: 1 where it was so, 0 where not, ½ for a pair of equal scores; as many.
        pairs: the chosen and the rejected text of each pair; none where single texts are judged.
    """

    first: int
    last: int
    scores: Array
    lengths: Array
    predicted: Array
    observed: Array
    pairs: tuple[tuple[Row, Row], ...]

    def bins(self) -> tuple[Array, Array, Array, Array]:
        """Tenths by predicted probability: its mean, the observed share and its 95 % interval; (bins,) each."""
        from advantage.language.evaluation import wilson

        parts = tenths(self.predicted)
        shares = [(self.observed[part].sum(), len(part)) for part in parts]
        low, high = np.array([wilson(won, count) for won, count in shares]).T
        predicted = np.array([self.predicted[part].mean() for part in parts])
        return predicted, np.array([won / count for won, count in shares]), low, high

    def longer(self) -> tuple[int, int, int]:
        """Of pairs of unequal length: how many, in how many the longer text is chosen, and scores higher."""
        lengths = np.array([[len(row["completion"]) for row in pair] for pair in self.pairs]).reshape(-1, 2)
        margins = np.array([chosen["reward"] - rejected["reward"] for chosen, rejected in self.pairs])
        longer = np.sign(lengths[:, 0] - lengths[:, 1])
        return int((longer != 0).sum()), int((longer > 0).sum()), int((longer * margins > 0).sum())


def read_scores(reader: RunReader, updates: int) -> Scores | None:
    """The scores of the last half of a run; None where it has scored no text."""
    size = len(reader.completions(updates, updates))
    if not size:
        return None
    first = max(updates // 2 + 1, updates - TEXTS // size + 1, 1) if updates > 1 else 1
    rows = [row for row in reader.completions(first, updates) if np.isfinite(row["reward"])]
    pairs = _pairs(rows)
    if pairs:
        margins = np.array([chosen["reward"] - rejected["reward"] for chosen, rejected in pairs])
        predicted, observed = _sigmoid(np.abs(margins)), (np.sign(margins) + 1) / 2
    else:
        predicted = _sigmoid(np.array([row["reward"] for row in rows]))
        observed = np.array([float(row["finish_reason"] == "right") for row in rows])
    scores, lengths = (np.array(column, dtype=float) for column in zip(*map(_measured, rows), strict=True))
    return Scores(first, updates, scores, lengths, predicted, observed, tuple(pairs))


def calibration_section(found: Scores) -> Iterator[Html]:
    """Predicted probability beside observed share."""
    predicted, shares, low, high = found.bins()
    one = "that the answer with the higher score is the chosen one" if found.pairs else "that a text is right"
    about = f"observed share (up) against the probability predicted (across) {one}; on the dashed line they agree"
    layer = Layer("tenths by prediction, 95 % interval", predicted, shares, low, high, 0, "dots")
    drawn = chart("Prediction and outcome", [layer], "predicted probability", about=about, shape="square")
    said = [element("p", text(sentence)) for sentence in sentences(found)]
    yield element("div", drawn, element("div", *said), class_="grid wide")


def sentences(found: Scores) -> list[str]:
    """How sure the model is and how often it is right, in words, from the numbers alone."""
    expected, observed = float(found.predicted.mean()), float(found.observed.mean())
    predicted, shares, _, _ = found.bins()
    off = f"The tenths are off by {100 * float(np.abs(predicted - shares).mean()):.1f} percentage points on average"
    span = f"of updates {found.first:,} to {found.last:,}, each scored before the step that learnt from it"
    count = len(found.predicted)
    if found.pairs:
        told = f"In {observed:.1%} of {count:,} pairs {span}, the chosen text has the higher score"
        told += f"; the differences predict {expected:.1%}."
        off += f": too {'sure' if expected > observed else 'unsure'} on the whole"
    else:
        told = f"Of {count:,} texts {span}, {observed:.1%} are right; the scores predict {expected:.1%}."
    learnt = "From the second pass over the data on a text has been learnt before: then the picture flatters."
    return [told, f"{off}.", learnt]


def length_section(found: Scores) -> Iterator[Html]:
    """Score against length; of pairs how often the longer text wins, with people and with the model."""
    lengths = np.unique(found.lengths)
    few = len(lengths) <= LENGTHS
    parts = [np.flatnonzero(found.lengths == length) for length in lengths] if few else tenths(found.lengths)
    middle = np.array([found.lengths[part].mean() for part in parts])
    means = np.array([found.scores[part].mean() for part in parts])
    low, high = np.array([np.quantile(found.scores[part], [0.25, 0.75]) for part in parts]).T
    label = f"{'each length' if few else 'tenths by length'}: mean score, middle half"
    layer = Layer(label, middle, means, low, high, 1, "dots")
    about = "score of a text (up) against its length (across)"
    drawn = chart("Score and length", [layer], "characters", about=about, shape="tall")
    said = [element("p", text(sentence)) for sentence in length_sentences(found)]
    yield element("div", drawn, element("div", *said), class_="grid wide")


def length_sentences(found: Scores) -> list[str]:
    """How often length and score go together, in words."""
    from advantage.language.evaluation import wilson

    said = []
    if found.scores.std() > 0 and found.lengths.std() > 0:
        together = float(np.corrcoef(found.scores, found.lengths)[0, 1])
        said.append(f"The correlation of score and length is {number(round(together, 3))}.")
    if not found.pairs:
        return said
    unequal, chosen, higher = found.longer()
    if not unequal:
        return [*said, "The texts of every pair are equally long."]
    shares = [
        f"{count / unequal:.1%} ({low:.1%} … {high:.1%})"
        for count in (chosen, higher)
        for low, high in [wilson(count, unequal)]
    ]
    said.append(
        f"Of the {unequal:,} pairs of unequal length the longer text is the chosen one in {shares[0]}; it has the "
        f"higher score in {shares[1]} (95 % intervals). Where the second is far above the first, length is being paid."
    )
    return said


def wrong_section(found: Scores) -> Iterator[Html]:
    """The pairs in which the rejected text scores highest above the chosen one: errors of the model, or of the data."""

    def margin(pair: tuple[Row, Row]) -> float:
        return float(pair[0]["reward"] - pair[1]["reward"])

    newest = {tuple(row[name] for row in pair for name in ("prompt", "completion")): pair for pair in found.pairs}
    wrong = sorted((pair for pair in newest.values() if margin(pair) < 0), key=margin)[:WRONG]
    if not wrong:
        yield element("p", text("In no pair of these updates did the rejected text score higher."), class_="soft")
        return
    yield element("p", text("Errors of the model, or of those who ranked."), class_="soft")
    cards = []
    for pair in wrong:
        texts = [(row["completion"], f"score {number(row['reward'])} · {row['finish_reason']}") for row in pair]
        cards.append(card(f"update {pair[0]['update']:,}, margin {number(margin(pair))}", pair[0]["prompt"], texts))
    yield element("div", *cards, class_="pair")


def _pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    sides: dict[tuple[int, int], dict[str, Row]] = {}
    for row in rows:
        sides.setdefault((row["update"], row["group"]), {})[row["finish_reason"]] = row
    return [(pair["chosen"], pair["rejected"]) for pair in sides.values() if pair.keys() == {"chosen", "rejected"}]


def _measured(row: Row) -> tuple[float, int]:
    return row["reward"], len(row["completion"])


def _sigmoid(x: Array) -> Array:
    found: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
    return found
