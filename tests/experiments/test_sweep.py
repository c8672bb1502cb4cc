"""Sweeps: what a file asks for, what is refused, what is done once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advantage.cli import main
from advantage.errors import UserError
from advantage.experiments import plans, sweep
from advantage.runs.reader import RunReader
from tests.experiments.in_process import Workers, restart_the_count

HEAD = 'algorithm = "a2c"\ntarget = "CartPole-v1"\n'
SHORT = "[settings]\nsteps = 320\nnum_envs = 4\n"


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    own = Workers()
    monkeypatch.setattr(plans, "work", own)
    return own


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + SHORT + "[grid]\ngamma = [0.9, 0.99]\nnetwork = [[8], [8, 8]]\n")
    found = sweep.read(path)
    assert found.seeds == 3
    together = [(choice.settings["gamma"], choice.settings["network"]) for choice in found.choices]
    assert together == [(0.9, [8]), (0.9, [8, 8]), (0.99, [8]), (0.99, [8, 8])]
    assert all(choice.settings["steps"] == 320 for choice in found.choices)
    assert found.choices[1].name == "02-gamma-0.9_network-8-8"
    assert sweep.read(path, 7).seeds == 7


def test_a_list_is_itself_and_may_change_the_algorithm(tmp_path: Path) -> None:
    text = "seeds = 2\n" + HEAD + SHORT + '[[runs]]\ngamma = 0.9\n[[runs]]\nalgorithm = "ppo"\nnum_envs = 8\n'
    found = sweep.read(written(tmp_path, text))
    assert [(choice.algorithm, dict(choice.settings)) for choice in found.choices] == [
        ("a2c", {"steps": 320, "num_envs": 4, "gamma": 0.9}),
        ("ppo", {"steps": 320, "num_envs": 8}),
    ]
    names = [experiment.name for experiment in sweep.plan("mine.toml", found)]
    assert names == [
        "01-gamma-0.9-s0",
        "02-algorithm-ppo_num_envs-8-s0",
        "01-gamma-0.9-s1",
        "02-algorithm-ppo_num_envs-8-s1",
    ]


MISTAKES = {
    "setting": (HEAD + "[grid]\ngama = [1.0]", "did you mean gamma"),
    "peer's word": (HEAD + "[settings]\nn_steps = 5\n[grid]\ngamma = [1.0]", "n_steps is called num_steps here"),
    "value": (HEAD + "[grid]\ngamma = [0.9, 1.5]", "gamma is 1.5"),
    "no list": (HEAD + "[grid]\ngamma = 0.9", "grid.gamma is 0.9; it must be a list"),
    "empty list": (HEAD + "[grid]\ngamma = []", "grid.gamma is empty"),
    "empty grid": (HEAD + "[grid]\n", "nothing varies"),
    "no grid": (HEAD, "nothing varies"),
    "empty runs": (HEAD + "runs = []", "runs is empty"),
    "runs no tables": (HEAD + "runs = [1]", "[[runs]]"),
    "both": (HEAD + "[grid]\ngamma = [1.0]\n[[runs]]\ngamma = 0.9", "give one of them"),
    "top level": ("gamma = 0.9\n" + HEAD, "a setting stands in [settings]"),
    "env": ('env = "CartPole-v1"\n' + HEAD, "env is called target here"),
    "misspelt part": (HEAD + "[gird]\ngamma = [1.0]", "did you mean grid"),
    "grid no table": (HEAD + "grid = 3", "[grid]"),
    "no algorithm": ('target = "CartPole-v1"\n[grid]\ngamma = [1.0]', "algorithm is None"),
    "algorithm": (HEAD.replace("a2c", "a3c") + "[grid]\ngamma = [1.0]", "did you mean a2c"),
    "target": (HEAD.replace("Pole", "Poel") + "[grid]\ngamma = [1.0]", "CartPole-v1"),
    "argument": (HEAD + "[settings]\nenv_args = {colour = 1}\n[grid]\ngamma = [1.0]", "colour"),
    "twice": (HEAD + "[grid]\ngamma = [0.99, 0.99]", "are the same settings"),
    "twice, by default": (HEAD + "[[runs]]\ngamma = 0.99\n[[runs]]\n", "are the same settings"),
    "seeds": ("seeds = 0\n" + HEAD + "[grid]\ngamma = [1.0]", "seeds is 0"),
    "seed": (HEAD + "[grid]\nseed = [1, 2]", "seeds = N"),
    "no TOML": ("algorithm = ", "TOML"),
}


@pytest.mark.parametrize(("text", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_the_file_and_leaves_nothing(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, text)
    assert main(["sweep", "mine.toml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("advantage: mine.toml: ") and told in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--workers", "0"], "--workers is '0'"), (["--seeds", "0"], "--seeds is '0'"), (["--seeds", "x"], "'x'")],
)
def test_no_seeds_and_no_workers(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "nowhere.toml", *words]) == 2
    assert told in capsys.readouterr().err
    assert main(["sweep", "nowhere.toml"]) == 2
    assert "there is no such sweep file" in capsys.readouterr().err


def test_runs_are_done_once_and_more_seeds_are_added(
    tmp_path: Path, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, HEAD + SHORT + "[grid]\ngamma = [0.5, 0.99]\nenv_args = [{sutton_barto_reward = false}]\n")
    out = tmp_path / "out"
    command = ["sweep", str(path), "--out", str(out), "--workers", "1", "--quiet", "--json"]
    assert main([*command, "--seeds", "2"]) == 0
    assert len(workers.jobs) == 4
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["label"] for row in found["groups"]} == {"a2c, gamma=0.5", "a2c, gamma=0.99"}
    assert [row["seeds"] for row in found["groups"]] == [[0, 1], [0, 1]]
    assert found["groups"][0]["mean"] >= found["groups"][1]["mean"]  # the best first: what the others are set against
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    config = RunReader(out / "01-gamma-0.5_env_args-sutton_barto_reward-false-s1").config
    assert (config["seed"], config["settings"]["gamma"], config["settings"]["threads"]) == (1, 0.5, 1)
    assert config["settings"]["env_args"] == {"sutton_barto_reward": False}
    killed = out / "01-gamma-0.5_env_args-sutton_barto_reward-false-s2"  # while its folder was being made
    (killed / "policy").mkdir(parents=True)
    assert main([*command, "--seeds", "3"]) == 0
    assert RunReader(killed).status()["state"] == "finished"
    assert [job.name[-2:] for job in workers.jobs[4:]] == ["s2", "s2"]


def test_another_file_in_the_same_folder_is_refused(
    tmp_path: Path, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["sweep", str(tmp_path / "mine.toml"), "--out", str(out), "--seeds", "1", "--quiet"]
    written(tmp_path, HEAD + SHORT + "[grid]\ngamma = [0.5]\n")
    assert main(command) == 0
    written(tmp_path, "# the same\n" + HEAD + SHORT + "[[runs]]\ngamma = 0.5\n")
    assert main(command) == 0 and len(workers.jobs) == 1
    written(tmp_path, HEAD + SHORT + "[grid]\ngamma = [0.6]\n")
    assert main(command) == 2
    assert "holds another sweep" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for folder, told in (("full", "not empty"), ("full/mine", "a file is in the way")):
        assert main([*command, "--out", str(tmp_path / folder)]) == 2
        assert told in capsys.readouterr().err


def test_a_run_that_fails_is_told_and_the_others_are_compared(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    restart_the_count(monkeypatch)
    monkeypatch.setenv("CRASH_AT", "100")
    text = HEAD.replace("CartPole-v1", "tests.test_cli:Crashing-v0") + SHORT + "[grid]\ngamma = [0.5, 0.6]\n"
    command = [
        "sweep",
        str(written(tmp_path, text)),
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "1",
        "--quiet",
        "--json",
    ]
    assert main(command) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["failed"]) == {"01-gamma-0.5-s0"}  # the count goes on in the next run of this process
    assert len(found["groups"]) == 2
    assert main(command) == 0  # what failed goes on, what is finished stays
    assert [job.name for job in workers.jobs[2:]] == ["01-gamma-0.5-s0"] and "resume" in workers.jobs[-1].words


def test_only_the_best_are_drawn(tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "DRAWN", 1)
    path = written(tmp_path, HEAD + SHORT + "[grid]\ngamma = [0.5, 0.99]\n")
    found = sweep.run(path, 1, 1, tmp_path / "out", quiet=True).comparison
    assert found is not None and len(found.rows) == 2
    assert "the picture has the best 1 of 2" in found.notes


def test_a_run_in_use_is_left_alone(tmp_path: Path) -> None:
    from advantage.runs.directory import RunDirectory

    asked = sweep.read(written(tmp_path, HEAD + SHORT + "[grid]\ngamma = [0.5]\n"), 1)
    (experiment,) = sweep.plan("mine.toml", asked)
    with RunDirectory.create(
        tmp_path / "out" / experiment.name, algorithm="a2c", target="CartPole-v1", seed=0, command="x", tables={}
    ) as other:
        other.write_status("running")
        with pytest.raises(UserError, match="in use by process"):
            plans.run_all([experiment], tmp_path / "out", 1, quiet=True)


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Real processes, stopped by SIGINT in mid-run; policies equal those of a sweep that was left alone."""
    import os
    import signal
    import subprocess
    import sys
    import time

    settings = "[settings]\nsteps = 60000\nnum_envs = 4\ncheckpoint_every = 0.5\n"
    path = written(tmp_path, HEAD + settings + "[grid]\ngamma = [0.9, 0.99]\n")

    def begin(out: str) -> subprocess.Popen[bytes]:
        words = ["sweep", str(path), "--seeds", "1", "--workers", "2", "--out", str(tmp_path / out), "--quiet"]
        return subprocess.Popen([sys.executable, "-m", "advantage.cli", *words])

    assert begin("whole").wait() == 0
    stopped = begin("stopped")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "stopped").glob("*/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(stopped.pid, signal.SIGINT)
    assert stopped.wait() == 130
    states = {RunReader(run).status()["state"] for run in (tmp_path / "stopped").glob("*-s0")}
    assert "stopped" in states
    assert begin("stopped").wait() == 0
    policies = sorted(
        each.relative_to(tmp_path / "whole") for each in (tmp_path / "whole").glob("*/policy/*.safetensors")
    )
    assert len(policies) >= 2
    for each in policies:
        assert (tmp_path / "whole" / each).read_bytes() == (tmp_path / "stopped" / each).read_bytes()
