from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from advantage.runs.reader import RunReader
from advantage.trajectory import Sample
from advantage.views.scores import (
    Scores,
    calibration_section,
    length_section,
    length_sentences,
    read_scores,
    sentences,
    wrong_section,
)
from tests.views.synthetic import make_run


def pair(group: int, chosen: tuple[str, float], rejected: tuple[str, float]) -> list[Sample]:
    sides = zip(("chosen", "rejected"), (chosen, rejected), strict=True)
    return [Sample(group, i, "q", text, score, side) for i, (side, (text, score)) in enumerate(sides)]


def scores(folder: Path, samples: dict[int, list[Sample]], updates: int) -> Scores:
    rows = [{"rewards/accuracies": 0.5, "train/loss": 0.7}] * updates
    run = make_run(folder / "run", rows, algorithm="reward_model", language=True, samples=samples)
    found = read_scores(RunReader(run), updates)
    assert found is not None
    return found


def test_what_is_predicted_is_that_the_favoured_one_was_chosen(tmp_path: Path) -> None:
    """By hand: margins 2 and −1, so that the model is right once."""
    found = scores(tmp_path, {1: pair(0, ("aa", 1.5), ("b", -0.5)) + pair(1, ("aa", 0.0), ("b", 1.0))}, 1)
    sure = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))]
    assert found.predicted.tolist() == pytest.approx(sure) and found.observed.tolist() == [1.0, 0.0]
    assert found.longer() == (2, 2, 1)  # the longer one is chosen twice and scores higher once
    assert "In 50.0% of 2 pairs" in sentences(found)[0] and f"{sum(sure) / 2:.1%}" in sentences(found)[0]


def test_only_the_last_half_counts_and_only_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = {update: pair(0, ("a", float(update)), ("b", 0.0)) for update in range(1, 11)}
    found = scores(tmp_path, samples, 10)
    assert (found.first, found.last, len(found.predicted)) == (6, 10, 5)
    monkeypatch.setattr("advantage.views.scores.TEXTS", 4)
    again = read_scores(RunReader(tmp_path / "run"), 10)
    assert again is not None and (again.first, len(again.predicted)) == (9, 2)


def test_a_calibrated_model_lies_on_the_diagonal_and_a_sure_one_below(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 4000)
    won = rng.uniform(size=4000) < 1 / (1 + np.exp(-margins))
    found = Scores(
        first=1, last=2, scores=margins, lengths=np.ones(4000), pairs=(({}, {}),),
        predicted=1 / (1 + np.exp(-np.abs(margins))), observed=(won == (margins > 0)).astype(float),
    )  # fmt: skip
    predicted, shares, low, high = found.bins()
    assert np.all((low <= predicted) & (predicted <= high)) and np.all((low < shares) & (shares < high))
    sure = Scores(1, 2, found.scores, found.lengths, np.full(4000, 0.99), found.observed, found.pairs)
    assert "too sure" in sentences(sure)[1]


def test_single_texts_are_judged_by_their_own_score(tmp_path: Path) -> None:
    samples = [Sample(0, 0, "q", "yes", 3.0, "right"), Sample(1, 0, "q", "n", -1.0, "wrong")]
    found = scores(tmp_path, {1: samples}, 1)
    assert found.predicted.tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(1))])
    assert found.observed.tolist() == [1.0, 0.0] and found.pairs == ()
    assert "are right" in sentences(found)[0] and "correlation of score and length is 1." in length_sentences(found)[0]


def test_length_is_told_beside_what_people_chose(tmp_path: Path) -> None:
    long, short = ("a" * 30, 1.0), ("b", 0.0)
    texts = [text for group in range(8) for text in pair(group, *((long, short) if group < 2 else (short, long)))]
    told = length_sentences(scores(tmp_path, {1: texts}, 1))
    assert told[0].startswith("The correlation of score and length is 1.")
    assert "Of the 8 pairs of unequal length the longer text is the chosen one in 25.0%" in told[1]
    assert "the higher score in 100.0%" in told[1]


def test_equal_lengths_and_equal_scores_say_so(tmp_path: Path) -> None:
    found = scores(tmp_path, {1: pair(0, ("a", 0.0), ("b", 0.0))}, 1)
    assert length_sentences(found) == ["The texts of every pair are equally long."]
    assert found.observed.tolist() == [0.5]
    for section in (calibration_section, length_section, wrong_section):
        assert "nan" not in "".join(section(found))


def test_the_wrongest_pairs_come_first_and_each_once(tmp_path: Path) -> None:
    wrong, worse = pair(0, ("<b>", 0.0), ("c", 1.0)), pair(1, ("d", 0.0), ("e", 4.0))
    found = scores(tmp_path, {1: [], 2: wrong + pair(1, ("x", 1.0), ("y", 0.0)), 3: wrong + worse}, 3)
    document = "".join(wrong_section(found))
    assert document.count("margin −1") == 1 and document.index("margin −4") < document.index("margin −1")
    assert "margin 1" not in document and "<b>" not in document and "&lt;b&gt;" in document


def test_a_run_without_texts_has_no_scores(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{"train/loss": 1.0}], algorithm="reward_model", language=True)
    assert read_scores(RunReader(run), 1) is None
