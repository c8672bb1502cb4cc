import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import advantage
from advantage.errors import UserError
from advantage.runs.directory import RunDirectory, read_config, read_status
from advantage.runs.interrupt import Interrupted
from tests.runs.stateful_loop import exit_code, in_child, make


def test_config_tells_everything(tmp_path):
    with RunDirectory.create(
        tmp_path / "run",
        algorithm="ppo",
        target='Odd "name"\n-v1',
        seed=4,
        command="advantage train ppo",
        tables={"settings": {"gamma": 0.99, "network": [64, 64]}, "env": {}},
    ) as run:
        config = read_config(run.path)
    assert config == run.config
    assert config["format"] == 1 and config["seed"] == 4 and config["target"] == 'Odd "name"\n-v1'
    assert config["settings"] == {"gamma": 0.99, "network": [64, 64]}
    assert "torch" in config["versions"]


def test_default_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    about = {"seed": 0, "command": "", "tables": {}}
    names = [RunDirectory.create(None, algorithm="ppo", target=t, **about).path for t in ("CartPole-v1", "a/../b:c-v0")]
    assert names[0].parent == Path("runs") and names[0].name.startswith("ppo-CartPole-v1-s0-")
    assert names[1].parent == Path("runs") and names[1].name.startswith("ppo-a-..-b-c-v0-s0-")


def test_a_users_mistake_leaves_nothing(tmp_path):
    with pytest.raises(UserError), make(tmp_path / "a" / "b") as run:
        run.write_status("running")
        (run.path / "metrics.sqlite").touch()
        raise UserError("gamma = 1.5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_the_first_update_leaves_nothing_and_says_so(tmp_path, number):
    with pytest.raises(Interrupted, match="nothing is kept"), make(tmp_path / "a" / "b") as run:
        (run.path / ".tmp-status.json").touch()
        os.kill(os.getpid(), number)
        time.sleep(60)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_mistake_spares_what_was_there(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError), make(tmp_path / "a") as run:
        (run.path / "theirs").touch()
        raise UserError("gamma = 1.5")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["theirs"]


def test_other_errors_and_later_mistakes_leave_the_run(tmp_path):
    with pytest.raises(RuntimeError), make(tmp_path / "a"):
        raise RuntimeError
    with pytest.raises(UserError), make(tmp_path / "b") as run:
        run.begun = True
        raise UserError("late")
    with pytest.raises(UserError), RunDirectory.open(tmp_path / "a"):
        raise UserError("resumed")
    assert read_config(tmp_path / "a") and read_config(tmp_path / "b")


def one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_refusals_of_create(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for path, words in {
        tmp_path / "file": ["file"],
        tmp_path / "file" / "below": ["file"],
        tmp_path / "full": ["not empty", "--run-dir"],
        Path("/proc/nowhere/run"): ["/proc/nowhere/run", "--run-dir"],
        tmp_path / ("x" * 300): ["too long", "--run-dir"],
    }.items():
        with pytest.raises(UserError) as error:
            make(path)
        one_line(error, str(path), *words)
    make(tmp_path / "run")._lock.release()
    with pytest.raises(UserError) as error:
        make(tmp_path / "run")
    one_line(error, "advantage resume")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_parent(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        make(tmp_path / "run")


def test_refusals_of_open(tmp_path):
    (tmp_path / "file").touch()
    for name, text in {"empty": None, "newer": "format = 2", "other": "x = 1", "broken": "format ="}.items():
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "config.toml").write_text(text)
    expected = {"absent": "no such run", "file": "a file", "empty": "not a run", "other": "not a run"}
    for name, words in {**expected, "newer": "upgrade", "broken": "cannot be read"}.items():
        with pytest.raises(UserError) as error:
            RunDirectory.open(tmp_path / name)
        one_line(error, str(tmp_path / name), words)


UNSAYABLE = {
    "an object": ({"wrapper": print}, "env_args.wrapper is <built-in function print>"),
    "nothing": ({"x": [None]}, "an entry of env_args.x is None"),
    "a number for a key": ({1: 2}, "env_args has the key 1"),
    "half a character": ({"x": "\udcff"}, "env_args.x is '\\udcff'"),
}


@pytest.mark.parametrize(("value", "words"), UNSAYABLE.values(), ids=UNSAYABLE)
def test_what_config_cannot_hold_is_named_and_leaves_nothing(tmp_path, value, words):
    about = {"algorithm": "ppo", "target": "X-v0", "seed": 0, "command": ""}
    with pytest.raises(UserError) as error:
        RunDirectory.create(tmp_path / "run", **about, tables={"settings": {"env_args": value}})
    one_line(error, words)
    with pytest.raises(UserError, match="--run-dir is .* UTF-8"):
        RunDirectory.create(tmp_path / "\udcff", **about, tables={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "instead", "told"),
    [
        ("seed = 3", "", "seed is missing; it must be a whole number"),
        ("seed = 3", "seed = true", "seed is True"),
        ('target = "Walk-v0"', "target = 3", "target is 3; it must be text"),
        ('algorithm = "walk"', "", "algorithm is missing"),
        ("[settings]", "", "settings is missing; it must be a table"),
    ],
)
def test_a_config_that_a_pen_has_spoilt(tmp_path, line, instead, told):
    make(tmp_path / "run")._lock.release()
    path = tmp_path / "run" / "config.toml"
    path.write_text(path.read_text().replace(line, instead))
    with pytest.raises(UserError) as error:
        read_config(tmp_path / "run")
    one_line(error, str(path), told)


@pytest.mark.parametrize(
    "junk", ["", "{", "[1]", "3", "{}", '{"state": 3}', '{"state": "finished", "steps": "x"}', "\0"]
)
def test_a_torn_status_is_none(tmp_path, junk):
    (tmp_path / "status.json").write_text(junk)
    assert read_status(tmp_path) == {}


def test_a_second_process_is_refused(tmp_path):
    with make(tmp_path / "run") as run:
        run.write_status("running")
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
            RunDirectory.open(run.path)
        assert exit_code(in_child(lambda: RunDirectory.open(run.path))) == 1
    assert exit_code(in_child(lambda: RunDirectory.open(run.path))) == 0


def test_errors_and_readers_need_no_torch():
    program = "import sys, advantage.runs.directory, advantage.runs.reader; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(Path(advantage.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
