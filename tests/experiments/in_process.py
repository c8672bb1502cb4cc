"""Jobs done here and now, without a process each: what they do is the same, and coverage sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from advantage.cli import main
from advantage.experiments import noise
from advantage.experiments.processes import Job


class Workers:
    """In the place of `processes.work`; counts what it did."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def __call__(self, jobs: Sequence[Job], workers: int, steps: int, progress: Any) -> dict[str, str]:
        failed = {}
        for job in jobs:
            self.jobs.append(job)
            flag, module, *words = job.words
            assert flag == "-m"
            if module == "advantage.experiments.noise":
                noise.main(words, estimates=4)
            elif code := main(words):
                failed[job.name] = f"code {code}"
        return failed


def restart_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the steps after which `tests.test_cli:Crashing-v0` breaks; it goes on from environment to environment."""
    import gymnasium as gym

    import tests.test_cli  # noqa: F401 - registers it

    monkeypatch.setattr(gym.registry["Crashing-v0"].entry_point, "steps", 0)
