"""What the tests of the core say again and again: these are equal, this is refused, that costs so many bytes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def same(actual: Tensor, expected: Tensor | float | list[Any], tolerance: float = 1e-12) -> None:
    """Equal to a relative and absolute tolerance, of one shape, dtype and device; 0 demands the very bits."""
    if not isinstance(expected, Tensor):
        expected = torch.tensor(expected, dtype=actual.dtype, device=actual.device)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def slope(of: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradient of the sum; zeros where an input is not reached."""
    return torch.autograd.grad(of.sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True)


@contextmanager
def refused(*words: object) -> Iterator[None]:
    """A ValueError of one line that contains the words: names, values, shapes."""
    with pytest.raises(ValueError, match=".") as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, f"{word!r} is not in {message!r}"


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that were alive at once in the tensors that a call made."""
    with _Live() as live:
        call()
    return live.peak


class _Live(TorchDispatchMode):
    """Counts the storages of all results until each is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.bytes:
                    self.bytes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.bytes.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.bytes.values()))
        return result
