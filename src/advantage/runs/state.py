"""The state of anything that a run keeps, as one flat dictionary: names, never positions.

A thing speaks for itself with `state() -> dict` and `restore(dict)`; modules and optimisers of torch are spoken for
here. An optimiser's entries stand under the names of its parameters (`actor.0.weight/exp_avg`), so that a shard of it
is a slice and another optimiser library can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advantage.errors import NonFinite, RunFailed, UserError
from advantage.runs.tensors import Array

State = dict[str, Any]  # tensors, arrays, and what JSON can say (lists come back for tuples), by name


def snapshot(thing: Any) -> State:
    """The state of a thing.

    Raises:
        TypeError: it has no state that we know.
        ValueError: an optimiser that does not know the names of its parameters.
    """
    if _speaks(thing):
        return dict(thing.state())
    if isinstance(thing, torch.nn.Module):
        return dict(thing.state_dict())
    if isinstance(thing, torch.optim.Optimizer):
        return _optimizer_state(thing)
    raise TypeError(
        f"cannot keep a {type(thing).__name__}: it is no module, no optimiser, and has no state() and restore()"
    )


def restore(thing: Any, state: Mapping[str, Any]) -> None:
    """Put a state back into a thing of the same shape.

    Raises:
        UserError: the state belongs to a thing of another shape; the message names what does not fit.
    """
    try:
        _restore(thing, state)
    except (UserError, RunFailed):
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"this environment or these settings are not the run's: {told}") from error


@torch.no_grad()
def refuse_non_finite(things: Mapping[str, Any], update: int) -> None:
    """Refuses modules with a parameter that is NaN or infinite: what follows from it is lost.

    Raises:
        NonFinite: names the parameter, its thing and the update.
    """
    for thing, module in things.items():
        named = dict(module.named_parameters()) if isinstance(module, torch.nn.Module) else {}
        if named and not torch.stack(torch._foreach_norm([*named.values()])).sum().isfinite():
            for name, parameter in named.items():  # the norm may overflow where no parameter does
                if not torch.isfinite(parameter).all():
                    raise NonFinite(f"parameter {name} of {thing} is not finite after update {update}")


def split(state: Mapping[str, Any]) -> tuple[dict[str, Array], State]:
    """The arrays of a state, and the rest, which JSON holds."""
    arrays = {name: value for name, value in state.items() if isinstance(value, (Tensor, np.ndarray))}
    return arrays, {name: value for name, value in state.items() if name not in arrays}


def _restore(thing: Any, state: Mapping[str, Any]) -> None:
    if _speaks(thing):
        thing.restore(dict(state))
    elif isinstance(thing, torch.nn.Module):
        thing.load_state_dict(dict(state))
    else:
        _restore_optimizer(thing, state)


def _speaks(thing: Any) -> bool:
    return callable(getattr(thing, "state", None)) and callable(getattr(thing, "restore", None))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """`<parameter>/<key>` for each parameter, `group/<first parameter>/<option>` for each group."""
    state: State = {}
    for group in optimizer.param_groups:
        names = _names(group)
        for option in _options(group):
            state[f"group/{names[0]}/{option}"] = group[option]
        for name, parameter in zip(names, group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                state[f"{name}/{key}"] = value
    return state


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    packed = optimizer.state_dict()
    rest = dict(state)
    for group, packed_group in zip(optimizer.param_groups, packed["param_groups"], strict=True):
        names = _names(group)
        for option in _options(group):
            value = rest.pop(f"group/{names[0]}/{option}", group[option])
            packed_group[option] = tuple(value) if isinstance(group[option], tuple) else value
        for name, position in zip(names, packed_group["params"], strict=True):
            entries = {key: rest.pop(key) for key in list(rest) if key.rpartition("/")[0] == name}
            packed["state"][position] = {key.rpartition("/")[2]: value for key, value in entries.items()}
    if rest:
        raise ValueError(f"the optimiser has no parameter for the saved {next(iter(rest))}")
    packed["state"] = {position: entries for position, entries in packed["state"].items() if entries}
    optimizer.load_state_dict(packed)


def _names(group: Mapping[str, Any]) -> list[str]:
    names: list[str] | None = group.get("param_names")
    if names is None:
        raise ValueError(
            "an optimiser that a run keeps is built from module.named_parameters(), so that it knows their names"
        )
    return names


def _options(group: Mapping[str, Any]) -> list[str]:
    return [option for option in group if option not in ("params", "param_names")]
