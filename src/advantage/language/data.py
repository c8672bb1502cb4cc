"""Examples from JSON Lines, Parquet, a `datasets` name or a list: checked before the first step, read one at a time.

Of a JSON Lines file only each line's place is held. The order of the examples is a function of (seed, count), so that
its position is one integer.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from advantage.errors import RunFailed, UserError, nearest
from advantage.language import template
from advantage.language.formats import KINDS, Example, check, infer_kind, parts_of_pair, renaming
from advantage.runs.streams import Streams

if TYPE_CHECKING:
    from advantage.language.template import Tokenizer

Data = str | Path | Sequence[Example]
_LINES = (".jsonl", ".json", ".ndjson")
_PARQUET = (".parquet", ".pq")


class RawData(Protocol):
    """Where examples come from: `scan` goes through all of them, `read` fetches one by its handle."""

    def scan(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Handle, place (for messages) and content of every example."""
        ...

    def read(self, handle: int) -> dict[str, Any]:
        """One example again."""
        ...


@dataclass(frozen=True)
class Examples(Sequence[dict[str, Any]]):
    """Checked examples by index.

    Attributes:
        name: as it was given.
        kind: a key of `formats.KINDS`.
        digest: SHA-256 of the content of the examples that were kept, in order; the same from JSON Lines and Parquet.
        notes: what a person should know (examples left out, pairs without a difference), one line each.
    """

    name: str
    kind: str
    digest: str
    notes: tuple[str, ...]
    source: RawData = field(repr=False)
    handles: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.handles)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.source.read(int(handle)) for handle in self.handles[index]]
        return self.source.read(int(self.handles[index]))


def load_data(
    spec: Data, *, kind: str | None = None, tokenizer: Tokenizer | None = None, max_length: int | None = None
) -> Examples:
    """Opens data and checks every example.

    Args:
        spec: a file (.jsonl, .parquet), a `datasets` name (`name`, `name:split`, `name:config:split`) or a folder of
            theirs, or a list of examples.
        kind: "prompt", "sft", "preference", "process" or "outcome"; None takes what the first example's columns say.
        tokenizer: where one is given every example is rendered too, so that a template's trouble shows before the
            first step.
        max_length: tokens; longer examples are left out and counted in the notes. Needs the tokenizer.

    Raises:
        UserError: no such file, nothing in it, or an example that is none: the first such, by its line.
    """
    if max_length is not None and tokenizer is None:
        raise ValueError("max_length counts tokens and needs the tokenizer")
    if kind is not None and kind not in KINDS:
        raise UserError(f'unknown kind of data "{kind}"; {nearest(kind, KINDS)}')
    name, source = _open(spec)
    tally, handles, digest = Counter[str](), [], hashlib.sha256()
    longest = 0
    for handle, place, example in source.scan():
        try:
            kind = kind or infer_kind(name for name, value in example.items() if value is not None)
            check(example, kind)
            length = 0 if tokenizer is None else _length(tokenizer, example, kind, tally)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        tally["all"] += 1
        if max_length is not None and length > max_length:
            tally["long"], longest = tally["long"] + 1, max(longest, length)
            continue
        tally["same"] += kind == "preference" and _without_difference(example)
        tally["verl"] += kind == "prompt" and "answer" not in example and "reward_model" in example
        handles.append(handle)
        digest.update(json.dumps(example, sort_keys=True, default=str).encode() + b"\n")
    if not handles:
        why = f"all {tally['all']} examples are longer than {max_length} tokens" if tally["all"] else "no example in it"
        raise UserError(f"{name}: {why}")
    assert kind is not None
    notes = _notes(name, tally, len(handles), max_length, longest)
    return Examples(name, kind, digest.hexdigest(), notes, source, np.array(handles, dtype=np.int64))


