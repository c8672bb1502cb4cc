from __future__ import annotations

import math
from decimal import Decimal, localcontext
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advantage.core import kl_k1, kl_k2, kl_k3, likelihood_ratio, sequence_ratio, token_mean, truncated_importance
from advantage.core.ratio import _SERIES_BELOW
from tests.core.claims import refused, same, slope

POLICIES = given(st.lists(st.floats(-2, 2), min_size=4, max_size=4), st.lists(st.floats(-2, 2), min_size=4, max_size=4))


def double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_ratio_by_hand() -> None:
    """0.01 that became 0.9 counts ninety times, 0.5 that became 0.25 half, what stayed once."""
    logp, logp_old = double(0.9, 0.25, 0.3).log(), double(0.01, 0.5, 0.3).log()
    same(likelihood_ratio(logp, logp_old), double(90.0, 0.5, 1.0))
    assert likelihood_ratio(logp, logp).tolist() == [1.0, 1.0, 1.0]


def test_slope_of_the_ratio_at_the_old_policy_is_that_of_logp() -> None:
    logp = double(-0.3, -7.0).requires_grad_()
    same(slope(likelihood_ratio(logp, logp.detach()), logp)[0], double(1.0, 1.0), 0)


def test_mean_of_the_ratio_under_the_old_policy_is_one_and_it_turns_expectations() -> None:
    logp, logp_old = double(0.3, -0.2, 1.0).log_softmax(-1), double(0.0, 2.0, -1.0).log_softmax(-1)
    ratio = likelihood_ratio(logp, logp_old)
    same((logp_old.exp() * ratio).sum(), 1.0)
    reward = double(3.0, -1.0, 0.5)
    same((logp_old.exp() * ratio * reward).sum(), (logp.exp() * reward).sum())


def test_clamped_ratio() -> None:
    logp = double(-3.0, -1.0, 0.5, 5.0).requires_grad_()
    ratio = likelihood_ratio(logp, double(0.0, 0.0, 0.0, 0.0), clamp=2.0)
    same(ratio, double(math.exp(-2), math.exp(-1), math.exp(0.5), math.exp(2)))
    same(slope(ratio, logp)[0], double(0.0, math.exp(-1), math.exp(0.5), 0.0))
    far = likelihood_ratio(double(900.0).requires_grad_(), double(0.0), clamp=20.0)
    assert far.isfinite().all()
    for clamp in (0.0, -1.0, nan, inf):
        with refused("clamp is", clamp):
            likelihood_ratio(logp, logp, clamp)


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(0, 999))
@settings(max_examples=40)
def test_sequence_ratio_is_the_geometric_mean_of_its_tokens(rows: list[list[bool]], seed: int) -> None:
    mask = torch.tensor(rows)
    rng = torch.Generator().manual_seed(seed)
    new, old = (torch.rand(len(rows), 5, generator=rng, dtype=torch.float64) + 0.1 for _ in range(2))
    ratio = sequence_ratio(new.log(), old.log(), mask)
    for i, row in enumerate(rows):
        tokens = [new[i, t].item() / old[i, t].item() for t in range(5) if row[t]]
        expected = math.prod(tokens) ** (1 / len(tokens)) if tokens else 1.0
        same(ratio[i], double(*[expected] * 5))


def test_sequence_ratio_of_one_token_is_the_token_ratio() -> None:
    logp, logp_old = double(-1.0, -3.0).unsqueeze(-1), double(-2.0, -1.0).unsqueeze(-1)
    ones = torch.ones(2, 1, dtype=torch.bool)
    same(sequence_ratio(logp, logp_old, ones), likelihood_ratio(logp, logp_old))


