"""The table of a ladder, by hand."""

from __future__ import annotations

from pathlib import Path

from advantage.experiments import ladder
from advantage.experiments.ladder import Climbed
from advantage.experiments.measured import Result
from advantage.experiments.sentences import Measured
from advantage.experiments.telling import notes, sentences, tables


def climbed(folder: Path, found: dict[str, list[Result]], seeds: int = 4) -> Climbed:
    return Climbed(ladder.prepare("CartPole-v1", "three-variants", seeds, None, {}, folder), found, (), (), {})


def test_a_row_by_hand(tmp_path: Path) -> None:
    """Returns by their middle half, steps and KL by medians, noise by the geometric mean of the seeds that have one."""
    measured = Measured(
        "A",
        returns={0: 1.0, 1: 2.0, 2: 4.0, 3: 100.0},
        reached={0: 10.0, 1: None, 2: 30.0, 3: 500.0},
        noise={0: 10.0, 2: 1000.0},
        moved={0: 0.1, 1: 0.3, 2: 0.2, 3: 9.0},
    )
    far = {0: 1.0, 1: 2.0, 2: 3.0, 3: 40.0}
    nothing = Measured("B", {}, {}, {}, {})
    ((heads, row, empty),) = tables(climbed(tmp_path, {"X": [Result(measured, (), far), Result(nothing, (), {})]}))
    told = dict(zip(heads, row, strict=True))
    assert told == {
        "environment": "X", "rung": "A", "seeds": "4", "return, IQM": "3", "95 % interval": "1 … 100",
        "reach 475": "3 of 4", "median steps": "30", "noise scale": "100", "KL, median": "0.25", "KL, 95 %": "2.5",
    }  # fmt: skip
    assert empty == ("X", "B", "0", "–", "–", "0 of 0", "–", "–", "–", "–")


def test_sentences_name_the_environment_where_there_are_several(tmp_path: Path) -> None:
    one = Result(Measured("A", {}, {}, {}, {}), (), {}, sentence="It fell.")
    assert sentences(climbed(tmp_path, {"X": [one]})) == ["It fell."]
    assert sentences(climbed(tmp_path, {"X": [one], "Y": [one]})) == ["X: It fell.", "Y: It fell."]


def test_one_seed_is_said_to_decide_nothing(tmp_path: Path) -> None:
    assert any("One seed decides nothing" in note for note in notes(climbed(tmp_path, {}, seeds=1)))
    assert not any("decides nothing" in note for note in notes(climbed(tmp_path, {}, seeds=2)))
