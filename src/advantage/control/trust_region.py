"""One step of a policy measured in KL: the natural gradient to the edge of the trust region, then a line search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from advantage.core import conjugate_gradient, fisher, line_search
from advantage.core.trust_region import flat_gradient
from advantage.errors import NonFinite

TOLERANCE = 1e-10  # ‖g − F x‖² at which conjugate gradient has solved well enough


class Moved(NamedTuple):
    """A step of the policy: the gain and the mean KL that it reached, whether it was taken, its gradient's norm."""

    gain: float
    kl: float
    taken: bool
    gradient_norm: float


def move(
    parameters: Sequence[Tensor], measure: Callable[[], tuple[Tensor, Tensor]], now: Any, noise: Tensor | None = None
) -> Moved:
    """Moves parameters by √(2δ / xᵀAx) x, or by the first shorter step that improves L within KL ≤ δ.

        A x = ∇L,   A = F + damping·I

    Args:
        parameters: of the policy, moved in place; they are as they were where no step is accepted.
        measure: L and the mean KL(π_old‖π) at the parameters as they stand; differentiable at the first call.
        now: settings of this moment: `target_kl` (δ), `cg_iterations`, `cg_damping`, `line_search_tries`,
            `line_search_shrink`, and `step`, which is "natural" for a step that nothing checks.
        noise: where conjugate gradient begins, as long as the parameters; None for 0.

    Raises:
        NonFinite: L or its gradient is NaN or infinite.

    Source: Schulman et al. 2015, appendix C; Kakade 2001 for the natural gradient.
    """
    gain, kl = measure()
    gradient = flat_gradient(gain, parameters)
    before, norm = float(gain.detach()), float(gradient.norm())
    if not (gradient.isfinite().all() and gain.isfinite()):
        raise NonFinite(f"the surrogate is {before:g} and the norm of its gradient {norm:g}: not finite")
    product = fisher(kl, parameters, now.cg_damping)
    direction = conjugate_gradient(product, gradient, now.cg_iterations, TOLERANCE, noise)
    curvature = float(direction @ product(direction))
    if not curvature > 0:  # no gradient, so no direction
        return Moved(before, 0.0, False, norm)
    origin, reached = parameters_to_vector(parameters).detach(), (before, 0.0)

    @torch.no_grad()
    def attempt(step: Tensor) -> bool:
        nonlocal reached
        _put(parameters, origin + step)
        there, far = measure()
        reached = float(there), float(far)
        return reached[0] > before and reached[1] <= now.target_kl  # of NaN neither is true

    if _walked(attempt, (2.0 * now.target_kl / curvature) ** 0.5 * direction, now):
        return Moved(*reached, True, norm)
    _put(parameters, origin)
    return Moved(before, 0.0, False, norm)


@torch.no_grad()
def _put(parameters: Sequence[Tensor], flat: Tensor) -> None:
    """In place: as views of the flat vector they would lie elsewhere in memory than in a resumed run, and sums of
    vectorised kernels differ by where their operands begin.
    """
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.copy_(part.view_as(parameter))


def _walked(attempt: Callable[[Tensor], bool], step: Tensor, now: Any) -> bool:
    """Whether a step was taken; the parameters then stand there."""
    if now.step == "natural":
        attempt(step)
        return True
    return line_search(attempt, step, now.line_search_shrink, now.line_search_tries) is not None