def test_slope_of_the_sequence_ratio_at_the_old_policy_is_the_mean_over_its_tokens() -> None:
    """So that Σ_t s Â / |o| has the gradient of Â · mean_t logp."""
    logp = -torch.rand(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    ratio = sequence_ratio(logp, logp.detach(), mask)
    same(slope(ratio[:, 0], logp)[0], mask / mask.sum(-1, keepdim=True).double(), 0)


@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_what_stands_behind_the_mask_does_not_exist(poison: float) -> None:
    logp = torch.tensor([[-1.0, poison], [poison, poison]], requires_grad=True)
    logp_old = torch.tensor([[-2.0, poison], [-1.0, poison]], requires_grad=True)
    ratio = sequence_ratio(logp, logp_old, torch.tensor([[True, False], [False, False]]))
    same(ratio, [[math.e, math.e], [1.0, 1.0]], 1e-6)
    for gradient in slope(ratio, logp, logp_old):
        assert gradient.isfinite().all()
        assert gradient[0, 0] != 0 and (gradient.flatten()[1:] == 0).all()


def test_truncated_importance_by_hand() -> None:
    old, sampler = double(0.5, 0.1, 0.2).log(), double(0.1, 0.1, 0.4).log()
    same(truncated_importance(old, sampler, 2.0), double(2.0, 1.0, 0.5))
    same(truncated_importance(old, sampler, 0.4), double(0.4, 0.4, 0.4))
    same(truncated_importance(double(0.01).log(), double(1.0).log(), 2.0), double(0.01))  # a cap is no floor
    same(truncated_importance(double(900.0), double(0.0), 3.0), double(3.0), 0)
    live = old.clone().requires_grad_()
    assert not truncated_importance(live, sampler, 2.0).requires_grad
    for cap in (0.0, -1.0, nan, inf):
        with refused("cap is", cap):
            truncated_importance(old, sampler, cap)


def test_estimators_by_hand() -> None:
    logp, logp_ref = double(-1.0, -1.0), double(-3.0, 0.0)
    same(kl_k1(logp, logp_ref), double(2.0, -1.0))
    same(kl_k2(logp, logp_ref), double(2.0, 0.5))
    same(kl_k3(logp, logp_ref), double(math.exp(-2) + 1, math.e - 2))


@POLICIES
@settings(max_examples=40)
def test_expectations_by_enumeration(logits: list[float], reference: list[float]) -> None:
    """k1 and k3 estimate KL(π‖π_ref) without bias from samples of π; k3 with the fraction upside down does not."""
    logp, logp_ref = double(*logits).log_softmax(-1), double(*reference).log_softmax(-1)
    pi, ref = logp.exp(), logp_ref.exp()
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(probs=pi), torch.distributions.Categorical(probs=ref)
    )
    same((pi * kl_k1(logp, logp_ref)).sum(), kl)
    same((pi * kl_k3(logp, logp_ref)).sum(), kl)
    chi_squared = (pi.square() / ref).sum() - 1
    same((pi * kl_k3(logp_ref, logp)).sum(), chi_squared - kl, 1e-10)
    same((ref * kl_k3(logp_ref, logp)).sum(), (ref * kl_k1(logp_ref, logp)).sum())


def test_k2_is_exact_to_second_order() -> None:
    logits, direction = double(0.3, -1.0, 0.8), double(1.0, -2.0, 0.5)
    for step in (1e-2, 1e-3):
        logp, logp_ref = logits.log_softmax(-1), (logits + step * direction).log_softmax(-1)
        kl = (logp.exp() * kl_k1(logp, logp_ref)).sum()
        assert abs((logp.exp() * kl_k2(logp, logp_ref)).sum() / kl - 1) < step


@POLICIES
@settings(max_examples=20)
def test_slopes_of_the_estimators_are_not_those_of_what_they_estimate(
    logits: list[float], reference: list[float]
) -> None:
    """On samples of π: k1's has mean 0, k2's is that of KL(π‖π_ref), k3's that of KL(π_ref‖π). With the ratio, gradient
    through both factors, k3's is that of KL(π‖π_ref)."""
    theta = double(*logits).requires_grad_()
    logp, logp_ref = theta.log_softmax(-1), double(*reference).log_softmax(-1)
    pi = logp.exp().detach()

    def mean_slope(term: Tensor) -> Tensor:
        return slope((pi * term).sum(), theta)[0]

    forward = slope((logp.exp() * (logp - logp_ref)).sum(), theta)[0]
    backward = slope((logp_ref.exp() * (logp_ref - logp)).sum(), theta)[0]
    same(mean_slope(kl_k1(logp, logp_ref)), 0 * forward)
    same(mean_slope(kl_k2(logp, logp_ref)), forward)
    same(mean_slope(kl_k3(logp, logp_ref)), backward)
    same(mean_slope(likelihood_ratio(logp, logp.detach()) * kl_k3(logp, logp_ref)), forward)


