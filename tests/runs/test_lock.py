import os
import signal
import time

import pytest

from advantage.runs.lock import Lock, is_held
from tests.runs.stateful_loop import exit_code, in_child


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path):
    lock = Lock(tmp_path / "lock")
    assert is_held(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        Lock(tmp_path / "lock")
    lock.release()
    assert not is_held(tmp_path / "lock")
    Lock(tmp_path / "lock").release()


def test_it_dies_with_its_holder_even_where_a_worker_of_it_lives_on(tmp_path):
    def hold():
        Lock(tmp_path / "lock")
        worker = in_child(lambda: time.sleep(60))
        (tmp_path / "worker").write_text(str(worker))
        os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(in_child(hold)) == -signal.SIGKILL
    worker = int((tmp_path / "worker").read_text())
    time.sleep(0.2)
    os.kill(worker, 0)  # alive
    Lock(tmp_path / "lock").release()
    os.kill(worker, signal.SIGKILL)
