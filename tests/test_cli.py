"""The command line: exit codes, one line a mistake, nothing left behind, the last line of --json."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import advantage
from advantage.cli import COMMANDS, main

LANGUAGE = {"models", "generate", "data", "label"}  # see test_cli_language.py
EXPERIMENTS = {"ladder", "sweep"}  # see tests/experiments
BENCHMARKS = {"bench"}  # see test_cli_bench.py

QUICK = ["--steps", "512", "--set", "num_steps=32", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run on CartPole."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "ppo", "CartPole-v1", "--run-dir", str(path), *QUICK]) == 0
    return path


MISTAKES = {
    "command": (["trian"], "did you mean train"),
    "algorithm": (["train", "pp0", "CartPole-v1"], "did you mean ppo"),
    "environment": (["train", "ppo", "CartPol-v1"], "CartPole-v1"),
    "module": (["train", "ppo", "no_such_module:Thing-v0"], "no_such_module"),
    "setting": (["train", "ppo", "CartPole-v1", "--set", "num_step=3"], "num_steps"),
    "peer's word": (["train", "ppo", "CartPole-v1", "--set", "clip_coef=0.1"], "eps_low and eps_high"),
    "no value": (["train", "ppo", "CartPole-v1", "--set", "gamma"], "NAME=VALUE"),
    "gamma": (["train", "ppo", "CartPole-v1", "--set", "gamma=1.5"], "1.5"),
    "nan": (["train", "ppo", "CartPole-v1", "--set", "learning_rate=nan"], "nan"),
    "negative": (["train", "ppo", "CartPole-v1", "--set", "learning_rate=-1e-3"], "-0.001"),
    "schedule": (["train", "ppo", "CartPole-v1", "--set", "learning_rate=lin_fast"], "lin_fast"),
    "no steps": (["train", "ppo", "CartPole-v1", "--steps", "0"], "0"),
    "fewer steps": (["train", "ppo", "CartPole-v1", "--steps", "-5"], "-5"),
    "many": (["train", "ppo", "CartPole-v1", "--steps", "many"], "many"),
    "seed": (["train", "ppo", "CartPole-v1", "--seed", "x"], "'x'"),
    "minibatch": (["train", "ppo", "CartPole-v1", "--set", "minibatch_size=100000"], "100000"),
    "env argument": (["train", "ppo", "CartPole-v1", "--env", "colour=red"], "colour"),
    "no file": (["train", "ppo", "CartPole-v1", "--config", "nowhere.toml"], "nowhere.toml"),
    "missing run": (["eval", "nowhere"], "nowhere"),
    "missing argument": (["compare"], "RUN"),
    "dry environment": (["train", "ppo", "CartPole-v9", "--dry-run"], "CartPole-v1"),
    "dry argument": (["train", "ppo", "CartPole-v1", "--dry-run", "--env", "colour=red"], "colour"),
    "long directory": (["train", "ppo", "CartPole-v1", "--run-dir", "x" * 300], "too long"),
    "long target": (["train", "ppo", "x" * 300], "unknown environment"),
    "long run": (["eval", "x" * 300], "no such run"),
    "target no text": (["train", "ppo", "Cart\udcff-v1"], "UTF-8"),
    "seed beyond": (["train", "ppo", "CartPole-v1", "--seed", "9" * 20], "a whole number from 0 to 9,223,372,036"),
    "resumed by no steps": (["resume", "run", "--steps", "0"], "--steps is '0'; it must be a whole number from 1"),
    "language flag": (["train", "ppo", "CartPole-v1", "--task", "add"], "--task is for language models"),
    "language flags": (["train", "ppo", "CartPole-v1", "--reward", "exact"], "--reward is for language models"),
    "space": (["train", "ppo", "tests.test_cli:Words-v0"], "Text"),
}


@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_nothing(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("advantage: ") and told in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps = 9\n[settings]\ngamma = 0.9", "steps stands beside [settings]"),
        ("seed = 'x'\n[settings]\ngamma = 0.9", "seed is 'x'"),
        ("gamma = ", "TOML"),
        ("gama = 0.9", "gamma"),
        ("settings = 3", "3"),
        ("[settings]\ngamma = 'x'", "'x'"),
    ],
)
def test_a_bad_settings_file(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(text)
    assert main(["train", "ppo", "CartPole-v1", "--config", "mine.toml"]) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_run_directory_that_cannot_be(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for path, told in ((tmp_path / "file", "file"), (run, "not empty")):
        assert main(["train", "ppo", "CartPole-v1", "--run-dir", str(path)]) == 2
        assert told in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_crashing_environment_exits_with_1_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "run")
    monkeypatch.setenv("CRASH_AT", "700")
    target = ["train", "ppo", "tests.test_cli:Crashing-v0", "--run-dir", path, "--checkpoint-every", "0", "--quiet"]
    assert main([*target, "--steps", "2048", "--set", "num_steps=32"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the wheel came off" in error
    assert main(["doctor", path]) == 1
    monkeypatch.setenv("CRASH_AT", "1000000")
    assert main(["resume", path, "--quiet"]) == 0
    assert advantage.load(path).reader.status()["state"] == "finished"


def test_every_command_has_help_and_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert "--json" in capsys.readouterr().out
    calls = {
        "algorithms": [],
        "train": ["ppo", "CartPole-v1", "--run-dir", str(tmp_path / "other"), *QUICK],
        "resume": [str(run), "--steps", "768", "--quiet"],
        "eval": [str(run), "--episodes", "3"],
        "runs": [str(run.parent)],
        "compare": [str(run), "--out", str(tmp_path / "curve.png")],
        "report": [str(run)],
        "export": [str(run), "--to", "csv"],
        "doctor": [str(run)],
        "explain": [str(run), "--stream", "1", "--step", "2"],
        "solve": ["gridworld", "--method", "value_iteration"],
    }
    assert set(calls) == set(COMMANDS) - LANGUAGE - EXPERIMENTS - BENCHMARKS
    for name, arguments in calls.items():
        assert main([name, *arguments, "--json"]) == 0
        json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(("arguments", "key"), [(["algorithms"], "algorithms"), (["runs"], "runs")])
def test_lists_stand_under_a_key(arguments: list[str], key: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = [str(run.parent)] if arguments == ["runs"] else []
    assert main([*arguments, *place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])[key]


def test_an_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "nowhere", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"error": "nowhere: there is no such run", "exit": 2}


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--steps", "100"], "usage:"), (["--seed", "3", "ppo"], "minibatch_size"), (["pp0"], "did you mean ppo")],
)
def test_help_wherever_it_is_asked(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(["train", *words, "--help"])
    assert told in "".join(capsys.readouterr())


def test_a_broken_run_is_listed_beside_the_others(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.toml").write_text("format =")
    assert main(["runs", str(tmp_path), "--json"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    assert [row["state"] for row in json.loads(last)["runs"]] == ["finished", "unreadable"]
    assert "cannot be read" in text[-1]


@pytest.mark.parametrize("path", ["episode.mp4", "/proc/episode.gif", "absent/a.gif"])
def test_a_video_that_cannot_be_is_refused_before_the_episodes(
    path: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(advantage.Run, "evaluate", lambda *_: pytest.fail("episodes were played"))
    assert main(["eval", str(run), "--video", path]) == 2
    assert path in capsys.readouterr().err and not Path("absent").exists()


def test_a_video_is_made_without_a_word_where_there_is_no_display(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert main(["eval", str(run), "--episodes", "1", "--video", str(tmp_path / "a.gif")]) == 0
    assert main(["solve", "FrozenLake-v1", "--method", "value_iteration", "--video", str(tmp_path / "b.gif")]) == 0
    assert capfd.readouterr().err == "" and "SDL_VIDEODRIVER" not in os.environ


def test_resume_keeps_the_last_total_and_says_what_it_did(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my run"
    shutil.copytree(run, path)
    about = json.loads((path / "status.json").read_text())
    steps = about["steps"]
    (path / "status.json").write_text(json.dumps({**about, "state": "stopped", "total": steps + 5000}))
    assert main(["resume", str(path), "--steps", str(steps + 256), "--quiet"]) == 0
    assert f"next: advantage eval '{path}' · " in capsys.readouterr().out
    assert main(["resume", str(path), "--quiet"]) == 0
    assert "is finished" in capsys.readouterr().out
    status = advantage.load(path).reader.status()
    assert status["total"] == steps + 256 and status["steps"] < steps + 512
    assert main(["report", str(path)]) == 0
    assert f"a resume made them {steps + 256:,}" in (path / "report.html").read_text()


def test_a_torn_status_and_a_torn_rollout_stop_no_command(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    shutil.copytree(run, path)
    (path / "status.json").write_text('{"state": "fin')
    (path / "rollout" / "rollout.safetensors").write_bytes(b"")
    for command in ("report", "doctor", "runs", "compare"):
        assert main([command, str(path.parent if command == "runs" else path)]) == 0
    assert "rollout.safetensors: cannot be read" in (path / "report.html").read_text()
    assert main(["explain", str(path)]) == 2
    capsys.readouterr()
    assert main(["resume", str(path)]) == 0
    told = capsys.readouterr()
    assert "status.json could not be read" in told.err and "is finished" in told.out


@pytest.mark.parametrize(
    ("line", "instead", "told"),
    [
        ("network = [64, 64]", "network = [32]", "are not the run's"),
        ("gamma = 0.98", "gamma = 'zz'", "gamma is 'zz'; it must be a number"),
    ],
)
def test_settings_that_a_pen_has_spoilt(
    line: str, instead: str, told: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    text = config.read_text()
    assert line in text
    config.write_text(text.replace(line, instead))
    for command in (["eval"], ["explain"], ["resume", "--steps", "9999"]):
        assert main([*command, str(tmp_path / "run")]) == 2
        assert told in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run")]) == (2 if "zz" in instead else 0)


def test_eval_prints_what_scripts_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--episodes", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == {"mean", "std", "episodes", "lengths_mean"} and found["episodes"] == 3


@pytest.mark.parametrize("flag", ["--task", "--samples", "--compare"])
def test_eval_refuses_what_is_for_language(flag: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), flag, "3"]) == 2
    assert f"{flag} is for language models" in capsys.readouterr().err


def test_dry_run_prints_settings_that_a_file_can_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "train",
                "ppo",
                "CartPole-v1",
                "--dry-run",
                "--seed=7",
                "--set=gamma=0.9",
                "--env=sutton_barto_reward=true",
            ]
        )
        == 0
    )
    (tmp_path / "printed.toml").write_text(printed := capsys.readouterr().out)
    arguments = ["train", "ppo", "CartPole-v1", "--dry-run", "--config", str(tmp_path / "printed.toml")]
    assert main(arguments) == 0
    assert capsys.readouterr().out == printed
    assert "gamma = 0.9" in printed and "sutton_barto_reward" in printed and "seed = 7" in printed
    assert main([*arguments, "--seed", "8"]) == 0
    assert capsys.readouterr().out == printed.replace("seed = 7", "seed = 8")


def test_a_mistyped_command_and_help_import_nothing_heavy() -> None:
    script = (
        "import sys; from advantage.cli import main\n"
        "try: main([sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'gymnasium', 'rich'} & set(sys.modules), set(sys.modules)"
    )
    for word in ("trian", "--help", "algorithms"):
        subprocess.run([sys.executable, "-c", script, word], check=True, capture_output=True, env=os.environ)


def _register() -> None:
    import gymnasium as gym
    import numpy as np
    from gymnasium.envs.classic_control import CartPoleEnv

    class Crashing(CartPoleEnv):
        steps = 0

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
            type(self).steps += 1
            if type(self).steps == int(os.environ["CRASH_AT"]):
                raise RuntimeError("the wheel came off")
            return super().step(action)

    class Words(gym.Env[str, int]):
        observation_space = gym.spaces.Text(5)
        action_space = gym.spaces.Discrete(2)

    gym.register("Crashing-v0", Crashing, max_episode_steps=50)
    gym.register("Words-v0", Words)


if "Crashing-v0" not in __import__("gymnasium").registry:
    _register()
