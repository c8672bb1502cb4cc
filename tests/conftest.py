"""What holds for every test and doctest: one thread, nothing of the user's home, shapes checked, the same examples."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401 - the import hook below finds it by name

assert "advantage.core" not in sys.modules, "advantage.core was imported before its shapes could be checked"
install_import_hook(["advantage.core", "advantage.trajectory"], "tests.shapes.checked")

settings.register_profile("advantage", derandomize=True, deadline=None, database=None)
settings.load_profile("advantage")


class DoctestNames:
    """Registered as a plugin, since fixtures of this file do not reach the doctests outside its folder."""

    @pytest.fixture(autouse=True, scope="session")
    def torch_in_doctests(self, doctest_namespace: dict[str, Any]) -> None:
        doctest_namespace["torch"] = torch


def pytest_configure(config: pytest.Config) -> None:
    """Caches and settings of the person who runs the tests are neither read nor written, here and in subprocesses."""
    torch.set_num_threads(1)
    config.pluginmanager.register(DoctestNames())
    home = tempfile.TemporaryDirectory(prefix="advantage-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(home.cleanup)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        os.environ.pop(name, None)
    os.environ |= {
        "HOME": home.name,
        "MPLCONFIGDIR": str(_shared_cache(config)),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "SDL_VIDEODRIVER": "dummy",
        "PYGAME_HIDE_SUPPORT_PROMPT": "1",
        "NO_COLOR": "1",
    }


def _shared_cache(config: pytest.Config) -> Path:
    """Matplotlib's list of fonts takes seconds to build: one for all workers, kept beside pytest's own cache."""
    folder = config.rootpath / ".pytest_cache" / "matplotlib"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
