"""Steps measured in KL instead of in parameters: Fisher-vector products, conjugate gradient, backtracking."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advantage.core import checks


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Float[Tensor, " n"],
    iterations: int,
    tolerance: float,
    start: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, " n"]:
    """Solution of F x = b for a symmetric positive definite F that is known by its products alone.

    Args:
        matvec: v ↦ F v.
        b: right-hand side.
        iterations: at most this many products, ≥ 1. In exact arithmetic n of them suffice.
        tolerance: stops when ‖b − F x‖² falls below it; ≥ 0.
        start: where x begins; None for 0, which saves a product.

    Returns:
        x; from 0, b = 0 gives 0.

    Raises:
        ValueError: `b` is not a real vector, `iterations` < 1 or `tolerance` < 0.

    Source: Hestenes & Stiefel 1952; Schulman et al. 2015, appendix C.

    >>> conjugate_gradient(lambda v: torch.tensor([2.0, 4.0]) * v, torch.tensor([2.0, 8.0]), 10, 1e-10)
    tensor([1., 2.])
    """
    checks.real(b=b)
    checks.non_negative(tolerance=tolerance)
    if b.dim() != 1:
        raise ValueError(f"b has shape {tuple(b.shape)}; it must be one flat vector")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; it must be at least 1")
    x = torch.zeros_like(b) if start is None else start.clone()
    residual = b.clone() if start is None else b - matvec(start)
    direction = residual.clone()
    squared = residual @ residual
    for _ in range(iterations):
        if squared < tolerance or squared == 0:
            break
        product = matvec(direction)
        step = squared / (direction @ product)
        x = x + step * direction
        residual = residual - step * product
        previous, squared = squared, residual @ residual
        direction = residual + squared / previous * direction
    return x


def fisher_vector_product(
    mean_kl: Float[Tensor, ""], parameters: Sequence[Tensor], vector: Float[Tensor, " n"], damping: float
) -> Float[Tensor, " n"]:
    """Product of the Fisher matrix with a vector, without the matrix.

        (F + damping·I) v,   F = ∇² KL(π_old‖π_θ) at θ = θ_old

    Args:
        mean_kl: the scalar KL with its graph, which is kept for the next product.
        parameters: θ, in the order of the flat vector; one that the KL does not reach has a zero row.
        vector: v, as long as all parameters together.
        damping: ≥ 0, added to the diagonal.

    Returns:
        One flat vector, without gradient.

    Raises:
        ValueError: `mean_kl` is no scalar, `vector` has another length, or `damping` < 0.

    Source: Pearlmutter 1994; Schulman et al. 2015, appendix C.1.

    >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> fisher_vector_product((theta**2 * torch.tensor([1.0, 3.0])).sum(), [theta], torch.tensor([1.0, 1.0]), 0.5)
    tensor([2.5000, 6.5000])
    """
    return fisher(mean_kl, parameters, damping)(vector)


def fisher(
    mean_kl: Float[Tensor, ""], parameters: Sequence[Tensor], damping: float
) -> Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]:
    """`fisher_vector_product` for many vectors: the slope of the KL is taken once, each product is one pass more.

    Args, raises and source: as for `fisher_vector_product`.

    >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> product = fisher((theta**2 * torch.tensor([1.0, 3.0])).sum(), [theta], 0.0)
    >>> product(torch.tensor([1.0, 0.0])), product(torch.tensor([0.0, 1.0]))
    (tensor([2., 0.]), tensor([0., 6.]))
    """
    checks.non_negative(damping=damping)
    size = sum(parameter.numel() for parameter in parameters)
    if mean_kl.dim() != 0:
        raise ValueError(f"mean_kl has shape {tuple(mean_kl.shape)}; it must be a scalar")
    slope = flat_gradient(mean_kl, parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        checks.real(vector=vector)
        if vector.shape != (size,):
            raise ValueError(f"vector has shape {tuple(vector.shape)}; it must be ({size},), as long as all parameters")
        if not slope.requires_grad:  # a KL that is linear in θ, or constant, has no curvature
            return damping * vector.detach()
        return (flat_gradient(slope @ vector.detach(), parameters) + damping * vector).detach()

    return product


def line_search(
    attempt: Callable[[Tensor], bool], step: Float[Tensor, " n"], shrink: float = 0.8, tries: int = 10
) -> Float[Tensor, " n"] | None:
    """First of the steps s, s·shrink, s·shrink², … that an attempt accepts.

    Args:
        attempt: moves the parameters by the step that it is given and says whether the result is good enough.
        step: the full step s.
        shrink: factor in (0, 1) between tries.
        tries: how many steps are tried, ≥ 1.

    Returns:
        The accepted step, or None where all failed: the caller then restores the parameters.

    Raises:
        ValueError: `shrink` outside (0, 1), or `tries` < 1.

    Source: Schulman et al. 2015, appendix C.

    >>> line_search(lambda s: bool(s.norm() < 0.6), torch.tensor([1.0]), shrink=0.5)
    tensor([0.5000])
    """
    if not 0.0 < shrink < 1.0:
        raise ValueError(f"shrink is {shrink}; it must lie between 0 and 1")
    if tries < 1:
        raise ValueError(f"tries is {tries}; it must be at least 1")
    for power in range(tries):
        candidate = step * shrink**power
        if attempt(candidate):
            return candidate
    return None


def flat_gradient(of: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> Tensor:
    """∇ of a scalar as one vector, 0 where it does not reach; its graph is kept."""
    gradients = torch.autograd.grad(
        of, parameters, create_graph=create_graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])
