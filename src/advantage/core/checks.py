"""What the core refuses: shapes that would broadcast, integers where reals belong, constants out of range."""

from __future__ import annotations

import torch
from torch import Tensor


def real(**tensors: Tensor) -> None:
    """Refuses tensors that are not floating point or do not all have one shape, by name."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} has dtype {tensor.dtype}; give a floating-point tensor")
        if tensor.shape != first.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} and {first_name} {tuple(first.shape)}; they must be equal"
            )


def boolean(shape: torch.Size, **flags: Tensor) -> None:
    """Refuses flags that are not boolean or not of the shape that they speak about."""
    for name, flag in flags.items():
        if flag.dtype != torch.bool:
            raise ValueError(f"{name} has dtype {flag.dtype}; give a boolean tensor")
        if flag.shape != shape:
            raise ValueError(f"{name} has shape {tuple(flag.shape)}; it must be {tuple(shape)}")


def time_axis(tensor: Tensor, name: str) -> None:
    """Refuses a tensor without a last axis to run over."""
    if tensor.dim() == 0:
        raise ValueError(f"{name} is a scalar; its last axis must be time")


def unit_interval(**constants: float) -> None:
    """Refuses constants outside [0, 1], NaN included."""
    for name, value in constants.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1]")


def non_negative(**constants: float) -> None:
    """Refuses constants below 0, NaN and infinities."""
    for name, value in constants.items():
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be at least 0 and finite")


def positive(**constants: float) -> None:
    """Refuses constants that are not above 0, NaN and infinities."""
    for name, value in constants.items():
        if not 0.0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be above 0 and finite")
