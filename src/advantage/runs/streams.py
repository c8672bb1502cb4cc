"""Named random streams: every random number of ours is a pure function of (seed, name, update, index).

There is nothing to save and nothing to lose on resume, and no process, worker or rank enters, so that another number
of workers draws the same numbers. The generator is Philox-4x64 (Salmon et al. 2011), which any language can compute
from the same words: key = the first 16 bytes of SHA-256("<seed>/<name>") as a little-endian integer, counter = (0, 0,
index, update), low word first.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


@dataclass(frozen=True)
class Streams:
    """The streams of one seed; a change in one name leaves the others as they were."""

    seed: int

    def sub_seed(self, name: str) -> int:
        """A seed in [0, 2^63) for a generator of others (torch, an environment)."""
        return int.from_bytes(self._digest(name)[16:24], "little") >> 1

    def rng(self, name: str, update: int, index: int = 0) -> np.random.Generator:
        """The generator of one stream at one update; `index` names a part of it (an environment, a sample).
        `update` and `index` lie in [0, 2^64). Two that differ in any of the four share no number: a counter of 128 bits
        lies between them.
        """
        counter = np.array([0, 0, index, update], dtype=np.uint64)
        key: Any = _key(self.seed, name)  # NumPy takes any ISeedSequence, its annotation one
        return np.random.Generator(np.random.Philox(key, counter))

    def _digest(self, name: str) -> bytes:
        return _digest(self.seed, name)


class _Key(ISeedSequence):
    """The two words of a key, as a generator asks for them. Given a bare `key` it would first draw entropy in vain."""

    def __init__(self, digest: bytes) -> None:
        self.words = np.frombuffer(digest[:16], dtype="<u8")

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray[Any, Any]:
        """The words; a Philox wants two of 64 bits."""
        return self.words


@functools.lru_cache(maxsize=1024)
def _key(seed: int, name: str) -> _Key:
    return _Key(_digest(seed, name))


@functools.lru_cache(maxsize=1024)
def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
