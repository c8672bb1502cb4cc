"""Run directories with known numbers, written through the library's own writers and without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advantage.runs import saved
from advantage.runs.database import Database
from advantage.runs.directory import RunDirectory
from advantage.trajectory import Episode, Rollout, Sample

STEPS = 100  # environment steps of an update


def episodes(*returns: float) -> list[Episode]:
    return [Episode(stream=0, length=10, total_reward=value, ended="terminated") for value in returns]


def varied(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A reward in [0, 1) that hardly two different completions share: every group has spread."""
    return [sum(place * token for place, token in enumerate(ids, 1)) % 97 / 97 for ids in completion_ids]


def make_run(
    folder: Path,
    rows: Sequence[Mapping[str, float]] = (),
    *,
    algorithm: str = "ppo",
    target: str = "CartPole-v1",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    finished: Mapping[int, Sequence[Episode]] | None = None,
    events: Sequence[tuple[int, str, str, str]] = (),
    rollout: Rollout | None = None,
    state: str | None = "finished",
    total: int | None = None,
    error: str | None = None,
    language: bool = False,
    samples: Mapping[int, Sequence[Sample]] | None = None,
) -> Path:
    """A run of `len(rows)` updates of 100 steps and 2 seconds each; `finished` are the episodes of each update,
    `samples` its texts.

    With `language` no environment steps are counted; with `state` None the run has no more than its config.toml.
    """
    steps = len(rows) * (1 if language else STEPS)
    tables = {"settings": {**({} if language else {"gamma": 0.99}), **(settings or {})}}
    with RunDirectory.create(
        folder, algorithm=algorithm, target=target, seed=seed, command="advantage train", tables=tables
    ) as run:
        if state is None:
            return folder
        database = Database(folder / "metrics.sqlite", 0, {"python": "3.11", "torch": "2.13"})
        for update, row in enumerate(rows, start=1):
            env_steps = None if language else update * STEPS
            database.tick(update, env_steps, None, 2.0 * update)
            database.scalars(update, row)
            database.episodes(update, env_steps, (finished or {}).get(update, ()))
            database.completions(update, (samples or {}).get(update, ()))
        for event in events:
            database.event(*event)
        database.close()
        if rollout is not None:
            saved.write_rollout(folder / "rollout", rollout, {"update": len(rows), "steps": steps})
        run.write_status(state, attempt=1, update=len(rows), steps=steps, total=total or steps, error=error)
    return folder
