import os
import subprocess
import sys
from pathlib import Path

import pytest

import advantage
from advantage.errors import UserError
from advantage.runs.directory import RunDirectory, read_config
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