def _length(tokenizer: Tokenizer, example: Example, kind: str, tally: Counter[str]) -> int:
    """Tokens of an example, of a pair the longer one's; counts answers that end in no end token."""
    if kind == "prompt":
        ids = template.make_prompt(tokenizer, example, 0).ids
        template.check_known(tokenizer, ids)
        return len(ids)
    if kind == "process":
        return len(template.render_steps(tokenizer, example)[0].ids)
    pair = kind == "preference"
    rows = template.render_pair(tokenizer, example) if pair else (template.render_example(tokenizer, example),)
    for row in rows:
        template.check_known(tokenizer, row.ids)
    tally["endless"] += any(row.ids[-1] not in template.end_tokens(tokenizer) for row in rows)
    return max(len(row.ids) for row in rows)


def _without_difference(example: Example) -> bool:
    if example.get("chosen_ids") is not None:
        return bool(example["chosen_ids"] == example["rejected_ids"])
    _, chosen, rejected = parts_of_pair(example)
    return chosen == rejected


def _notes(name: str, tally: Counter[str], kept: int, max_length: int | None, longest: int) -> tuple[str, ...]:
    notes = {
        "long": f"{name}: {tally['long']} of {tally['all']} examples are longer than {max_length} tokens "
        f"(up to {longest}) and are left out",
        "same": f"{name}: {tally['same']} of {kept} pairs have chosen = rejected: they teach nothing",
        "endless": f"{name}: {tally['endless']} of {tally['all']} answers end in no special token: "
        "the model is not taught to stop",
        "verl": f'{name}: no column "answer"; {renaming(("data_source", "reward_model"), "prompt")}',
    }
    return tuple(text for key, text in notes.items() if tally[key])


# --- order ---


class Order:
    """Which example comes k-th: epoch after epoch, each a permutation of its own.

    A pure function of (seed, length, k): nothing to save but k, and no worker, batch or chunk enters.

    Raises:
        ValueError: the length is below 1.
    """

    def __init__(self, length: int, seed: int) -> None:
        if length < 1:
            raise ValueError(f"length is {length}; an order needs at least one example")
        self.length, self.seed = length, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, k: int) -> int:
        """The index, in [0, length), of the k-th example ever, k ≥ 0."""
        if k < 0:
            raise IndexError(f"k is {k}; the first example is number 0")
        epoch, place = divmod(k, self.length)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, Streams(self.seed).rng("data", epoch).permutation(self.length)
        return int(self._permutation[place])


