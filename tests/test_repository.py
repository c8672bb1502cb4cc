"""What a reader of the repository may rely on: what is pinned, how long files are, which names are not used."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "advantage").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())


def name(requirement: str) -> str:
    """The package that a requirement speaks of.

    >>> name("gymnasium[box2d]>=1.4")
    'gymnasium'
    """
    return re.split(r"[\[<>=!~; ]", requirement)[0]


def test_dev_is_one_list() -> None:
    assert PROJECT["dependency-groups"]["dev"] == EXTRAS["dev"]


def test_all_names_every_extra_for_users() -> None:
    (everything,) = EXTRAS["all"]
    assert set(re.findall(r"[\w-]+", everything)) - {"advantage"} == set(EXTRAS) - {"all", "dev"}


@pytest.mark.parametrize("extra", ["", *sorted(set(EXTRAS) - {"all", "language"})])
def test_what_is_tested_is_pinned(extra: str) -> None:
    requirements = EXTRAS[extra] if extra else PROJECT["project"]["dependencies"]
    assert {name(requirement) for requirement in requirements} <= set(PINS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (160 if path.parent.name == "core" else 450)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_terminated_and_truncated_are_never_one_word(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assert not names & {"done", "dones"}
