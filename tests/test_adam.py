"""Adam over one flat vector: torch's numbers, a state by parameter name, parameters that stay views of the vector."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advantage.adam import FlatAdam, FusedAdam
from advantage.runs import state

EPS = 1e-5
RATES = [1e-3] * 20 + [3e-2] * 15 + [0.0] * 5 + [1e-4] * 10


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3))
    layers.register_parameter("log_std", nn.Parameter(torch.zeros(3)))
    return layers.to(dtype)


def loss(module: nn.Sequential, index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    dtype = module[0].weight.dtype
    x, y = (torch.randn(16, n, generator=generator, dtype=torch.float64).to(dtype) for n in (5, 3))
    log_std = module.get_parameter("log_std")
    return ((module(x) - y).square() * (-2 * log_std).exp() + log_std).mean() * 10.0 ** (index % 5 - 2)


def train(module: nn.Sequential, optimizer: Any, indices: range) -> None:
    for index in indices:
        for group in optimizer.param_groups:
            group["lr"] = RATES[index]
        optimizer.zero_grad()
        loss(module, index).backward()
        optimizer.step()


def torchs(module: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(module.named_parameters(), lr=1.0, eps=EPS)


def equal(one: nn.Module, other: nn.Module, tolerance: float) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in pairs)


@pytest.mark.parametrize("kind", [FlatAdam, FusedAdam])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_fifty_steps_are_those_of_torch(dtype: torch.dtype, tolerance: float, kind: type[FlatAdam]) -> None:
    mine, theirs = network(dtype=dtype), network(dtype=dtype)
    flat, torch_adam = kind(mine, 1.0, EPS), torchs(theirs)
    for index in range(50):
        train(mine, flat, range(index, index + 1))
        train(theirs, torch_adam, range(index, index + 1))
        assert equal(mine, theirs, tolerance), index
    assert not equal(mine, network(dtype=dtype), 1e-2), "nothing was learnt"


def test_the_state_is_torch_s_by_the_names_of_the_parameters() -> None:
    mine, theirs = network(dtype=torch.float64), network(dtype=torch.float64)
    flat, torch_adam = FlatAdam(mine, 1.0, EPS), torchs(theirs)
    train(mine, flat, range(7))
    train(theirs, torch_adam, range(7))
    found = flat.state()
    moments = {
        name: value for name, value in state.snapshot(torch_adam).items() if name.endswith(("/exp_avg", "/exp_avg_sq"))
    }
    names = [name for name, _ in mine.named_parameters()]
    assert set(moments) == {f"{name}/{kind}" for name in names for kind in ("exp_avg", "exp_avg_sq")}
    assert set(found) == {"steps", "learning_rate", *moments}
    assert (found["steps"], found["learning_rate"]) == (7, RATES[6])
    for name, value in moments.items():
        torch.testing.assert_close(found[name].view_as(value), value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "arrays", [lambda value: value.clone(), lambda value: value.numpy().copy()], ids=["tensors", "arrays"]
)
def test_a_restored_run_goes_on_to_the_bit(arrays: Callable[[Tensor], Any]) -> None:
    whole = network()
    train(whole, FlatAdam(whole, 1.0, EPS), range(50))
    first = network()
    before = FlatAdam(first, 1.0, EPS)
    train(first, before, range(23))
    saved = {
        name: arrays(value) if isinstance(value, Tensor) else value for name, value in state.snapshot(before).items()
    }
    weights = copy.deepcopy(first.state_dict())
    train(first, before, range(23, 30))  # what was saved does not move with the run

    second = network(seed=9)
    after = FlatAdam(second, 1.0, EPS)
    state.restore(second, weights)
    state.restore(after, saved)
    assert after.param_groups[0]["lr"] == RATES[22]
    train(second, after, range(23, 50))
    assert equal(second, whole, 0.0)


def test_parameters_and_gradients_stay_views_of_one_vector() -> None:
    module = network()
    optimizer = FlatAdam(module, 0.1, EPS)
    (flat,) = optimizer.param_groups[0]["params"]

    def are_views() -> bool:
        parameters = list(module.parameters())
        together = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        gradients = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
        return torch.equal(together, flat) and torch.equal(gradients, flat.grad)

    assert are_views()
    module.load_state_dict(network(seed=4).state_dict())
    assert are_views() and equal(module, network(seed=4), 0.0)
    loss(module, 2).backward()
    assert are_views() and flat.grad.abs().sum() > 0
    optimizer.step()
    assert are_views() and not equal(module, network(seed=4), 1e-3)
    optimizer.zero_grad(set_to_none=True)
    assert are_views() and flat.grad.abs().sum() == 0


def test_a_shared_layer_is_trained_once() -> None:
    shared = nn.Linear(3, 3)
    module = nn.Sequential(shared, nn.Tanh(), shared)
    assert FlatAdam(module, 0.1, EPS).param_groups[0]["params"][0].numel() == 12
