"""The algorithms, one file each: settings, objective, loop. Here stands only what they are called."""

from __future__ import annotations

import importlib
import importlib.resources
import tomllib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from advantage.errors import UserError, nearest


@dataclass(frozen=True)
class Entry:
    """An algorithm's world and its line in the list."""

    world: str  # "control" or "language"
    summary: str


ALGORITHMS = {
    "ppo": Entry("control", "clipped importance ratios, several epochs a rollout, GAE critic (Schulman et al. 2017)"),
}


def find(name: str) -> Entry:
    """The entry of an algorithm.

    Raises:
        UserError: there is none of that name; the message has the nearest ones.
    """
    if name not in ALGORITHMS:
        raise UserError(f"there is no algorithm {name!r}; {nearest(name, ALGORITHMS)}")
    return ALGORITHMS[name]


def module(name: str) -> ModuleType:
    """The algorithm's file, imported: it has `Settings`, `objective` and `train`."""
    find(name)
    return importlib.import_module(f"advantage.algorithms.{name}")


def tuned(name: str, target: str) -> dict[str, Any]:
    """Settings that were measured to be good for an environment (tuned.toml), or none."""
    text = importlib.resources.files(__name__).joinpath("tuned.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text).get(name, {}).get(target, {})
    return table
