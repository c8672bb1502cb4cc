"""`advantage solve`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advantage.cli import main
from advantage.solving import CONTROL, METHODS, PLANNING

QUICK = ["--set", "episodes=200"]


def solved(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, Any]:
    assert main(["solve", *arguments, "--json"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    return "\n".join(text), json.loads(last)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_solves_the_grid_world(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, found = solved(capsys, "gridworld", "--method", method, *([] if method in PLANNING else QUICK))
    assert f"gridworld by {method}, γ = 0.9: 64 states, 4 actions" in text
    cells = [(row, col) for row in range(8) for col in range(8) if (row, col) not in {(0, 7), (3, 3)}]
    best = sum(0.9 ** (row + 7 - col - 1) for row, col in cells) / 62
    assert len(found["values"]) == 64 and found["optimal_return"] == pytest.approx(best, abs=1e-8)
    assert found["curve"] and found["env"] == "gridworld"
    if method in CONTROL:
        assert {"greedy_return", "largest_error", "rms_error"} <= set(found["curve"][-1])


@pytest.mark.parametrize("env", ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1"])
def test_gymnasiums_environments(env: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, found = solved(capsys, env, "--method", "value_iteration")
    assert found["gamma"] == 0.99 and found["return"] == pytest.approx(found["optimal_return"], abs=1e-6)
    assert {"FrozenLake-v1": "0.54 ←", "Taxi-v4": "passenger in the taxi, to green", "CliffWalking-v1": "cliff"}[
        env
    ] in text
    if env == "FrozenLake-v1":
        assert found["return_in_time"] == pytest.approx(0.74, abs=0.005)


def test_frozen_lake_by_q_learning(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("FrozenLake-v1", "--method", "q_learning")
    _, found = solved(capsys, *arguments, "--env", "is_slippery=false", "--set", "episodes=3000")
    assert found["return_in_time"] == 1.0
    text, found = solved(capsys, *arguments)
    assert found["return_in_time"] > found["optimal_return_in_time"] - 0.02
    assert "against Q*" in text


@pytest.mark.parametrize("env", ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1"])
@pytest.mark.parametrize("method", ["td_lambda", "sarsa_lambda"])
def test_traces_as_they_are_given_do_not_diverge(method: str, env: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On CliffWalking the return of the even policy is about −10,000; accumulating traces make 1e128 of it."""
    _, found = solved(capsys, env, "--method", method, "--set", "episodes=20")
    assert found["largest_error"] < 1000


def test_the_grid_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = solved(
        capsys, "gridworld", "--method", "policy_iteration", "--env", "rows=2", "--env", "cols=3",
        "--env", "rewards=0,2:1", "--env", "walls=0,1", "--gamma", "0.5",
    )  # fmt: skip
    assert text.splitlines()[-2:] == ["0.12 ↓  ██      +1", "0.25 →  0.50 →  1.00 ↑"]


@pytest.mark.parametrize("method", ["value_iteration", "q_learning", "td0"])
@pytest.mark.parametrize("env", ["gridworld", "Taxi-v4"])
def test_pictures_and_clips(env: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    out, clip = tmp_path / "a.png", tmp_path / "a.gif"
    quick = [] if method == "value_iteration" else QUICK
    video = ["--video", str(clip)] if method == "value_iteration" else []
    _, found = solved(capsys, env, "--method", method, "--out", str(out), *video, *quick)
    assert out.read_bytes().startswith(b"\x89PNG") and found["picture"] == str(out)
    if video:
        with Image.open(clip) as picture:
            assert getattr(picture, "n_frames", 1) > 3


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no table": (["CartPole-v1", "--method", "value_iteration"], "CartPole-v1 has no table P"),
    "method": (["gridworld", "--method", "q_lerning"], "unknown method 'q_lerning': did you mean q_learning"),
    "gamma": (["gridworld", "--method", "value_iteration", "--gamma", "1.5"], "gamma is 1.5; it must lie in [0, 1]"),
    "gamma word": (["gridworld", "--method", "value_iteration", "--gamma", "x"], "--gamma is 'x'"),
    "no method": (["gridworld"], "--method"),
    "environment": (["FrozenLak-v1", "--method", "value_iteration"], "FrozenLake-v1"),
    "argument": (["FrozenLake-v1", "--method", "value_iteration", "--env", "slippery=1"], "is_slippery"),
    "grid argument": (["gridworld", "--method", "value_iteration", "--env", "row=3"], "did you mean rows"),
    "grid cells": (["gridworld", "--method", "value_iteration", "--env", "walls=3"], "write cells as 1,1;2,1"),
    "setting": (["gridworld", "--method", "q_learning", "--set", "alfa=0.1"], "did you mean alpha"),
    "setting of another": (["gridworld", "--method", "td0", "--set", "epsilon=0.1"], "td0 has no setting 'epsilon'"),
    "word": (["gridworld", "--method", "q_learning", "--set", "alpha=high"], "alpha is 'high'; it must be a number"),
    "value": (["gridworld", "--method", "q_learning", "--set", "alpha=2"], "alpha is 2; it must lie in (0, 1]"),
    "initial word": (
        ["gridworld", "--method", "td0", "--set", "initial=high"],
        "initial is 'high'; it must be a number",
    ),
    "truth": (["gridworld", "--method", "value_iteration", "--set", "tolerance=true"], "must be a number"),
    "no truth": (["gridworld", "--method", "q_learning", "--set", "compiled=maybe"], "must be true or false"),
    "no word": (["gridworld", "--method", "value_iteration", "--set", "order=1"], "unknown order 1: known: in_place"),
    "trace": (["gridworld", "--method", "td_lambda", "--set", "trace=1"], "unknown trace 1: known: accumulating"),
    "both": (
        ["gridworld", "--method", "q_learning", "--set", "epsilon=0.1", "--set", "temperature=1"],
        "epsilon is 0.1 and temperature 1; give one of the two",
    ),
    "episodes": (["gridworld", "--method", "q_learning", "--set", f"episodes={10**14}"], "from 1 to 100,000,000"),
    "steps": (["gridworld", "--method", "monte_carlo", "--set", f"max_steps={10**14}"], "from 1 to 100,000,000"),
    "n": (["gridworld", "--method", "n_step_td", "--set", f"n={10**14}"], "from 1 to 100,000,000"),
    "sweeps": (["gridworld", "--method", "value_iteration", "--set", "max_sweeps=-5"], "max_sweeps is -5"),
    "size": (
        ["gridworld", "--method", "prioritized_sweeping", "--env", "rows=100000", "--env", "cols=100000"],
        "must be a whole number from 1 to 100,000,000",
    ),
    "map": (
        ["FrozenLake-v1", "--method", "value_iteration", "--env", "map_name=9x9"],
        "map_name is '9x9'; known: 4x4, 8x8",
    ),
    "reward": (
        ["gridworld", "--method", "value_iteration", "--env", "rewards=0,7:nan"],
        "the reward of (0, 7) is nan; it must be finite",
    ),
    "picture": (["gridworld", "--method", "q_learning", "--out", "a.jpg"], "a picture is .png, not .jpg"),
    "video": (["gridworld", "--method", "q_learning", "--video", "a.mp4"], "it must end in .gif or .webp"),
    "picture's folder": (
        ["gridworld", "--method", "q_learning", "--out", "absent/a.png"],
        "absent/a.png: the directory absent does not exist; make it, or give another path",
    ),
    "video's folder": (
        ["gridworld", "--method", "q_learning", "--video", "absent/a.gif"],
        "absent/a.gif: the directory absent does not exist; make it, or give another path",
    ),
    "improper": (["gridworld", "--method", "value_iteration", "--gamma", "nan"], "gamma is nan"),
}


