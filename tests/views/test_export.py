from __future__ import annotations

import csv
import math
import sqlite3
import sys
from pathlib import Path

import pytest

from advantage.errors import UserError
from advantage.runs.database import Database
from advantage.views.export import export
from tests.views.synthetic import episodes, make_run

ROWS = [
    {"train/entropy": 0.1, "train/minibatches": 20.0},
    {"train/entropy": math.nan, "eval/mean_reward": -math.inf},
    {"train/entropy": math.inf, "train/minibatches": 2.0**60},
]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_an_update_and_tells_absent_from_not_finite(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ROWS, finished={2: episodes(1.5, -2.0)})
    assert export(run, "csv") == run / "csv"
    first, second, third = read(run / "csv" / "metrics.csv")
    assert list(first)[:5] == ["update", "env_steps", "tokens", "wall_time", "attempt"]
    assert (first["update"], first["env_steps"], first["tokens"], first["wall_time"]) == ("1", "100", "", "2")
    assert (first["train/entropy"], first["train/minibatches"], first["eval/mean_reward"]) == ("0.1", "20", "")
    assert (second["train/entropy"], second["train/minibatches"], second["eval/mean_reward"]) == ("nan", "", "-inf")
    assert (third["train/entropy"], float(third["train/minibatches"])) == ("inf", 2.0**60)
    assert [row["return"] for row in read(run / "csv" / "episodes.csv")] == ["1.5", "-2.0"]


def test_csv_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-310, -1e300, 2.0**53 + 2, 1 / 3]
    run = make_run(tmp_path / "run", [{"x": value} for value in values])
    found = [float(row["x"]) for row in read(export(run, "csv", tmp_path / "out") / "metrics.csv")]
    assert found == values


def test_a_run_without_rows_gives_headers(tmp_path: Path) -> None:
    folder = export(make_run(tmp_path / "run", state=None), "csv")
    assert (folder / "metrics.csv").read_text(encoding="utf-8") == "update,env_steps,tokens,wall_time,attempt\n"


def test_tensorboard_holds_steps_values_and_wall_times(tmp_path: Path) -> None:
    """Two attempts: the second goes on after update 2. Its updates keep their distance from its own start."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = make_run(tmp_path / "run", ROWS)
    database = Database(run / "metrics.sqlite", 2, {})
    database.tick(3, 300, None, 4.0 + 7.0)
    database.scalars(3, {"train/entropy": 0.75})
    database.close()
    connection = sqlite3.connect(run / "metrics.sqlite")
    connection.execute("UPDATE attempts SET started = 1000.0 * id")
    connection.commit()
    connection.close()

    folder = export(run, "tensorboard", tmp_path / "out")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    found = [(event.step, event.value, event.wall_time) for event in events.Scalars("train/entropy")]
    assert found[0] == (100, pytest.approx(0.1), 1002.0)
    assert found[1][0] == 200 and math.isnan(found[1][1])
    assert found[2] == (300, 0.75, 2007.0)
    (evaluation,) = events.Scalars("eval/mean_reward")
    assert (evaluation.step, evaluation.value) == (200, -math.inf)


def test_exporting_again_replaces_our_file_alone(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = make_run(tmp_path / "run", ROWS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.out.tfevents.1.other").write_text("theirs", encoding="utf-8")
    for _ in range(2):
        export(run, "tensorboard", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.advantage"))) == 1
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_language_runs_are_exported_over_updates(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = make_run(tmp_path / "run", [{"reward": 1.0}, {"reward": 2.0}], language=True)
    events = accumulator.EventAccumulator(str(export(run, "tensorboard"))).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(1, 1.0), (2, 2.0)]


def test_what_cannot_be_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", ROWS)
    with pytest.raises(UserError, match="no export to 'tensorbord'; did you mean tensorboard"):
        export(run, "tensorbord")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no such run"):
        export(tmp_path / "nothing", "csv")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="file: cannot be written"):
        export(run, "csv", tmp_path / "file")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r'pip install "advantage\[tensorboard\]"'):
        export(run, "tensorboard", tmp_path / "never")
    assert not (tmp_path / "never").exists()
