"""What is said follows from the numbers: other numbers, other words."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from advantage.experiments.sentences import Measured, opening, sentence


def measured(
    label: str = "baseline",
    returns: tuple[float, ...] = (100.0, 110.0, 90.0),
    reached: tuple[float | None, ...] = (None, None, None),
    noise: tuple[float, ...] = (1000.0, 1100.0, 900.0),
    moved: tuple[float, ...] = (0.01, 0.02, 0.03),
    failed: tuple[int, ...] = (),
) -> Measured:
    by_seed = [dict(enumerate(column)) for column in (returns, reached, noise, moved)]
    columns: list[Mapping[int, float]] = [by_seed[0], by_seed[2], by_seed[3]]  # type: ignore[list-item]
    return Measured(label, columns[0], by_seed[1], columns[1], columns[2], failed)


BEFORE = measured("reward-to-go")


@pytest.mark.parametrize(
    ("returns", "told"),
    [
        (
            (200.0, 211.0, 189.0),
            "Baseline is better than reward-to-go: mean return 200 against 100, a difference of +100",
        ),
        ((50.0, 61.0, 39.0), "Baseline is worse than reward-to-go: mean return 50 against 100, a difference of −50"),
        ((300.0, 10.0, 90.0), "Baseline is not distinguishable from reward-to-go: mean return 133 against 100"),
    ],
)
def test_the_verdict_is_the_intervals(returns: tuple[float, ...], told: str) -> None:
    said = sentence(measured(returns=returns), BEFORE, None)
    assert said.startswith(told) and "95 % interval" in said and said.endswith(".") and said.count(". ") == 0


def test_a_difference_and_its_interval_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, s/√n = 1/√3, t = 4.303."""
    said = sentence(measured(returns=(101.0, 112.0, 93.0)), BEFORE, None)
    assert "a difference of +2 (95 % interval −0.484 … +4.48)" in said


def test_one_seed_decides_nothing() -> None:
    said = sentence(measured(returns=(400.0,), noise=(10.0,)), measured("reward-to-go", (100.0,), noise=(20.0,)), None)
    assert "in one seed, which decides nothing: mean return 400 against 100" in said
    assert "better" not in said and "0.5 times the one before, in one seed" in said


def test_only_seeds_of_both_are_compared() -> None:
    said = sentence(measured(returns=(500.0, 511.0)), BEFORE, None)
    assert "mean return 506 against 105" in said
    assert "no seed has a return of both" in sentence(measured(returns=()), BEFORE, None)


@pytest.mark.parametrize(
    ("reached", "before", "told"),
    [
        ((None, None, None), (None, None, None), "no seed of either reaches a return of 475"),
        (
            (5000.0, None, 7000.0),
            (None,) * 3,
            "475 is reached by 2 of 3 seeds, after 6,000 steps in the median (before: by none of 3 seeds)",
        ),
        ((5000.0, 90_000.0, 7000.0), (None,) * 3, "475 is reached by 3 of 3 seeds, after 7,000 steps in the median"),
        (
            (None,) * 3,
            (900.0, None, None),
            "reached by none of 3 seeds (before: by 1 of 3 seeds, after 900 steps in the median)",
        ),
    ],
)
def test_who_reaches_the_threshold(
    reached: tuple[float | None, ...], before: tuple[float | None, ...], told: str
) -> None:
    assert told in sentence(measured(reached=reached), measured("reward-to-go", reached=before), 475.0)
    assert "475" not in sentence(measured(reached=reached), measured("reward-to-go", reached=before), None)


@pytest.mark.parametrize(
    ("noise", "told"),
    [
        ((500.0, 550.0, 450.0), "its gradient's noise scale is 0.5 times the one before (95 % interval 0.5 … 0.5)"),
        ((3000.0, 100.0, 900.0), "is not distinguishable from the one before, 0.65 times the one before"),
        ((1000.0, 1100.0, 900.0), "its gradient is estimated as before, with a noise scale of 1,000 steps"),
        ((), "its gradient's noise cannot be set beside the one before"),
    ],
)
def test_what_happened_to_the_noise(noise: tuple[float, ...], told: str) -> None:
    assert told in sentence(measured(noise=noise), BEFORE, None)


def test_noise_is_compared_where_both_have_one() -> None:
    """Seeds 0 and 2 against seeds 1 and 2: what is left is 450 beside 900."""
    columns = ({0: 100.0, 1: 110.0, 2: 90.0}, {}, {0: 1.0, 2: 450.0}, {})
    assert "noise scale is 0.5 times the one before, in one seed" in sentence(
        Measured("baseline", *columns), Measured("reward-to-go", {}, {}, {1: 7.0, 2: 900.0}, {}), None
    )


def test_how_far_an_update_moves_is_the_median() -> None:
    said = sentence(measured(moved=(0.5, 0.1, 9.0)), BEFORE, None)
    assert "an update moves the policy by 0.5 nats (before: 0.02 nats)" in said
    assert "by 3.3e−05 nats" in opening(measured(moved=(3.31e-5,)), None)  # signs as in the table


def test_runs_that_broke_off_are_told() -> None:
    assert "1 of its runs broke off and counts as far as it went" in sentence(measured(failed=(2,)), BEFORE, None)
    assert "2 of its runs broke off and count as far as they went" in opening(measured(failed=(0, 2)), None)


def test_the_first_rung_has_nothing_before_it() -> None:
    said = opening(measured("R(τ)", reached=(3000.0, None, None)), 475.0)
    assert said == (
        "R(τ) ends at a mean return of 100; a return of 475 is reached by 1 of 3 seeds, after 3,000 steps in the"
        " median; its gradient's noise scale is 1,000 steps; an update moves the policy by 0.02 nats."
    )
    assert opening(measured(returns=(), reached=(), noise=(), moved=()), None) == "Baseline has no return."
