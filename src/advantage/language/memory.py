"""An allocator that keeps what it was given: large blocks are used again instead of faulted in anew at every step."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
GROWTH = 1.25  # of what the process holds, before the holes between blocks are given back


def keep_blocks() -> bool:
    """Tells glibc to keep large blocks; whether it understood. Other libraries of C have their own ways and are left.

    By default glibc returns every block above 32 MB to the kernel, and each step pays for its pages once more.
    """
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and all(mallopt(name, 2**31 - 1) == 1 for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))


class Heap:
    """Keeps blocks, and gives the holes between them back before they add up.

    Rows of other lengths at every step need blocks of other sizes, and what lies between them is seldom fit for the
    next: a process that keeps all holds more with every step. Giving back costs the next step its pages once more.
    """

    def __init__(self) -> None:
        self._trim = _of_glibc("malloc_trim") if keep_blocks() else None
        self._updates, self._settled = 0, 0

    def tidy(self) -> bool:
        """After every update: gives the holes back where they have grown; whether it did."""
        held = resident()
        self._updates += 1
        if self._updates <= 2:  # the optimiser's moments come with the first, and what follows a return is faulted in
            self._settled = held
        elif self._trim is not None and held > GROWTH * self._settled:
            self._trim(0)
            self._updates = 0
            return True
        return False


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _of_glibc(name: str) -> Any:
    """A function of glibc, None elsewhere."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
