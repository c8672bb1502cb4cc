"""Named tensors in a safetensors file, with what must be known about them beside them. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from advantage.runs.encode import dumps, loads
from advantage.trajectory import Tree

Array = Tensor | np.ndarray[Any, Any]


def write(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Write arrays under their names, and `about` (anything that JSON can say) into the file's metadata. Not synced.

    The bytes depend on the content alone.

    Raises:
        OSError: the disk is full or the path cannot be written.
    """
    numpy = sorted(name for name, value in arrays.items() if isinstance(value, np.ndarray))
    metadata = {"advantage": dumps({"about": about, "numpy": numpy})}  # one entry: the order of several is random
    path.touch()
    mode = path.stat().st_mode  # as the umask has it: safetensors itself makes a file for its owner alone
    try:
        save_file(_separate(arrays), path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    path.chmod(mode)


def read(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays of a file, on the CPU, each of the library it was written from; and what was said about them.

    Raises:
        ValueError: the file is torn, or not of our writing.
        OSError: it cannot be opened.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            arrays: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if "advantage" not in metadata:
        raise ValueError("advantage did not write it")
    kept = loads(metadata["advantage"])
    for name in kept["numpy"]:
        arrays[name] = arrays[name].numpy()  # type: ignore[union-attr]
    return arrays, kept["about"]


def flatten(tree: Tree) -> tuple[dict[str, Array], list[str]]:
    """The arrays of a tree by name: `context/observation`, `actions/0`; None is left out.

    Returns:
        The arrays, and the names of the tuples, which `unflatten` needs to tell them from dicts.
    """
    arrays: dict[str, Array] = {}
    tuples: list[str] = []

    def walk(node: Tree, name: str) -> None:
        if isinstance(node, (Tensor, np.ndarray)):
            arrays[name] = node
        elif isinstance(node, Mapping):
            for key, child in node.items():
                walk(child, _join(name, str(key)))
        elif isinstance(node, tuple):
            tuples.append(name)
            for position, child in enumerate(node):
                walk(child, _join(name, str(position)))
        elif node is not None:
            raise TypeError(f"{name}: a tree holds dicts, tuples and arrays, not {type(node).__name__}")

    walk(tree, "")
    return arrays, tuples


def unflatten(arrays: Mapping[str, Array], tuples: list[str]) -> Tree:
    """The tree that `flatten` took apart."""
    root: dict[str, Any] = {}
    for name, array in arrays.items():
        node = root
        *path, leaf = name.split("/")
        for key in path:
            node = node.setdefault(_unescape(key), {})
        node[_unescape(leaf)] = array

    def close(node: Any, name: str) -> Tree:
        if not isinstance(node, dict):
            return node
        closed = {key: close(child, _join(name, key)) for key, child in node.items()}
        return tuple(closed[key] for key in sorted(closed, key=int)) if name in tuples else closed

    return close(root, "")


def _separate(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, each with memory of its own, as the format wants (tied weights stand twice)."""
    separate: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in arrays.items():
        tensor = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value.detach().cpu()
        storage = tensor.untyped_storage().data_ptr()
        shared = storage in memory
        separate[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
        memory.add(storage)
    return separate


def _join(name: str, key: str) -> str:
    escaped = key.replace("~", "~0").replace("/", "~1")
    return f"{name}/{escaped}" if name else escaped


def _unescape(key: str) -> str:
    return key.replace("~1", "/").replace("~0", "~")
