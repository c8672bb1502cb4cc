"""From episodes to a score, an end and a threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advantage.experiments.measured import WINDOW, at_the_end, reached, result, score
from advantage.trajectory import Episode
from tests.views.synthetic import make_run


def test_the_score_is_the_mean_of_the_last_twenty_episodes() -> None:
    rng = np.random.default_rng(0)
    returns, steps = rng.normal(size=70), np.sort(rng.integers(0, 30, 70)) * 10
    curve = score(returns, steps)
    assert curve.steps.tolist() == sorted(set(steps.tolist()))
    for at, value in zip(curve.steps, curve.values, strict=True):
        before = returns[: np.flatnonzero(steps <= at)[-1] + 1]
        assert value == pytest.approx(before[-WINDOW:].mean())
    assert len(score(np.empty(0), np.empty(0)).steps) == 0


def test_the_end_is_the_last_tenth_or_what_there_is() -> None:
    curve = score(np.arange(1.0, 11.0), np.arange(1, 11) * 10)
    assert at_the_end(curve, 100.0) == curve.values[-1]
    assert at_the_end(curve, 50.0) == pytest.approx(curve.values[4:].mean())  # an update may pass the budget
    assert at_the_end(curve, 1000.0) == curve.values[-1]  # it broke off
    assert at_the_end(score(np.empty(0), np.empty(0)), 100.0) is None


def test_the_threshold_is_reached_once_and_for_all() -> None:
    curve = score(np.array([0.0, 10.0, 0.0]), np.array([10, 20, 30]))
    assert reached(curve, 5.0) == 20.0
    assert reached(curve, 5.1) is None


def test_a_rung_of_two_runs_and_one_that_is_not_there(tmp_path: Path) -> None:
    rows = [{"train/kl": 0.1 * i} for i in range(1, 11)]
    episodes = {i: [Episode(0, 10, 50.0 * i, "terminated")] for i in range(1, 11)}
    settings = {"steps": 1000}
    runs = [
        make_run(tmp_path / "a-s0", rows, finished=episodes, settings=settings),
        make_run(tmp_path / "a-s1", rows[:5], finished=episodes, settings=settings, seed=1, state="failed"),
        tmp_path / "a-s2",
    ]
    noise = tmp_path / "noise.json"
    noise.write_text('{"a-s0": {"scale": 120.0}, "a-s1": {"scale": null}}')
    found = result("A", runs, [noise, noise, tmp_path / "none.json"], threshold=100.0)
    assert found.measured.returns == {0: 275.0, 1: 150.0}
    assert found.measured.reached == {0: 300.0, 1: 300.0}
    assert found.measured.noise == {0: 120.0}
    assert found.measured.moved == pytest.approx({0: 0.55, 1: 0.3})
    assert found.far[0] == pytest.approx(0.955)
    assert found.measured.failed == (1, 2)
    assert result("A", runs, [noise, noise, noise], threshold=None).measured.reached == {}
