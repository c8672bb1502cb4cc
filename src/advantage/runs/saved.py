"""What others load from a run: policy/ and best/ (a policy and its normaliser), and rollout/ (what `explain` reads)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from advantage.errors import UserError
from advantage.runs import durable, tensors
from advantage.runs.state import State, split
from advantage.trajectory import Rollout

PARTS = ("policy", "normalizer")  # the kept things that acting needs
POLICY = "policy.safetensors"
ROLLOUT = "rollout.safetensors"


def write_policy(folder: Path, states: Mapping[str, State], about: Mapping[str, Any], policy: Any = None) -> None:
    """Put folder/policy.safetensors in place: tensors `policy/…` and `normalizer/…`, the rest in its metadata.

    A policy that has a form which others load (`save(folder)`) writes that instead.
    """
    if hasattr(policy, "save"):
        policy.save(folder)
        return
    arrays, scalars = {}, {}
    for part in PARTS:
        if part in states:
            own, scalars[part] = split(states[part])
            arrays.update({f"{part}/{name}": value for name, value in own.items()})
    _put(folder / POLICY, arrays, {**about, "scalars": scalars})


def read_policy(folder: Path) -> tuple[dict[str, State], dict[str, Any]]:
    """The states of the parts, ready for `state.restore`, and what the file says about itself.

    Raises:
        UserError: there is none yet, or it cannot be read.
    """
    with _reading(folder / POLICY) as (arrays, about):
        states: dict[str, State] = about.pop("scalars")
        for name, value in arrays.items():
            part, _, own = name.partition("/")
            states[part][own] = value
    return states, about


def write_rollout(folder: Path, rollout: Rollout, about: Mapping[str, Any]) -> None:
    """Put folder/rollout.safetensors in place: the fields of a rollout that are not None, trees flattened with "/"."""
    fields = {field.name: getattr(rollout, field.name) for field in dataclasses.fields(rollout)}
    words = {name: value for name, value in fields.items() if isinstance(value, tuple) and isinstance(value[0], str)}
    arrays, tuples = tensors.flatten({name: value for name, value in fields.items() if name not in words})
    _put(folder / ROLLOUT, arrays, {**about, "tuples": tuples, "words": words})


def read_rollout(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the rollout that were not None, as trees, and what the file says about itself (`update`, `steps`).

    Raises:
        UserError: there is none yet, or it cannot be read.
    """
    with _reading(folder / ROLLOUT) as (arrays, about):
        words = {name: tuple(value) for name, value in about.pop("words").items()}
        fields = {**tensors.unflatten(arrays, about.pop("tuples")), **words}
    return fields, about


def _put(path: Path, arrays: Mapping[str, tensors.Array], about: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    durable.replace(path, lambda draft: tensors.write(draft, arrays, about))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[dict[str, tensors.Array], dict[str, Any]]]:
    """The content of a file, for as long as it is taken apart."""
    if not path.exists():
        raise UserError(
            f"{path}: not there; it is written with a run's first checkpoint (best/: with its first evaluation)"
        )
    try:
        yield tensors.read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); the next checkpoint of `advantage resume` writes it again"
        ) from error
