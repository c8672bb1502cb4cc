import hashlib

import numpy as np
import pytest

from advantage.runs.streams import Streams


def test_pure_function_of_seed_name_update_index():
    again = [Streams(7).rng("actions", 4, 2).random(5) for _ in range(2)]
    assert (again[0] == again[1]).all()


OTHERS = [(8, "actions", 4, 2), (7, "minibatches", 4, 2), (7, "actions", 5, 2), (7, "actions", 4, 3)]


@pytest.mark.parametrize("other", OTHERS)
def test_each_coordinate_matters(other):
    seed, name, update, index = other
    assert (Streams(7).rng("actions", 4, 2).random(5) != Streams(seed).rng(name, update, index).random(5)).all()


def test_update_and_index_are_not_exchangeable():
    assert (Streams(0).rng("a", 1, 2).random(4) != Streams(0).rng("a", 2, 1).random(4)).all()


def test_first_words_are_philox_of_the_documented_words():
    """Philox-4x64-10 from its definition, as a native path would compute it."""
    key = int.from_bytes(hashlib.sha256(b"7/actions").digest()[:16], "little")
    expected = philox([1, 0, 2, 4], [key % 2**64, key >> 64])  # NumPy raises the counter before the first block
    assert Streams(7).rng("actions", 4, 2).bit_generator.random_raw(4).tolist() == expected


def philox(counter, key):
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * counter[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * counter[2], 2**64)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B97F4A7C15) % 2**64, (key[1] + 0xBB67AE8584CAA73B) % 2**64]
    return counter


def test_sub_seeds():
    seeds = [Streams(seed).sub_seed(name) for seed in (0, 1) for name in ("network", "environments")]
    assert len(set(seeds)) == 4 and all(0 <= seed < 2**63 for seed in seeds)
    assert isinstance(np.random.default_rng(seeds[0]).random(), float)