@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["solve", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("advantage: ") and told in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["q_learning", "td0", "policy_evaluation"])
def test_what_has_no_optimum_is_refused_before_anything_is_learnt(
    method: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def learn(*given: Any, episodes: int = 0, alpha: Any = None, epsilon: Any = None, **others: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(f"advantage.solving.tabular.{method}", learn)
    grid = ["--env", "rows=1", "--env", "cols=2", "--env", "rewards=0,0:1", "--env", "terminal="]
    assert main(["solve", "gridworld", "--method", method, "--gamma", "1", *grid]) == 2
    assert "gridworld has no best policy to compare with at gamma 1" in capsys.readouterr().err


def test_what_was_learnt_is_shown_where_the_policy_has_no_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At γ = 1 the greedy policy of a few episodes goes in circles: its exact values are −∞."""
    out = ["--out", str(tmp_path / "a.png")]
    arguments = ["--gamma", "1", "--set", "epsilon=0", "--set", "episodes=2", *out]
    text, found = solved(capsys, "CliffWalking-v1", "--method", "sarsa", *arguments)
    assert found["largest_error"] is None and found["return"] is None and len(found["q"]) == 48
    assert "does not exist: γ is 1 and the policy may never end" in text


@pytest.mark.parametrize("method", ["q_learning", "sarsa", "td0"])
def test_more_states_than_snapshots_are_kept_of(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--set", "episodes=2", "--set", "max_steps=50", "--out", str(tmp_path / "a.png")]
    large = ["--env", "rows=101", "--env", "cols=100", "--env", "slip=0.1"]
    _, found = solved(capsys, "gridworld", "--method", method, *large, *quick)
    assert found["states"] == 10_100 and found["largest_error"] > 0 and found["return"] is not None
    assert [entry["largest_error"] for entry in found["curve"]] == [None, None]


def test_what_does_not_fit_in_memory_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*given: Any, **others: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("advantage.solving.GridWorld", full)
    assert main(["solve", "gridworld", "--method", "value_iteration"]) == 2
    assert "gridworld by value_iteration does not fit in memory; ask for fewer" in capsys.readouterr().err


def test_a_history_that_was_cut_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("advantage.tabular.planning.KEPT_NUMBERS", 3 * 64 * 9)
    assert main(["solve", "gridworld", "--method", "value_iteration"]) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "history holds those up to 3, and the last" in error


def test_first_values(capsys: pytest.CaptureFixture[str]) -> None:
    cell = ["--env", "rows=1", "--env", "cols=2", "--env", "rewards=0,1:1"]
    first = ["--set", "initial=3", "--set", "alpha=0.5", "--set", "episodes=1", "--set", "max_steps=1"]
    _, found = solved(capsys, "gridworld", "--method", "q_learning", *cell, *first)
    assert found["values"] == [3.0, 0.0] and sorted(found["q"][0])[1:] == [3.0, 3.0, 3.0]
