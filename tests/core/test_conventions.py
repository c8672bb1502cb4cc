"""What holds for every function of the core: shapes, dtypes, batches, purity, refusals and slopes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advantage import core
from tests.core.calls import CALLS, Arguments, draw
from tests.core.claims import refused, same

SHAPES = [(5,), (4, 5), (2, 3, 5), (3, 1), (1,)]
ROWWISE = [name for name, call in CALLS.items() if not call.scalar and not call.mixes_rows]
COUNTS = {"overlong_penalty"}  # has no real argument: its result has torch's default dtype
TRUST_REGION = {"conjugate_gradient", "fisher", "fisher_vector_product", "line_search"}

devices = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
        ),
    ],
)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
every_function = pytest.mark.parametrize("name", CALLS)


def result(name: str, arguments: Arguments) -> Tensor:
    return CALLS[name](name, arguments)


def tensors(arguments: Arguments) -> dict[str, Tensor]:
    return {key: value for key, value in arguments.items() if isinstance(value, Tensor)}


def changed(arguments: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    return arguments | {key: change(tensor) for key, tensor in tensors(arguments).items()}


def test_every_public_function_is_tried() -> None:
    assert set(CALLS) | TRUST_REGION == set(core.__all__)


@every_function
@pytest.mark.parametrize("shape", SHAPES)
def test_any_batch_shape(name: str, shape: tuple[int, ...]) -> None:
    output = result(name, draw(name, shape))
    assert output.shape == (() if CALLS[name].scalar else shape)
    assert output.isfinite().all()


@pytest.mark.parametrize("name", [name for name in CALLS if name != "standardize" and not CALLS[name].scalar])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_no_step_and_no_stream(name: str, shape: tuple[int, ...]) -> None:
    assert result(name, draw(name, shape)).shape == shape


@every_function
@devices
@dtypes
def test_dtype_and_device_follow_the_arguments(name: str, device: str, dtype: torch.dtype) -> None:
    output = result(name, draw(name, (4, 5), dtype=dtype, device=device))
    assert output.device.type == device
    assert output.dtype == (torch.get_default_dtype() if name in COUNTS else dtype)


@every_function
@devices
def test_float32_agrees_with_float64(name: str, device: str) -> None:
    single = result(name, draw(name, (4, 9), dtype=torch.float32, device=device))
    exact = result(name, draw(name, (4, 9)))
    same(single.cpu().double(), exact.double(), tolerance=2e-5)


@every_function
def test_arguments_stay_as_they_were(name: str) -> None:
    arguments = draw(name, (4, 5))
    before = {key: (tensor.clone(), tensor._version) for key, tensor in tensors(arguments).items()}
    result(name, arguments)
    for key, tensor in tensors(arguments).items():
        content, version = before[key]
        assert torch.equal(tensor, content), key
        assert tensor._version == version, key


def variants(*changes: tuple[str, object]) -> list[tuple[str, Arguments]]:
    """Every call as it is, and with each of its arguments changed that the function takes that way."""
    needs_mask = {"terminal_reward", "kl_reward", "sequence_ratio"}
    other = [(name, {key: to}) for name in CALLS for key, to in changes if key in draw(name, (2, 3))]
    return [(name, {}) for name in CALLS] + [(name, new) for name, new in other if name not in needs_mask]


@pytest.mark.parametrize(
    ("name", "change"), variants(("n", 1), ("valid", None), ("mask", None), ("clamp", None), ("dual_clip", None))
)
def test_the_result_is_no_view_of_an_argument(name: str, change: Arguments) -> None:
    arguments = draw(name, (4, 5)) | change
    output = result(name, arguments).untyped_storage().data_ptr()
    assert output not in [tensor.untyped_storage().data_ptr() for tensor in tensors(arguments).values()]


@pytest.mark.parametrize("name", ROWWISE)
def test_rows_do_not_know_of_each_other(name: str) -> None:
    """A batch is its rows one by one, in any order, under any leading shape: to a rounding of exp."""
    arguments = draw(name, (6, 5))
    whole = result(name, arguments)
    same(torch.stack([result(name, changed(arguments, lambda t, i=i: t[i])) for i in range(6)]), whole, 1e-14)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    same(result(name, changed(arguments, lambda t: t[order])), whole[order], 1e-14)
    same(result(name, changed(arguments, lambda t: t.unflatten(0, (2, 3)))), whole.unflatten(0, (2, 3)), 1e-14)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ROWWISE])
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    arguments = draw(name, (6, 5))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    whole = result(name, arguments)
    permuted = result(name, changed(arguments, lambda t: t[order]))
    same(permuted, whole if CALLS[name].scalar else whole[order])


@every_function
def test_arguments_may_lie_in_memory_in_any_way(name: str) -> None:
    arguments = draw(name, (6, 5))
    turned = changed(arguments, lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0))
    same(result(name, turned), result(name, arguments))


@every_function
def test_slopes_by_finite_difference(name: str) -> None:
    """Also: what is no constant of the update gets a gradient, and what is one gets none."""
    arguments = draw(name, (2, 4), seed=1)
    reals = {key: tensor for key, tensor in tensors(arguments).items() if tensor.is_floating_point()}
    for tensor in reals.values():
        tensor.requires_grad_()
    output = result(name, arguments)
    assert output.requires_grad == bool(CALLS[name].slopes)
    if not output.requires_grad:
        return
    slopes = torch.autograd.grad(output.sum(), list(reals.values()), allow_unused=True)
    reached = [key for key, gradient in zip(reals, slopes, strict=True) if gradient is not None]
    assert reached == [key for key in reals if key in CALLS[name].slopes]
    wrt = [reals[key] for key in reached]
    assert torch.autograd.gradcheck(
        lambda *values: result(name, arguments | dict(zip(reached, values, strict=True))), wrt
    )


NARROWED = {
    "last axis 1": lambda tensor: tensor[..., :1],
    "first axis 1": lambda tensor: tensor[:1],
    "no first axis": lambda tensor: tensor[0],
}
LEGAL = {  # one step of time, and one action to choose from
    ("terminal_reward", "mask", "last axis 1"),
    ("sarsa_target", "next_q", "last axis 1"),
    ("q_learning_target", "next_q", "last axis 1"),
}
WRONG_SHAPES = {
    (name, key, how)
    for name in CALLS
    for key in tensors(draw(name, (2, 3)))
    for how in NARROWED
    if len(tensors(draw(name, (2, 3)))) > 1
}


@pytest.mark.parametrize(("name", "key", "how"), sorted(WRONG_SHAPES - LEGAL))
def test_nothing_is_broadcast(name: str, key: str, how: str) -> None:
    arguments = draw(name, (2, 3))
    wrong = NARROWED[how](arguments[key])
    with refused("mask has shape" if name == "terminal_reward" else tuple(wrong.shape)):
        result(name, arguments | {key: wrong})


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name in CALLS for key in tensors(draw(name, (2, 3))) if key != "lengths"]
)
def test_wrong_kinds_of_numbers(name: str, key: str) -> None:
    """Integers or flags where reals belong, reals where flags or ids belong."""
    arguments = draw(name, (2, 3))
    bad = arguments[key].long() if arguments[key].is_floating_point() else arguments[key].double()
    with refused(key, bad.dtype):
        result(name, arguments | {key: bad})


@pytest.mark.parametrize(
    "name", ["discounted_return", "n_step_advantage", "gae", "lambda_return", "traces", "sequence_mean"]
)
def test_a_scalar_has_no_time(name: str) -> None:
    with refused("scalar"):
        result(name, draw(name, ()))
