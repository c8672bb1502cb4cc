"""What the README shows works: under `<!-- test -->` commands are accepted and Python runs; links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from advantage.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
BLOCKS = re.findall(r"^<!-- test -->\n+```(\w+)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
PYTHON = [block for language, block in BLOCKS if language == "python"]
COMMANDS = [
    words
    for language, block in BLOCKS
    if language == "bash"
    for line in block.replace("\\\n", " ").splitlines()
    if (words := shlex.split(line, comments=True))
]
LINKS = [link for link in re.findall(r"\]\(([^)#\s]+)", TEXT) if "://" not in link]


def advantage(words: list[str]) -> int:
    """The exit code of a command line, run in this process."""
    try:
        return main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_there_is_something_to_check() -> None:
    assert README.exists()
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert any(words[0] == "make" for words in COMMANDS)
    assert any(words[0] == "advantage" for words in COMMANDS)
    assert LINKS


@pytest.mark.parametrize("words", COMMANDS, ids=shlex.join)
def test_command(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A training is resolved in full; of the other commands, which want a run, the help knows the options."""
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[0] == "advantage":
        monkeypatch.chdir(tmp_path)
        dry = words[1] == "train" and "--help" not in words
        code = advantage([*words[1:], "--dry-run"] if dry else [words[1], "--help"])
        out = capsys.readouterr().out
        assert code == 0
        assert list(tmp_path.iterdir()) == []
        if not dry:
            assert {word.partition("=")[0] for word in words[2:] if word.startswith("--")} <= set(
                re.findall(r"--[a-z-]+", out)
            )
    else:
        assert words[0] in {"pip", "source", "git", "cd"}


@pytest.mark.parametrize("block", PYTHON)
def test_python(block: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})  # noqa: S102


@pytest.mark.parametrize("link", LINKS)
def test_link(link: str) -> None:
    assert (ROOT / link).exists()
