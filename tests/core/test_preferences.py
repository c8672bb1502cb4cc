from __future__ import annotations

import math
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advantage.core import bradley_terry_loss, dpo_loss, implicit_reward, ipo_loss
from tests.core.claims import refused, same, slope

SCORES = st.floats(-20, 20)


def double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def wins(score: float, other: float) -> float:
    """Bradley and Terry's probability, as the share of two strengths."""
    return math.exp(score) / (math.exp(score) + math.exp(other))


def test_bradley_terry_by_hand() -> None:
    chosen, rejected = double(0.0, math.log(3), 2.0), double(0.0, 0.0, 2.0)
    same(bradley_terry_loss(chosen, rejected), double(math.log(2), math.log(4 / 3), math.log(2)))
    same(bradley_terry_loss(chosen, rejected, margin=math.log(3))[1:], double(math.log(2), math.log(4)))
    one_a_pair = double(0.0, math.log(3), -math.log(3))
    same(bradley_terry_loss(chosen, rejected, one_a_pair), double(math.log(2), math.log(2), math.log(4 / 3)))


@given(SCORES, SCORES, st.floats(-3, 3), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
@settings(max_examples=60)
def test_bradley_terry_is_the_cross_entropy_of_who_wins(
    chosen: float, rejected: float, margin: float, alpha: float
) -> None:
    p, q = wins(chosen, rejected + margin), wins(rejected + margin, chosen)
    expected = -(1 - alpha) * math.log(p) - alpha * math.log(q)
    same(bradley_terry_loss(double(chosen), double(rejected), margin, alpha), double(expected), 1e-9)


def test_only_differences_of_scores_count() -> None:
    chosen, rejected = double(1.0, -2.0), double(0.5, 3.0)
    same(bradley_terry_loss(chosen + 7, rejected + 7), bradley_terry_loss(chosen, rejected))


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_far_scores_overflow_nowhere(alpha: float) -> None:
    chosen = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    loss = bradley_terry_loss(chosen, -chosen.detach(), label_smoothing=alpha)
    same(loss, [2e4 * alpha, 2e4 * (1 - alpha), math.log(2)], 1e-6)
    same(slope(loss, chosen)[0], [alpha, alpha - 1, alpha - 0.5], 1e-6)


def test_smoothed_labels_have_their_minimum_at_the_believed_odds() -> None:
    chosen = double(math.log(9)).requires_grad_()
    same(slope(bradley_terry_loss(chosen, double(0.0), label_smoothing=0.1), chosen)[0], double(0.0))


def test_implicit_reward_by_hand() -> None:
    same(implicit_reward(double(-1.0, -4.0), double(-3.0, -4.0), 0.5), double(1.0, 0.0), 0)
    assert implicit_reward(double(-1.0), double(-3.0), 0.0).item() == 0


def test_implicit_reward_of_the_optimal_policy_is_the_reward() -> None:
    """π* = π_ref exp(r/β)/Z: up to the constant β log Z of the prompt."""
    logp_ref, reward, beta = double(0.1, 1.2, -0.4).log_softmax(-1), double(1.0, -0.5, 3.0), 0.7
    optimum = (logp_ref + reward / beta).log_softmax(-1)
    same((implicit_reward(optimum, logp_ref, beta) - reward).diff(), double(0.0, 0.0))


def test_dpo_by_hand() -> None:
    pair = (
        double(-1.0),
        double(-2.0),
        double(-2.0),
        double(-1.0),
    )  # the chosen one gained a nat, the rejected one lost it
    same(dpo_loss(*pair, beta=0.5), double(-math.log(wins(1.0, 0.0))))
    same(dpo_loss(*pair, beta=0.0), double(math.log(2)))
    smoothed = -0.8 * math.log(wins(1.0, 0.0)) - 0.2 * math.log(wins(0.0, 1.0))
    same(dpo_loss(*pair, beta=0.5, label_smoothing=0.2), double(smoothed))


def test_dpo_at_the_reference_pushes_the_pair_apart_by_half_beta() -> None:
    chosen, rejected = double(-3.0).requires_grad_(), double(-5.0).requires_grad_()
    loss = dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.3)
    same(loss, double(math.log(2)))
    assert [g.item() for g in slope(loss, chosen, rejected)] == [pytest.approx(-0.15), pytest.approx(0.15)]


@given(SCORES, SCORES, SCORES, SCORES)
@settings(max_examples=40)
def test_ipo_is_a_square_around_its_gap(c: float, r: float, ref_c: float, ref_r: float) -> None:
    beta, gap = 0.25, 2.0
    u = c - r - (ref_c - ref_r)
    loss = ipo_loss(double(c), double(r), double(ref_c), double(ref_r), beta)
    same(loss, double(u * u - 2 * gap * u + gap * gap), 1e-9)


def test_ipo_is_content_at_its_gap_and_dpo_never() -> None:
    chosen = double(5.0).requires_grad_()
    zero = double(0.0)
    assert slope(ipo_loss(chosen, zero, zero, zero, 0.1), chosen)[0].item() == 0
    assert slope(dpo_loss(chosen, zero, zero, zero, 0.1), chosen)[0].item() < 0


def test_refusals() -> None:
    pair = (torch.zeros(2),) * 4
    for alpha in (-0.1, 1.1, nan):
        with refused("label_smoothing is", alpha):
            bradley_terry_loss(*pair[:2], label_smoothing=alpha)
        with refused("label_smoothing is", alpha):
            dpo_loss(*pair, beta=0.1, label_smoothing=alpha)
    for beta in (-0.1, nan, inf):
        for call in (lambda b: dpo_loss(*pair, beta=b), lambda b: implicit_reward(*pair[:2], beta=b)):
            with refused("beta is", beta):
                call(beta)
    for beta in (0.0, -0.1, nan, inf):
        with refused("beta is", beta):
            ipo_loss(*pair, beta=beta)
    with refused("ref_rejected", (1,)):
        dpo_loss(*pair[:3], torch.zeros(1), beta=0.1)
    with refused("margin", (1,)):
        bradley_terry_loss(*pair[:2], margin=torch.zeros(1))