class Cursor:
    """A position in an order, which the checkpoint keeps.

    Args:
        order: of the examples.
        digest: of the data, so that a run is not gone on with on others.
    """

    def __init__(self, order: Order, digest: str = "") -> None:
        self.order, self.digest, self.position = order, digest, 0

    def take(self, n: int) -> list[int]:
        """The indices of the next n examples; an epoch's end is no border."""
        taken = [self.order[k] for k in range(self.position, self.position + n)]
        self.position += n
        return taken

    @property
    def epochs(self) -> float:
        """How many times the data have been gone through."""
        return self.position / self.order.length

    def state(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {"position": self.position, **self._identity()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state.

        Raises:
            UserError: the data or the seed are not those of the state.
        """
        for name, value in self._identity().items():
            if state[name] != value:
                raise UserError(f"the data are not the run's: {name} is {value}, it was {state[name]}")
        self.position = int(state["position"])

    def _identity(self) -> dict[str, Any]:
        return {"length": self.order.length, "seed": self.order.seed, "digest": self.digest}


# --- sources ---


def _open(spec: Data) -> tuple[str, RawData]:
    if not isinstance(spec, str | Path):
        return "data", _List(spec)
    path = Path(spec).expanduser()
    suffix = path.suffix.lower()
    if os.path.isdir(path):  # unlike Path.is_dir, it answers to a name that no file can have
        return str(spec), _Table.of_datasets(str(path), str(spec))
    if not os.path.exists(path):
        if suffix in (*_LINES, *_PARQUET) or str(spec).startswith((".", "/", "~")):
            raise UserError(f"{spec}: no such file")
        return str(spec), _Table.of_datasets(str(spec), str(spec))
    if suffix in _PARQUET:
        return str(spec), _Table.of_parquet(path, str(spec))
    if suffix not in _LINES:
        raise UserError(f'{spec}: a file of unknown kind "{suffix}"; known: JSON Lines (.jsonl) and Parquet (.parquet)')
    return str(spec), _Lines(path, str(spec))


class _List:
    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def scan(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        for place, example in enumerate(self._examples):
            if not isinstance(example, Mapping):
                raise UserError(f"data[{place}]: {example!r:.40} is no example; it must be a dict of columns")
            yield place, f"data[{place}]", dict(example)

    def read(self, handle: int) -> dict[str, Any]:
        return dict(self._examples[handle])


class _Lines:
    """A JSON Lines file; a handle is a line's first byte. Blank lines are passed over."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._stamp = _stamp(os.stat(path))

    def scan(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        offset = 0
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                place = f"{self._name}:{number}"
                if line.strip(b"\xef\xbb\xbf \t\r\n"):
                    yield offset, place, _parse(line, place)
                offset += len(line)

    def read(self, handle: int) -> dict[str, Any]:
        with open(self._path, "rb") as file:
            if _stamp(os.fstat(file.fileno())) != self._stamp:
                raise RunFailed(f"{self._name}: the file has changed since it was checked")
            file.seek(handle)
            return _parse(file.readline(), self._name)


def _stamp(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig").strip()
        if text == "{" or text.startswith("["):
            raise UserError(f"{place}: not one object a line; of a JSON list, jq -c '.[]' FILE makes such lines")
        example = json.loads(text)
        if "\\u" in text:
            json.dumps(example, ensure_ascii=False).encode()  # half a surrogate pair is JSON and no text
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: broken JSON at column {error.colno}: {error.msg}") from error
    except UnicodeError as error:
        raise UserError(f"{place}: not UTF-8 text: {_one_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{place}: nested too deep") from error
    if not isinstance(example, dict):
        raise UserError(f"{place}: {example!r:.40} is no example; each line must be an object with columns")
    return example


class _Table:
    """Rows of Arrow: a Parquet file in memory, or a `datasets` set, which maps its files."""

    def __init__(self, rows: Any, name: str) -> None:
        self._rows, self._name = rows, name

    @staticmethod
    def of_parquet(path: Path, name: str) -> _Table:
        try:
            pa: Any = importlib.import_module("pyarrow")
            pq: Any = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise UserError(f"{name}: Parquet needs pyarrow: pip install pyarrow") from error
        try:
            return _Table(_ArrowRows(pq.read_table(path, memory_map=True)), name)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{name}: not a Parquet file: {_one_line(error)}") from error

    @staticmethod
    def of_datasets(where: str, name: str) -> _Table:
        try:
            datasets: Any = importlib.import_module("datasets")
        except ImportError as error:
            raise UserError(f"{name}: no such file, and data sets by name need: pip install datasets") from error
        path, *rest = [where] if os.path.isdir(where) else where.split(":")
        config, split = (rest[0] if len(rest) > 1 else None), (rest[-1] if rest else "train")
        try:
            if os.path.isdir(path) and any(os.path.exists(os.path.join(path, f)) for f in _SAVED):
                found = datasets.load_from_disk(path)
                return _Table(found[split] if isinstance(found, datasets.DatasetDict) else found, name)
            return _Table(datasets.load_dataset(path, config, split=split), name)
        except Exception as error:  # a hub that is not reached, a name, split or folder that is none
            raise UserError(f"{name}: no such file, and datasets cannot load it: {_one_line(error)}") from error

    def scan(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        for place in range(len(self._rows)):
            yield place, f"{self._name}: row {place + 1}", self.read(place)

    def read(self, handle: int) -> dict[str, Any]:
        return {name: _without_nulls(value) for name, value in self._rows[handle].items()}


_SAVED = ("dataset_info.json", "dataset_dict.json")


class _ArrowRows:
    def __init__(self, table: Any) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row: dict[str, Any] = self._table.slice(place, 1).to_pylist()[0]
        return row


def _without_nulls(value: Any) -> Any:
    """A value without the null fields that a table gives to every object that lacks one of another's."""
    if isinstance(value, dict):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
