"""`make bench`: the speed table beside Stable-Baselines3."""

from benchmarks.speed import main

main()
