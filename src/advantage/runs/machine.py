"""What the bits of a run depend on besides its settings: versions, threads, processor."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("advantage", "torch", "numpy", "gymnasium", "box2d", "mujoco", "transformers", "tokenizers", "peft")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a bit; nothing is imported for it."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, Any]:
    """Versions, torch's thread count and the processor, as state.json keeps them."""
    import torch

    return {"versions": versions(), "threads": torch.get_num_threads(), "processor": _processor()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two machines, in one line; empty where nothing does.

    >>> differences({"threads": 2, "versions": {"torch": "2.12"}}, {"threads": 2, "versions": {"torch": "2.13"}})
    'torch 2.12 → 2.13'
    """
    old, new = ({**machine, **machine["versions"]} for machine in (before, now))
    names = [name for name in {**old, **new} if name != "versions" and old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name, 'absent')} → {new.get(name, 'absent')}" for name in names)


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
