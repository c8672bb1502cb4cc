"""An allocator that keeps what it was given: large blocks are used again instead of faulted in anew at every step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_blocks() -> bool:
    """Tells glibc to keep large blocks; whether it understood. Other libraries of C have their own ways and are left.

    By default glibc returns every block above 32 MB to the kernel, and each step pays for its pages once more.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, 2**31 - 1) == 1 for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
