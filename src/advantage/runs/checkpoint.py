"""A checkpoint is a commit: it is there whole or not at all.

    checkpoints/step-N/<kept thing>.safetensors   its tensors
                       state.json                 {"sha256": of the body's text, "body": everything else}

The body holds `format`, `step`, `run` (counters and the like), `scalars` (of each kept thing, what is no tensor),
`files` (the sha256 of each), `segments` (the same of the pieces of what only grows, by thing: they lie beside) and
`machine`; what may differ between an interrupted run and another (`times`, `attempt`) stands in `about`. Which one is
the latest is computed, never pointed at.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from advantage.errors import RunFailed, UserError
from advantage.runs import durable, segments
from advantage.runs.directory import FORMAT, check_format
from advantage.runs.encode import dumps, loads

State = dict[str, Any]
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what reading a torn or noisy state.json can raise


class Torn(Exception):
    """A checkpoint whose content is not what was committed; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        step: environment steps (updates in language) at its moment.
        body: the content of state.json.
    """

    path: Path
    step: int
    body: dict[str, Any]

    def pieces(self, name: str) -> dict[str, str]:
        """The segments of a kept thing that only grows, sha256 by file; none of any other."""
        found: dict[str, dict[str, str]] = self.body["segments"]
        return found.get(name, {})

    def state(self, name: str) -> State:
        """The state of a kept thing.

        Raises:
            RunFailed: the checkpoint holds no such thing.
        """
        from advantage.runs import tensors

        scalars: dict[str, State] = self.body["scalars"]
        if name not in scalars:
            raise RunFailed(f"{self.path}: holds no {name}, only {', '.join(scalars)}")
        file = f"{name}.safetensors"
        arrays = tensors.read(self.path / file)[0] if file in self.body["files"] else {}
        return {**arrays, **scalars[name]}


def commit(
    folder: Path,
    step: int,
    states: Mapping[str, State],
    run: Mapping[str, Any],
    machine: Mapping[str, Any],
    about: Mapping[str, Any],
    keep: int,
    pieces: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Path:
    """Write checkpoints/step-<step>, and only when it is whole remove the older ones beyond the last `keep`.

    `pieces` are the segments that it needs, synced already: of each growing thing sha256 by file.

    Raises:
        OSError: it could not be written; the earlier ones stay as they were.
    """
    if not folder.exists():
        folder.mkdir()
        durable.sync(folder.parent)
    draft, target = folder / f".tmp-step-{step}", folder / f"step-{step}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        body = {"format": FORMAT, "step": step, "run": run, "machine": machine, "about": about, "segments": pieces}
        _write(draft, body, states)
        if target.exists():
            _remove(target)  # torn: the run went on from an earlier one and came here again
        durable.rename(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    durable.sync(folder)
    _prune(folder, step, keep)
    _drop_segments(folder)
    return target


def found(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run by step, ascending, unverified."""
    named = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*")]
    return sorted((int(match[1]), path) for match, path in named if match)


def load(path: Path) -> Checkpoint:
    """A checkpoint, every byte verified.

    Raises:
        Torn: a file is missing, cut or changed.
        UserError: it is from a newer format.
    """
    try:
        kept = loads((path / "state.json").read_bytes())
        body = kept["body"]
        check_format(path, body["format"])
        if hashlib.sha256(dumps(body).encode()).hexdigest() != kept["sha256"]:
            raise Torn(f"{path}/state.json is not what was written (sha256 differs)")
        step, files = int(body["step"]), {f"{path.name}/{name}": digest for name, digest in body["files"].items()}
        for pieces in body.setdefault("segments", {}).values():  # a run of before there were any names none
            files.update(pieces)
    except UserError:
        raise
    except BROKEN as error:
        raise Torn(f"{path}/state.json cannot be read ({error})") from error
    for name, expected in files.items():
        try:
            actual = segments.sha256(path.parent / name)
        except OSError as error:
            raise Torn(f"{path.parent / name} cannot be read ({error.strerror})") from error
        if actual != expected:
            raise Torn(f"{path.parent / name} is not what was written (sha256 differs)")
    return Checkpoint(path, step, body)


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last checkpoint that is whole, and a line for each later one that is not; None where none was ever committed.

    Raises:
        UserError: none of those there is whole, or the last one is from a newer format.
    """
    broken: list[str] = []
    for _, path in reversed(found(folder)):
        try:
            return load(path), broken
        except Torn as error:
            broken.append(str(error))
    if broken:
        raise UserError(f"{folder}: no checkpoint is whole: {'; '.join(broken)}; start a new run")
    return None, broken


def sweep(folder: Path) -> None:
    """Remove what a killed process left in a directory: drafts, and segments that no checkpoint there names."""
    for path in folder.glob(".tmp-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    _drop_segments(folder)


def _write(draft: Path, body: dict[str, Any], states: Mapping[str, State]) -> None:
    """Every tensor file synced, then state.json with their hashes, then the directory's list of names."""
    from advantage.runs import tensors
    from advantage.runs.state import split

    scalars, files = {}, {}
    for name, state in states.items():
        arrays, scalars[name] = split(state)
        if arrays:
            file = draft / f"{name}.safetensors"
            tensors.write(file, arrays, {})
            durable.sync(file)
            files[file.name] = segments.sha256(file)
    body = {**body, "scalars": scalars, "files": files}
    text = dumps({"sha256": hashlib.sha256(dumps(body).encode()).hexdigest(), "body": body}, indent=1)
    (draft / "state.json").write_text(text, encoding="utf-8")
    durable.sync(draft / "state.json")
    durable.sync(draft)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Keep the last `keep` up to `step`; one past it is torn (the run went on from before it)."""
    steps = found(folder)
    kept = [path for number, path in steps if number <= step][-keep:]
    for _, path in steps:
        if path not in kept:
            _remove(path)


def _remove(path: Path) -> None:
    """Out of sight by a rename first: a half-removed checkpoint is never seen."""
    trash = path.with_name(f".tmp-old-{path.name}")
    shutil.rmtree(trash, ignore_errors=True)
    durable.rename(path, trash)
    with contextlib.suppress(OSError):
        shutil.rmtree(trash)


def _drop_segments(folder: Path) -> None:
    """Removes the pieces that no checkpoint names; none of them where one cannot say what it needs."""
    if not (folder / segments.FOLDER).exists():
        return
    needed: list[str] = []
    for _, path in found(folder):
        try:
            named = loads((path / "state.json").read_bytes())["body"].get("segments", {})
            needed += [file for pieces in named.values() for file in pieces]
        except BROKEN:
            return
    segments.drop(folder, needed)
