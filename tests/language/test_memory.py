"""What a process holds between two steps: blocks that are used again, and holes that are given back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from advantage.language import memory
from advantage.language.memory import Heap

GLIBC = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "malloc_trim")

HOLES = """
from advantage.language.memory import Heap, resident

heap = Heap()
heap.tidy(), heap.tidy()
settled = resident()
blocks = [bytearray(b"x" * 2**20) for _ in range(400)]
keep = blocks[::8]
del blocks
with_holes = resident()
assert with_holes > settled + 300 * 2**20, (settled, with_holes)
assert heap.tidy()
left = resident()
assert left < with_holes - 200 * 2**20, (with_holes, left)
assert all(block[-1] == ord("x") for block in keep)
assert not heap.tidy() and not heap.tidy()
"""


@pytest.mark.skipif(not GLIBC, reason="glibc alone keeps and trims by these calls")
def test_holes_are_given_back_and_what_is_in_use_stays():
    done = subprocess.run([sys.executable, "-c", HOLES], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("held", [[100, 100, 124], [100, 500, 500, 600]], ids=["little", "after the second update"])
def test_a_process_that_hardly_grows_is_left_alone(monkeypatch, held):
    assert given_back(monkeypatch, held) == [False] * len(held)


def test_what_grows_is_given_back_and_settles_anew(monkeypatch):
    held = [100, 200, 240, 251, 150, 220, 270, 276]
    assert given_back(monkeypatch, held) == [False, False, False, True, False, False, False, True]


def given_back(monkeypatch, held):
    heap, sizes = Heap(), iter(held)
    monkeypatch.setattr(heap, "_trim", lambda _: 1)
    monkeypatch.setattr(memory, "resident", lambda: next(sizes))
    return [heap.tidy() for _ in held]
