"""Values of nested Gymnasium spaces: naming their leaves, checking them against their space, handing actions over.

A value of a Dict space is a dict, of a Tuple space a tuple, to any depth; its leaves belong to Box, Discrete,
MultiDiscrete and MultiBinary spaces. With a leading axis the same holds for batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from advantage.trajectory import Tree


@dataclass(frozen=True)
class Spaces:
    """The observation and action space of one environment (not of the vector of them)."""

    observation: spaces.Space[Any]
    action: spaces.Space[Any]


def parts(space: spaces.Space[Any]) -> list[tuple[Any, spaces.Space[Any]]] | None:
    """Key (or index) and space of each member of a Dict or Tuple space; None for a leaf."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return list(enumerate(space.spaces))
    return None


def assemble(space: spaces.Space[Any], member: Callable[[Any, spaces.Space[Any]], Any]) -> Tree:
    """The value of a Dict or Tuple space, `member(key, its space)` by member."""
    inner = [(key, member(key, part)) for key, part in parts(space) or []]
    return dict(inner) if isinstance(space, spaces.Dict) else tuple(value for _, value in inner)


def map_leaves(space: spaces.Space[Any], function: Callable[[spaces.Space[Any], Any], Any], value: Tree) -> Tree:
    """The tree of `function(leaf space, leaf)`."""
    if parts(space) is None:
        return function(space, value)
    return assemble(space, lambda key, part: map_leaves(part, function, value[key]))


def leaves(space: spaces.Space[Any], value: Tree, name: str) -> dict[str, Any]:
    """The leaves of a value by name: {"observation/camera": …}; a value that is one leaf keeps the name itself."""
    members = parts(space)
    if members is None:
        return {name: value}
    return {k: v for key, part in members for k, v in leaves(part, value[key], f"{name}/{key}").items()}


def rebuild(space: spaces.Space[Any], named: Mapping[str, Any], name: str) -> Tree:
    """The inverse of `leaves`."""
    if parts(space) is None:
        return named[name]
    return assemble(space, lambda key, part: rebuild(part, named, f"{name}/{key}"))


def nested(space: spaces.Space[Any]) -> Iterator[spaces.Space[Any]]:
    """The space itself and every space inside it."""
    yield space
    for _, part in parts(space) or []:
        yield from nested(part)


def unsupported(space: spaces.Space[Any]) -> str | None:
    """The first space inside it whose values are no trees of arrays (Text, Graph, Sequence, …), or that is empty.

    Returns:
        What is wrong with it, in words; None where every space is fit.
    """
    known = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict, spaces.Tuple)
    for inner in nested(space):
        if not isinstance(inner, known):
            return f"{inner} is not supported; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"
        if 0 in (inner.shape or ()) or parts(inner) == []:
            return f"{inner} is empty; give it at least one entry"
    return None


def misfit(space: spaces.Space[Any], value: Tree, name: str) -> str | None:
    """What is wrong with a value as an element of a space, in words; None where it fits.

    Structure, shape, kind of number and the range of discrete values count. A Box's bounds do not: they are often
    wrong, and nothing here depends on them.
    """
    members = parts(space)
    if members is not None:
        if isinstance(space, spaces.Dict) and not (isinstance(value, Mapping) and set(value) == set(space.spaces)):
            return f"{name} is {_brief(value)}, its space has the keys {', '.join(map(str, space.spaces))}"
        if isinstance(space, spaces.Tuple) and not (isinstance(value, (tuple, list)) and len(value) == len(members)):
            return f"{name} is {_brief(value)}, its space is a tuple of {len(members)}"
        return next((text for key, part in members if (text := misfit(part, value[key], f"{name}/{key}"))), None)
    try:
        array = np.asarray(value)
    except ValueError:
        return f"{name} is no array: {_brief(value)}"
    if array.shape != space.shape:
        return f"{name} has shape {array.shape}, its space says {space.shape}"
    if not np.can_cast(array.dtype, space.dtype or array.dtype, "same_kind"):
        return f"{name} has dtype {array.dtype}, its space says {space.dtype}"
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        count = space.n if isinstance(space, spaces.Discrete) else space.nvec
        if np.any(array < space.start) or np.any(array >= space.start + count):
            return f"{name} is {_brief(value)}, outside {space}"
    return None


def sender(space: spaces.Space[Any]) -> Callable[[Tree], Tree]:
    """The function that turns a policy's actions into the environment's: of its dtype, discrete ones from its start."""
    members = parts(space)
    if members is not None:
        inner = {key: sender(part) for key, part in members}
        return lambda actions: assemble(space, lambda key, _: inner[key](actions[key]))
    dtype = space.dtype
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        start = np.asarray(space.start, dtype)
        return lambda actions: np.asarray(actions, dtype) + start
    return lambda actions: np.asarray(actions, dtype)


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "…"
