from __future__ import annotations

import math
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advantage.core import conjugate_gradient, fisher_vector_product, line_search, surrogate
from tests.core.claims import peak_bytes, refused, same, slope


def positive_definite(seed: int, n: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=rng, dtype=torch.float64)
    return root @ root.T + torch.eye(n, dtype=torch.float64), torch.randn(n, generator=rng, dtype=torch.float64)


STATES = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.2]], dtype=torch.float64)


def scored(weight: Tensor, bias: Tensor) -> Tensor:
    """Log-probabilities of 3 states × 4 actions."""
    return (STATES @ weight + bias).log_softmax(-1)


def softmax_policy(seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Two parameters of unequal shape, and what they score."""
    rng = torch.Generator().manual_seed(seed)
    parameters = [torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in ((2, 4), (4,))]
    return parameters, scored(*parameters)


def mean_kl(old: Tensor, new: Tensor) -> Tensor:
    return (old.exp() * (old - new)).sum(-1).mean()


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@given(st.integers(0, 999), st.integers(1, 8))
@settings(max_examples=25)
def test_conjugate_gradient_solves(seed: int, n: int) -> None:
    matrix, b = positive_definite(seed, n)
    x = conjugate_gradient(lambda v: matrix @ v, b, 4 * n, 1e-28)
    same(x, torch.linalg.solve(matrix, b), 1e-9)


def test_n_products_suffice_in_n_dimensions_and_one_on_a_multiple_of_the_identity() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    b = torch.ones(3, dtype=torch.float64)
    assert (conjugate_gradient(lambda v: matrix @ v, b, 2, 0.0) - 1 / matrix.diag()).abs().max() > 1e-3
    same(conjugate_gradient(lambda v: matrix @ v, b, 3, 0.0), 1 / matrix.diag())
    same(conjugate_gradient(lambda v: 5 * v, b, 1, 0.0), b / 5)


def test_the_first_iterate_is_the_steepest_descent() -> None:
    """α = bᵀb / bᵀFb."""
    matrix, b = positive_definite(0, 5)
    same(conjugate_gradient(lambda v: matrix @ v, b, 1, 0.0), b * (b @ b) / (b @ matrix @ b))


def test_products_stop_at_the_tolerance() -> None:
    """On the squared residual, which goes 4, 0.48, 0."""
    asked: list[Tensor] = []

    def matvec(v: Tensor) -> Tensor:
        asked.append(v)
        return torch.tensor([1.0, 1.0, 1.0, 2.0]) * v

    b = torch.ones(4)
    for tolerance, products in ((4.1, 0), (3.9, 1), (0.49, 1), (0.47, 2), (0.0, 2)):
        asked.clear()
        x = conjugate_gradient(matvec, b, 2, tolerance)
        assert len(asked) == products
        assert (x == 0).all() == (products == 0)


def test_nothing_to_solve() -> None:
    asked: list[Tensor] = []
    assert (conjugate_gradient(lambda v: asked.append(v) or v, torch.zeros(3), 5, 0.0) == 0).all()
    assert not asked


def test_fisher_matrix_is_the_hessian_of_the_kl_and_the_variance_of_the_score() -> None:
    """Column by column against E[∇logπ ∇logπᵀ], by enumeration of all states and actions."""
    parameters, logp = softmax_policy()
    scores = torch.stack([flat(list(slope(logp[s, a], *parameters))) for s in range(3) for a in range(4)])
    fisher = (scores.T * (logp.exp().detach().flatten() / 3)) @ scores
    kl = mean_kl(logp.detach(), logp)
    size = fisher.shape[0]
    columns = [fisher_vector_product(kl, parameters, unit, 0.0) for unit in torch.eye(size, dtype=torch.float64)]
    same(torch.stack(columns, -1), fisher)


def test_damping_adds_to_the_diagonal() -> None:
    parameters, logp = softmax_policy()
    kl = mean_kl(logp.detach(), logp)
    vector = torch.linspace(-1, 1, 12, dtype=torch.float64)
    plain = fisher_vector_product(kl, parameters, vector, 0.0)
    same(fisher_vector_product(kl, parameters, vector, 0.3), plain + 0.3 * vector)


def test_the_graph_is_kept_and_the_product_is_a_constant() -> None:
    parameters, logp = softmax_policy()
    kl = mean_kl(logp.detach(), logp)
    vector = torch.ones(12, dtype=torch.float64, requires_grad=True)
    first, second = (fisher_vector_product(kl, parameters, vector, 0.1) for _ in range(2))
    same(first, second, 0)
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in parameters)


def test_parameters_that_the_kl_does_not_reach_have_a_zero_row() -> None:
    used, unused = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    vector = torch.arange(1.0, 5.0, dtype=torch.float64)
    same(fisher_vector_product(used.square().sum(), [unused, used], vector, 0.5), [0.5, 1.0, 7.5, 10.0])
    same(fisher_vector_product(used.sum(), [unused, used], vector, 0.5), 0.5 * vector)
    live = vector[:2].clone().requires_grad_()
    same(fisher_vector_product(used.sum(), [used], live, 0.5), 0.5 * vector[:2])
    assert not fisher_vector_product(used.sum(), [used], live, 0.5).requires_grad


def test_memory_holds_no_matrix() -> None:
    theta = torch.ones(3000, requires_grad=True)
    vector = torch.ones(3000)
    kl = theta.square().sum()
    assert peak_bytes(lambda: fisher_vector_product(kl, [theta], vector, 0.1)) < 20 * vector.nbytes


def test_line_search_takes_the_first_step_that_is_accepted() -> None:
    step, tried = torch.tensor([8.0, -8.0]), []

    def attempt(candidate: Tensor) -> bool:
        tried.append(candidate)
        return bool(candidate.abs().max() <= 2)

    same(line_search(attempt, step, shrink=0.5), [2.0, -2.0], 0)
    same(torch.stack(tried), [[8.0, -8.0], [4.0, -4.0], [2.0, -2.0]], 0)
    same(line_search(lambda candidate: True, step), step, 0)


def test_line_search_gives_up() -> None:
    tried: list[float] = []
    assert line_search(lambda s: bool(tried.append(s.item())), torch.tensor([1.0]), shrink=0.1, tries=3) is None
    assert tried == pytest.approx([1.0, 0.1, 0.01])
    tried.clear()
    line_search(lambda s: bool(tried.append(s.item())), torch.tensor([1.0]))
    assert tried == pytest.approx([0.8**k for k in range(10)])


def test_the_pieces_make_a_step_of_the_wanted_kl() -> None:
    """√(2δ/xᵀFx) x with F x = ∇L moves the policy by KL ≈ δ and uphill, further than the same KL along ∇L does."""
    parameters, logp = softmax_policy(1)
    old = logp.detach()
    advantages = torch.randn(3, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradient = flat(list(slope((old.exp() * surrogate((logp - old).exp(), advantages)).sum(-1).mean(), *parameters)))
    kl = mean_kl(old, logp)

    def product(v: Tensor) -> Tensor:
        return fisher_vector_product(kl, parameters, v, 1e-6)

    def reached(step: Tensor) -> tuple[float, float]:
        """KL and surrogate after a step."""
        weight, bias = parameters
        new = scored(weight + step[:8].view(2, 4), bias + step[8:])
        return mean_kl(old, new).item(), (new.exp() * advantages).sum(-1).mean().item()

    x = conjugate_gradient(product, gradient, 50, 1e-24)
    wanted = 1e-5
    natural = math.sqrt(2 * wanted / (x @ product(x))) * x
    steepest = math.sqrt(2 * wanted / (gradient @ product(gradient))) * gradient
    assert reached(natural)[0] == pytest.approx(wanted, rel=0.01)
    assert reached(natural)[1] > reached(steepest)[1] > reached(0 * x)[1]


def test_refusals() -> None:
    b = torch.ones(3)
    for iterations in (0, -1):
        with refused("iterations is", iterations):
            conjugate_gradient(lambda v: v, b, iterations, 0.0)
    for tolerance in (-1e-9, nan, inf):
        with refused("tolerance is", tolerance):
            conjugate_gradient(lambda v: v, b, 1, tolerance)
    with refused("b has shape", (1, 3)):
        conjugate_gradient(lambda v: v, b.unsqueeze(0), 1, 0.0)
    with refused("b", "int64"):
        conjugate_gradient(lambda v: v, b.long(), 1, 0.0)

    theta = torch.ones(2, requires_grad=True)
    for damping in (-0.1, nan, inf):
        with refused("damping is", damping):
            fisher_vector_product(theta.sum(), [theta], torch.ones(2), damping)
    with refused("vector", (3,), (2,)):
        fisher_vector_product(theta.sum(), [theta], torch.ones(3), 0.1)
    with refused("mean_kl", (2,)):
        fisher_vector_product(theta * 1, [theta], torch.ones(2), 0.1)
    with refused("vector", "int64"):
        fisher_vector_product(theta.sum(), [theta], torch.ones(2, dtype=torch.long), 0.1)

    for shrink in (0.0, 1.0, -0.5, nan):
        with refused("shrink is", shrink):
            line_search(lambda s: True, b, shrink=shrink)
    for tries in (0, -1):
        with refused("tries is", tries):
            line_search(lambda s: True, b, tries=tries)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arguments_stay_as_they_were_and_give_their_dtype(dtype: torch.dtype) -> None:
    theta = [parameter.detach().to(dtype).requires_grad_() for parameter in softmax_policy()[0]]
    kl = (theta[0].square().sum() * theta[1].sum()).exp()
    vector = torch.linspace(-1, 1, 12, dtype=dtype)
    before = [tensor.detach().clone() for tensor in (*theta, vector)]
    outputs = [
        fisher_vector_product(kl, theta, vector, 0.1),
        conjugate_gradient(lambda v: 2 * v, vector, 3, 0.0),
        conjugate_gradient(lambda v: v, vector, 1, 0.0),
        line_search(lambda step: bool(step.norm() < 1), vector),
    ]
    assert all(output is not None and output.dtype == dtype for output in outputs)
    for tensor, old in zip((*theta, vector), before, strict=True):
        assert torch.equal(tensor, old) and tensor.grad is None