def exact_k3(x: float) -> tuple[float, float]:
    """eˣ − 1 − x and its slope eˣ − 1, in sixty digits."""
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(x)
        return float(exact.exp() - 1 - exact), float(exact.exp() - 1)


def k3(x: Tensor) -> tuple[Tensor, Tensor]:
    """k3 and its slope by the log-ratio."""
    x = x.clone().requires_grad_()
    value = kl_k3(torch.zeros_like(x), x)
    return value.detach(), slope(value, x)[0]


def relative_error(actual: Tensor, expected: list[float]) -> float:
    return max(abs(a - e) / abs(e) for a, e in zip(actual.tolist(), expected, strict=True))


@pytest.mark.parametrize("sign", [-1, 1])
def test_k3_keeps_its_precision_near_zero(sign: int) -> None:
    sizes = sign * torch.logspace(-15, 1, 200, dtype=torch.float64)
    value, gradient = k3(sizes)
    exact = [exact_k3(x) for x in sizes.tolist()]
    assert relative_error(value, [e[0] for e in exact]) < 1e-14
    assert relative_error(gradient, [e[1] for e in exact]) < 1e-13
    tiny = kl_k3(double(0.0), double(sign * 1e-9)).item()
    assert tiny == pytest.approx(5e-19 * (1 + sign * 1e-9 / 3), rel=1e-12)


@pytest.mark.parametrize("sign", [-1, 1])
def test_k3_in_float32(sign: int) -> None:
    sizes = sign * torch.logspace(-15, 1, 200, dtype=torch.float32)
    value, gradient = k3(sizes)
    exact = [exact_k3(x) for x in sizes.tolist()]
    assert relative_error(value, [e[0] for e in exact]) < 5e-6
    assert relative_error(gradient, [e[1] for e in exact]) < 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [-1, 1])
def test_k3_has_no_step_where_the_series_ends(sign: int, dtype: torch.dtype) -> None:
    edge = torch.tensor([sign * _SERIES_BELOW], dtype=dtype)
    around = torch.cat([torch.nextafter(edge, 0 * edge), edge, torch.nextafter(edge, 2 * edge)])
    value, gradient = k3(around)
    assert len({bool(x.abs() < _SERIES_BELOW) for x in around}) == 2
    rounding = 40 * torch.finfo(dtype).eps
    for of in (value, gradient):
        assert ((of - of[1]).abs() <= rounding * of.abs()).all()


def test_k3_and_its_slope_are_zero_at_zero_and_never_negative() -> None:
    value, gradient = k3(double(0.0))
    assert value.item() == 0 and gradient.item() == 0
    for dtype in (torch.float32, torch.float64):
        assert (k3(torch.linspace(-1, 1, 2001, dtype=dtype))[0] >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_ends_have_no_nan(dtype: torch.dtype) -> None:
    """Also beside ordinary entries: where() must not let an overflow of the unused branch into the gradient."""
    x = torch.tensor([-inf, -1e9, -800.0, -50.0, -1e-3, 0.0, 1e-3, 50.0, 800.0, 1e9], dtype=dtype)
    value, gradient = k3(x)
    assert not value.isnan().any() and not gradient.isnan().any()
    same(value[:4], x[:4].neg() - 1)
    same(gradient[:4], [-1.0] * 4)
    same(value[7], x[7].exp() - 51, 1e-6)
    assert (value[8:] == inf).all() and (gradient[8:] == inf).all()
    assert (value[1:8] < inf).all() and (gradient[1:8] < inf).all()


def test_an_action_that_the_reference_never_takes_costs_infinitely_much() -> None:
    for estimator in (kl_k1, kl_k2, kl_k3):
        assert estimator(double(-1.0), double(-inf)).item() == inf


def test_a_mean_of_k3_has_the_gradient_of_its_parts() -> None:
    logp = -torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    logp_ref = logp.detach() + torch.linspace(-0.2, 0.2, 12, dtype=torch.float64).view(3, 4)
    mask = torch.arange(4) < torch.tensor([4, 2, 1]).unsqueeze(-1)
    expected = (1 - (logp_ref - logp).exp()) * mask / mask.sum()
    same(slope(token_mean(kl_k3(logp, logp_ref), mask), logp)[0], expected.detach())
