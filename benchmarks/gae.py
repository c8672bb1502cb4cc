"""Milliseconds that `gae` takes for a language batch of 512 completions of 2,048 tokens, on one core.

python -m benchmarks.gae
"""

from __future__ import annotations

import statistics
import time

import torch

from advantage.core import gae

STREAMS, TIME, REPEATS = 512, 2048, 20


def main() -> None:
    torch.set_num_threads(1)
    delta = torch.randn(STREAMS, TIME, generator=torch.Generator().manual_seed(0))
    discounts, traces = torch.ones_like(delta), torch.full_like(delta, 0.95)
    milliseconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        gae(delta, discounts, traces)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    first, warm = milliseconds[0], milliseconds[1:]
    print(f"gae on {STREAMS} × {TIME} float32, one core, torch {torch.__version__}:")
    print(
        f"median {statistics.median(warm):.1f} ms of {REPEATS}, fastest {min(warm):.1f} ms, first call {first:.1f} ms"
    )


if __name__ == "__main__":
    main()
