"""`advantage bench`: what it refuses, how it calls the benchmarks of a checkout, what it hands on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from advantage import cli_bench
from advantage.cli import main
from advantage.language import fetching
from benchmarks import language, returns, speed

TOLD = """
import json, os, pathlib, sys
with open("told.jsonl", "a") as file:
    print(json.dumps({"words": sys.argv[1:], "path": os.environ["PYTHONPATH"], "name": __spec__.name}), file=file)
"""
TABLE = """
print("a line")
print("| a | b |\\n|---|---|\\n| 1 | x, y |")
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in whose benchmarks write down how they were called."""
    here = tmp_path / "checkout"
    (here / "benchmarks").mkdir(parents=True)
    (here / "benchmarks" / "__init__.py").touch()
    for name in ("returns", "speed", "language"):
        (here / "benchmarks" / f"{name}.py").write_text(TOLD + TABLE)
    monkeypatch.setattr(cli_bench, "find_checkout", lambda: here)
    monkeypatch.setattr(fetching, "verified_smollm2", lambda: None)
    monkeypatch.chdir(tmp_path)
    return here


def calls(checkout: Path) -> list[list[str]]:
    lines = [json.loads(line) for line in (checkout / "told.jsonl").read_text().splitlines()]
    assert all(line["path"].split(os.pathsep)[0] == str(cli_bench.PACKAGE) for line in lines)
    return [[line["name"].removeprefix("benchmarks."), *line["words"]] for line in lines]


def test_control_measures_speed_and_returns(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "control", "--json"]) == 0
    out = str(checkout.parent / "runs" / "bench")
    assert calls(checkout) == [["returns", "--dry-run"], ["speed", "--pairs", "3"], ["returns", "--out", out]]
    *text, last = capsys.readouterr().out.splitlines()
    table = {"head": ["a", "b"], "rows": [["1", "x, y"]]}
    assert json.loads(last) == {"tables": [table, table], "out": out}
    assert text.count("a line") == 2 and text.count("| 1 | x, y |") == 2


def test_what_is_chosen_is_handed_on(checkout: Path) -> None:
    arguments = ["--pairs", "2", "--seeds", "4", "--steps", "4000", "--workers", "1", "--out", "here"]
    assert main(["bench", "control", "ppo", "trpo", *arguments]) == 0
    flags = ["ppo", "trpo", "--seeds", "4", "--steps", "4000", "--workers", "1"]
    assert calls(checkout) == [
        ["returns", *flags, "--dry-run"],
        ["speed", "--pairs", "2", "--cases", "ppo", "trpo"],
        ["returns", *flags, "--out", str(checkout.parent / "here")],
    ]


def test_language(checkout: Path) -> None:
    assert main(["bench", "language", "grpo", "dpo", "--pairs", "1"]) == 0
    assert calls(checkout) == [["language", "grpo", "dpo", "--pairs", "1"]]


def parsed(program: Any, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [program.__name__, *words])
    program.main()


def test_the_benchmarks_know_what_is_offered() -> None:
    control = set(cli_bench.BENCHES["control"].cases)
    assert control == set(returns.algorithms()) == {case.split()[0] for case in speed.STEPS}
    assert speed.STEPS.keys() == speed.SETTINGS.keys()
    assert set(cli_bench.BENCHES["language"].cases) == {*language.CASES, "alone"}


def test_the_benchmarks_take_these_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        speed, "measure", lambda who, case, core, settings: {"speed": 2.0 + (who == "ours"), "memory": 1}
    )
    parsed(speed, ["--pairs", "2", "--cases", "ppo", "trpo"], monkeypatch)
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["| ppo CartPole-v1", "| ppo LunarLander-v3", "| trpo CartPole-v1"]
    flags = ["ppo", "trpo", "--seeds", "4", "--steps", "4000", "--workers", "1", "--dry-run"]
    parsed(returns, flags, monkeypatch)
    told = capsys.readouterr().out
    assert "ppo CartPole-v1" in told and "trpo CartPole-v1" in told and told.count("steps = 4000") == 2


MISTAKES = {
    "no world": ([], "world"),
    "another world": (["contrl"], "contrl"),
    "case": (["control", "pp0"], "did you mean ppo"),
    "another world's case": (["control", "grpo"], "bench control has no 'grpo'"),
    "pairs": (["control", "--pairs", "0"], "--pairs is '0'; it must be a whole number from 1"),
    "seeds": (["control", "--seeds", "many"], "--seeds is 'many'"),
    "steps": (["control", "--steps", "1.5"], "--steps is '1.5'"),
    "workers": (["control", "--workers", "-1"], "--workers is '-1'"),
    "seeds of language": (["language", "--seeds", "3"], "--seeds is for bench control"),
    "folder": (["control", "--out", "/proc/here"], "--out /proc/here"),
}


@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_measures_nothing(
    arguments: list[str], told: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("advantage: ") and told in error
    assert not (checkout / "told.jsonl").exists() or calls(checkout) == [["returns", "--dry-run"]]


@pytest.mark.parametrize(("world", "package"), [("control", "sb3-contrib"), ("language", "trl")])
def test_a_missing_peer_is_named(
    world: str, package: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = cli_bench.importlib.util.find_spec
    monkeypatch.setattr(
        cli_bench.importlib.util, "find_spec", lambda name: None if name in ("sb3_contrib", "trl") else find(name)
    )
    assert main(["bench", world]) == 2
    assert f"bench {world} needs {package}: pip install" in capsys.readouterr().err
    assert not (checkout / "told.jsonl").exists()


def test_a_model_that_is_not_there(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(cli_bench, "find_checkout", lambda: checkout)
    monkeypatch.setenv("XDG_CACHE_HOME", str(checkout))
    assert main(["bench", "language"]) == 2
    assert "advantage models fetch smollm2-135m" in capsys.readouterr().err


def test_the_checkout_is_that_of_the_package_or_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(__file__).resolve().parents[1]
    assert cli_bench.find_checkout() == own
    monkeypatch.setattr(cli_bench, "PACKAGE", tmp_path / "lib" / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "control"]) == 2
    assert "bench needs a source checkout" in capsys.readouterr().err
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "returns.py").touch()
    assert cli_bench.find_checkout() == tmp_path
    monkeypatch.setattr(cli_bench, "PACKAGE", own / "src")
    assert cli_bench.find_checkout() == own


def test_what_cannot_be_is_said_before_anything_is_measured(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "benchmarks" / "returns.py").write_text(TOLD + "sys.exit('too few steps')")
    assert main(["bench", "control", "--steps", "3"]) == 2
    assert capsys.readouterr().err == "advantage: too few steps\n"
    assert calls(checkout) == [["returns", "--steps", "3", "--dry-run"]]


def test_a_benchmark_that_fails(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "benchmarks" / "speed.py").write_text(TOLD + TABLE + "sys.exit(3)")
    assert main(["bench", "control"]) == 1
    told = capsys.readouterr()
    assert "benchmarks.speed ended with 3" in told.err and "| 1 | x, y |" in told.out
    assert [call[0] for call in calls(checkout)] == ["returns", "speed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_what_was_begun(checkout: Path, number: int) -> None:
    """What the benchmark itself has begun, as `speed` does, goes with it."""
    sleeper = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', %r])"
    inner = "import os, time; open('pid', 'w').write(str(os.getpid())); os.rename('pid', 'begun'); time.sleep(60)"
    (checkout / "benchmarks" / "language.py").write_text(sleeper % inner)
    script = (
        "import sys; from pathlib import Path; from advantage import cli, cli_bench;"
        " from advantage.language import fetching; fetching.verified_smollm2 = lambda: None;"
        " cli_bench.find_checkout = lambda: Path(sys.argv[1]); sys.exit(cli.main(['bench', 'language']))"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(checkout)], stderr=subprocess.PIPE, text=True) as caller:
        until = time.monotonic() + 60
        while not (checkout / "begun").exists() and time.monotonic() < until:
            time.sleep(0.05)
        caller.send_signal(number)
        _, error = caller.communicate(timeout=30)
    assert caller.returncode == 130 and error.startswith("advantage: stopped")
    state = Path("/proc", (checkout / "begun").read_text(), "stat")
    assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"
