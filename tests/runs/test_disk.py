"""A full disk and one that cannot be written, on a small tmpfs."""

import errno
import os
import subprocess

import pytest

from advantage.errors import RunFailed, UserError
from advantage.runs import durable
from advantage.runs.reader import RunReader
from tests.runs.stateful_loop import make, rows, run_to, saved_bytes


def error_of(function):
    try:
        function()
    except (UserError, RunFailed) as error:
        return error
    return None


def mount(*arguments):
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=2M", "tmpfs", folder):
        pytest.skip("needs root and a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk(small, tmp_path):
    """At every moment of an update: with more and more of the disk taken until the run cannot even begin."""
    run_to(tmp_path / "whole", 60, eval_every=12)
    texts = []
    for free in (200_000, 120_000, 60_000, 30_000, 10_000):
        path = small / str(free)

        def fill(update, free=free):
            if update.index == 4:
                left = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
                (small / "filler").write_bytes(b"x" * max(0, left - free))

        error = error_of(lambda: run_to(path, 60, at=fill, checkpoint_every=0.0, eval_every=12))  # noqa: B023
        if error:
            texts.append(str(error))
            assert str(path) in str(error) and "\n" not in str(error)
            assert RunReader(path).checkpoints()[-1][0] >= 24
        (small / "filler").unlink(missing_ok=True)
        run_to(path, 60, resume=True, eval_every=12)
        assert saved_bytes(path) == saved_bytes(tmp_path / "whole") and rows(path) == rows(tmp_path / "whole")
        subprocess.run(["rm", "-r", str(path)], check=True)
    assert any("No space left" in text and "last good checkpoint is step-" in text for text in texts), texts


def test_full_disk_before_the_start(small):
    (small / "filler").write_bytes(b"x" * (os.statvfs(small).f_bavail * os.statvfs(small).f_frsize))
    with pytest.raises(UserError, match="No space left"):
        make(small / "run")
    assert [path.name for path in small.iterdir()] == ["filler"]


def test_a_disk_that_turns_unwritable_at_any_write(tmp_path, monkeypatch):
    settings = {"checkpoint_every": 0.0, "eval_every": 6}
    run_to(tmp_path / "whole", 12, **settings)

    def failing_from(number):
        calls = []

        def wrap(function):
            def call(*arguments):
                calls.append(1)
                if len(calls) >= number:
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                function(*arguments)

            return call

        monkeypatch.setattr(durable, "fsync", wrap(os.fsync))
        monkeypatch.setattr(durable, "rename", wrap(os.replace))

    failed = 0
    while True:
        path = tmp_path / str(failed)
        failing_from(failed + 1)
        error = error_of(lambda: run_to(path, 12, **settings))  # noqa: B023
        monkeypatch.undo()
        if error is None:
            break
        assert str(path) in str(error) and "Read-only file system" in str(error) and "\n" not in str(error)
        if isinstance(error, UserError):
            assert not path.exists()
        else:
            run_to(path, 12, resume=True, **settings)
            assert saved_bytes(path) == saved_bytes(tmp_path / "whole")
            assert rows(path)["scalars"] == rows(tmp_path / "whole")["scalars"]
        failed += 1
    assert failed > 30


def test_unwritable_directory(small):
    assert mount("-o", "remount,ro", small)
    with pytest.raises(UserError, match="Read-only file system; give another --run-dir"):
        make(small / "run")
